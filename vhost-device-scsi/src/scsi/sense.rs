//! Sense data: why a command failed (SPC-5, 4.5).
//!
//! Knows both formats; does not know which commands there are.

/// Sense keys (SPC-5, table 48).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Nothing to report.
    NoSense = 0x0,
    /// The unit cannot be used for now.
    NotReady = 0x2,
    /// The medium is damaged.
    MediumError = 0x3,
    /// The device is damaged.
    HardwareError = 0x4,
    /// The command makes no sense.
    IllegalRequest = 0x5,
    /// Something happened that the initiator has not asked for.
    UnitAttention = 0x6,
    /// The medium may not be written.
    DataProtect = 0x7,
    /// The command was aborted.
    AbortedCommand = 0xb,
    /// Data differs from the medium.
    Miscompare = 0xe,
}

impl Key {
    /// From its number; what is not known is a hardware error.
    pub fn from_code(code: u8) -> Self {
        [
            Self::NoSense,
            Self::NotReady,
            Self::MediumError,
            Self::HardwareError,
            Self::IllegalRequest,
            Self::UnitAttention,
            Self::DataProtect,
            Self::AbortedCommand,
            Self::Miscompare,
        ]
        .into_iter()
        .find(|key| *key as u8 == code)
        .unwrap_or(Self::HardwareError)
    }
}

/// The byte of the command or of its parameter list that is wrong (SPC-5, 4.5.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldPointer {
    /// In the command descriptor block; otherwise in the parameter list.
    pub in_command: bool,
    /// Byte.
    pub byte: u16,
    /// Most significant bit of the field, if that is known.
    pub bit: Option<u8>,
}

/// Sense data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: Key,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
    /// The INFORMATION field: a logical block address, or an offset for a miscompare.
    pub information: Option<u64>,
    /// What is wrong with an illegal request.
    pub field: Option<FieldPointer>,
    /// It is about an earlier command, which was answered with GOOD.
    pub deferred: bool,
}

/// Length of fixed format sense data, in bytes.
pub const FIXED_BYTES: usize = 18;

impl Sense {
    /// Nothing to report.
    pub const NONE: Self = Self::new(Key::NoSense, 0, 0);
    /// Unknown operation code.
    pub const INVALID_COMMAND: Self = Self::new(Key::IllegalRequest, 0x20, 0x00);
    /// Beyond the last block.
    pub const OUT_OF_RANGE: Self = Self::new(Key::IllegalRequest, 0x21, 0x00);
    /// A field of the command.
    pub const INVALID_FIELD: Self = Self::new(Key::IllegalRequest, 0x24, 0x00);
    /// No such logical unit.
    pub const NO_SUCH_UNIT: Self = Self::new(Key::IllegalRequest, 0x25, 0x00);
    /// A field of the parameter list.
    pub const INVALID_PARAMETER: Self = Self::new(Key::IllegalRequest, 0x26, 0x00);
    /// The parameter list is too short or too long.
    pub const PARAMETER_LENGTH: Self = Self::new(Key::IllegalRequest, 0x1a, 0x00);
    /// The unit is read-only.
    pub const WRITE_PROTECTED: Self = Self::new(Key::DataProtect, 0x27, 0x00);
    /// The unit was stopped, or its file belongs to another.
    pub const NOT_READY: Self = Self::new(Key::NotReady, 0x04, 0x02);

    /// Sense data without details.
    pub const fn new(key: Key, asc: u8, ascq: u8) -> Self {
        Self {
            key,
            asc,
            ascq,
            information: None,
            field: None,
            deferred: false,
        }
    }

    /// With a logical block address, or an offset.
    #[must_use]
    pub const fn about(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// With the byte of the command, and perhaps the bit, that is wrong.
    #[must_use]
    pub const fn at_command(mut self, byte: u16, bit: Option<u8>) -> Self {
        self.field = Some(FieldPointer {
            in_command: true,
            byte,
            bit,
        });
        self
    }

    /// With the byte of the parameter list that is wrong.
    #[must_use]
    pub const fn at_parameter(mut self, byte: u16, bit: Option<u8>) -> Self {
        self.field = Some(FieldPointer {
            in_command: false,
            byte,
            bit,
        });
        self
    }

    /// The bytes, in descriptor format (SPC-5, 4.5.2) or in fixed format (4.5.3).
    pub fn encode(&self, descriptor: bool) -> Vec<u8> {
        if descriptor {
            self.encode_descriptor()
        } else {
            self.encode_fixed()
        }
    }

    fn response_code(&self, current: u8) -> u8 {
        current + u8::from(self.deferred)
    }

    fn encode_fixed(&self) -> Vec<u8> {
        let information = self.information.and_then(|value| u32::try_from(value).ok());
        let valid = if information.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![self.response_code(0x70) | valid, 0, self.key as u8];
        bytes.extend_from_slice(&information.unwrap_or(0).to_be_bytes());
        bytes.push(10); // bytes that follow
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&[self.asc, self.ascq, 0]);
        bytes.extend_from_slice(&self.key_specific());
        bytes
    }

    fn encode_descriptor(&self) -> Vec<u8> {
        let mut bytes = vec![
            self.response_code(0x72),
            self.key as u8,
            self.asc,
            self.ascq,
            0,
            0,
            0,
        ];
        let mut descriptors = Vec::new();
        if let Some(information) = self.information {
            descriptors.extend_from_slice(&[0x00, 0x0a, 0x80, 0]);
            descriptors.extend_from_slice(&information.to_be_bytes());
        }
        if self.field.is_some() {
            descriptors.extend_from_slice(&[0x02, 0x06, 0, 0]);
            descriptors.extend_from_slice(&self.key_specific());
            descriptors.push(0);
        }
        bytes.push(u8::try_from(descriptors.len()).unwrap_or(0));
        bytes.extend_from_slice(&descriptors);
        bytes
    }

    /// Sense key specific data (SPC-5, table 51): valid bit, and the field pointer.
    fn key_specific(&self) -> [u8; 3] {
        let Some(field) = self.field else {
            return [0; 3];
        };
        let [high, low] = field.byte.to_be_bytes();
        let command = if field.in_command { 0x40 } else { 0 };
        let bit = field.bit.map_or(0, |bit| 0x08 | bit & 7);
        [0x80 | command | bit, high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_format() {
        let bytes = Sense::INVALID_FIELD.at_command(2, Some(3)).encode(false);
        let expected = [
            0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcb, 0, 2,
        ];
        assert_eq!(bytes, expected);
        assert_eq!(bytes.len(), FIXED_BYTES);
        let about = Sense::OUT_OF_RANGE.about(0x0102_0304).encode(false);
        assert_eq!(about[..7], [0xf0, 0, 5, 1, 2, 3, 4]);
        let too_large = Sense::OUT_OF_RANGE.about(1 << 40).encode(false);
        assert_eq!(too_large[..7], [0x70, 0, 5, 0, 0, 0, 0]);
    }

    #[test]
    fn descriptor_format() {
        let deferred = Sense {
            deferred: true,
            ..Sense::new(Key::MediumError, 0x0c, 0).about(5)
        };
        let expected = [
            0x73, 3, 0x0c, 0, 0, 0, 0, 12, 0, 0x0a, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 5,
        ];
        assert_eq!(deferred.encode(true), expected);
        let field = Sense::INVALID_PARAMETER.at_parameter(7, None).encode(true);
        assert_eq!(field[7..], [8, 2, 6, 0, 0, 0x80, 0, 7, 0]);
    }
}
