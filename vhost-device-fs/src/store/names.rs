//! A name in a directory that is safe to give to the host. Knows no directory.

use rustix::io::Errno;

use crate::operations::FsResult;

/// Greatest length of a name in bytes (`NAME_MAX` of Linux).
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// One path component: not empty, not `.` or `..`, without `/` and NUL, at most 255 bytes. Need not be UTF-8.
///
/// The only way to a path that reaches the host: a guest or a state stream that sends anything else is refused here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks `bytes`; `EINVAL` or `ENAMETOOLONG` if they are no name.
    pub(crate) fn new(bytes: &'a [u8]) -> FsResult<Self> {
        if bytes.len() > NAME_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let forbidden = bytes.iter().any(|byte| matches!(byte, b'/' | 0));
        if forbidden || matches!(bytes, b"" | b"." | b"..") {
            return Err(Errno::INVAL);
        }
        Ok(Self(bytes))
    }

    /// The raw bytes.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        for bad in [
            &b""[..],
            b".",
            b"..",
            b"/",
            b"a/b",
            b"/etc/passwd",
            b"../x",
            b"a\0b",
            b"\0",
        ] {
            assert_eq!(Name::new(bad), Err(Errno::INVAL), "{bad:?}");
        }
        assert_eq!(Name::new(&[b'x'; 256]), Err(Errno::NAMETOOLONG));
        for good in [
            &b"a"[..],
            b"...",
            b".x",
            b"x (deleted)",
            b"caf\xe9.txt",
            &[b'x'; 255],
        ] {
            assert_eq!(Name::new(good).map(Name::bytes), Ok(good));
        }
    }
}
