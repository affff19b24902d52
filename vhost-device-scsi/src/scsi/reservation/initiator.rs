//! The name of an initiator, as a `TransportID` (SPC-5, 7.6.4): configured by the operator, never derived from the host, so that a
//! VM keeps it when it moves.
//!
//! Knows two formats: iSCSI names, and SAS addresses.

/// Greatest length of a `TransportID` in bytes (an iSCSI name of 223 characters).
pub const TRANSPORT_ID_MAX: usize = 228;
/// Greatest length of an iSCSI name (RFC 7143, 4.2.7.2).
const NAME_MAX: usize = 223;

/// The name of an initiator, in the form in which it travels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Initiator {
    transport_id: Vec<u8>,
}

/// No name of an initiator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInitiator {
    /// Not a name that is known.
    #[error(
        "{0:?} is neither an iSCSI name (iqn., eui. or naa., at most {NAME_MAX} characters) nor a SAS address (sas: and 16 hexadecimal digits)"
    )]
    Name(String),
    /// Not the bytes of a `TransportID`.
    #[error("{0} bytes are no TransportID")]
    Bytes(usize),
}

impl Initiator {
    /// From an iSCSI name, such as `iqn.2026-01.org.example:vm7`, or a SAS address, such as `sas:5000c50012345678`.
    pub fn parse(name: &str) -> Result<Self, InvalidInitiator> {
        let invalid = || InvalidInitiator::Name(name.to_owned());
        if let Some(address) = name.strip_prefix("sas:") {
            let address = Some(address)
                .filter(|digits| digits.len() == 16)
                .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                .ok_or_else(invalid)?;
            let mut transport_id = vec![0x06, 0, 0, 0];
            transport_id.extend_from_slice(&address.to_be_bytes());
            transport_id.resize(24, 0);
            return Ok(Self { transport_id });
        }
        let is_known = ["iqn.", "eui.", "naa."]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        let is_plain = name.bytes().all(|byte| (0x21..0x7f).contains(&byte));
        if !is_known || !is_plain || name.len() > NAME_MAX {
            return Err(invalid());
        }
        // Ends with a zero, and is a multiple of four and at least 20 bytes long.
        let length = (name.len() + 1).next_multiple_of(4).max(20);
        let mut transport_id = vec![0x05, 0];
        transport_id.extend_from_slice(&u16::try_from(length).unwrap_or(0).to_be_bytes());
        transport_id.extend_from_slice(name.as_bytes());
        transport_id.resize(4 + length, 0);
        Ok(Self { transport_id })
    }

    /// From the bytes of a state or a store.
    pub fn from_transport_id(bytes: &[u8]) -> Result<Self, InvalidInitiator> {
        let well_formed = match bytes {
            [0x06, 0, 0, 0, ..] => bytes.len() == 24,
            [0x05, 0, high, low, name @ ..] => {
                usize::from(u16::from_be_bytes([*high, *low])) == name.len()
                    && name.len() % 4 == 0
                    && (20..=TRANSPORT_ID_MAX - 4).contains(&name.len())
                    && name.last() == Some(&0)
            }
            _ => false,
        };
        if well_formed {
            Ok(Self {
                transport_id: bytes.to_vec(),
            })
        } else {
            Err(InvalidInitiator::Bytes(bytes.len()))
        }
    }

    /// The `TransportID`.
    pub fn transport_id(&self) -> &[u8] {
        &self.transport_id
    }
}

impl std::fmt::Display for Initiator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.transport_id.as_slice() {
            [0x05, _, _, _, name @ ..] => {
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                formatter.write_str(&String::from_utf8_lossy(name))
            }
            [_, _, _, _, address @ ..] => {
                formatter.write_str("sas:")?;
                address
                    .iter()
                    .take(8)
                    .try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_from_their_bytes() {
        for name in [
            "iqn.2026-01.org.example:vm7",
            "naa.5000c50012345678",
            "sas:5000c50012345678",
        ] {
            let initiator = Initiator::parse(name).unwrap();
            assert_eq!(initiator.to_string(), name);
            assert_eq!(
                Initiator::from_transport_id(initiator.transport_id()),
                Ok(initiator)
            );
        }
        let longest = format!("iqn.{}", "x".repeat(219));
        assert_eq!(
            Initiator::parse(&longest).unwrap().transport_id().len(),
            TRANSPORT_ID_MAX
        );
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "vm7", "iqn. x", "sas:12", "sas:xxxxxxxxxxxxxxxx"] {
            assert!(Initiator::parse(name).is_err(), "{name:?}");
        }
        assert!(Initiator::parse(&format!("iqn.{}", "x".repeat(220))).is_err());
        for bytes in [&[][..], &[5, 0, 0, 20, 1], &[6; 24], &[6, 0, 0, 0]] {
            assert!(Initiator::from_transport_id(bytes).is_err());
        }
    }
}
