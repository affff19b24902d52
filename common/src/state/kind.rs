//! Which device a state stream belongs to.
//!
//! Knows the numbers, not the devices.

use std::fmt;

/// A device whose state a stream may hold, numbered as in the virtio specification (1.3, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum DeviceKind {
    /// SCSI host.
    Scsi = 8,
    /// GPU.
    Gpu = 16,
    /// File system.
    Fs = 26,
    /// No device: the connection that one daemon leaves to the next.
    Connection = 0xffe0,
    /// The test device, far from every number that virtio has given out.
    Null = 0xfff0,
}

/// A number that is not one of [`DeviceKind`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a device kind that is known here")]
pub struct UnknownDeviceKind(pub u16);

impl DeviceKind {
    /// The number in the stream: the virtio device id.
    pub const fn as_u16(self) -> u16 {
        self as u16
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scsi => "scsi",
            Self::Gpu => "gpu",
            Self::Fs => "fs",
            Self::Connection => "connection",
            Self::Null => "null",
        }
    }

    /// The kind with this number, if there is one.
    pub const fn from_u16(number: u16) -> Option<Self> {
        match number {
            8 => Some(Self::Scsi),
            16 => Some(Self::Gpu),
            26 => Some(Self::Fs),
            0xffe0 => Some(Self::Connection),
            0xfff0 => Some(Self::Null),
            _ => None,
        }
    }
}

impl TryFrom<u16> for DeviceKind {
    type Error = UnknownDeviceKind;

    fn try_from(number: u16) -> Result<Self, UnknownDeviceKind> {
        Self::from_u16(number).ok_or(UnknownDeviceKind(number))
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_number_and_no_other_number_has_a_kind() {
        let known: Vec<(u16, String)> = (0..=u16::MAX)
            .filter_map(|number| DeviceKind::try_from(number).ok())
            .map(|kind| (kind.as_u16(), kind.to_string()))
            .collect();
        let expected = [
            (8, "scsi"),
            (16, "gpu"),
            (26, "fs"),
            (0xffe0, "connection"),
            (0xfff0, "null"),
        ];
        assert_eq!(
            known,
            expected.map(|(number, name)| (number, name.to_owned()))
        );
    }
}
