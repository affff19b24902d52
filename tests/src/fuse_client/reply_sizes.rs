//! How much room a reply may need. A guest's kernel knows, because it made the request; `/dev/fuse` does
//! not say, so it is read off the request.

use vhost_device_fs::fuse::abi::{GetXattrIn, InHeader, Opcode, OutHeader, ReadIn};
use vhost_device_fs::fuse::wire::Wire;

/// More than the largest reply of fixed size, that of STATX with 288 bytes.
const FIXED: usize = 512;

/// A link's target is a path, at most 4096 bytes.
const LINK: usize = 4096;

/// Bytes that the reply to `request` can have, its header included; `None` if there is no reply.
pub fn reply_capacity(header: &InHeader, mut arguments: &[u8]) -> Option<usize> {
    let payload = match Opcode::from_number(header.opcode) {
        Some(Opcode::Forget | Opcode::BatchForget) => return None,
        Some(Opcode::Read | Opcode::ReadDir | Opcode::ReadDirPlus) => {
            ReadIn::take(&mut arguments).map_or(0, |read| read.size as usize)
        }
        Some(Opcode::GetXattr | Opcode::ListXattr) => GetXattrIn::take(&mut arguments)
            .map_or(0, |get| get.size as usize)
            .max(FIXED),
        Some(Opcode::ReadLink) => LINK,
        // An ioctl's answer has a size of its own; 4096 is what the kernel allows at most without
        // unrestricted ioctls.
        Some(Opcode::Ioctl) => FIXED + 4096,
        Some(_) | None => FIXED,
    };
    Some(OutHeader::SIZE + payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(opcode: Opcode, arguments: &impl Wire) -> Option<usize> {
        let mut bytes = Vec::new();
        arguments.append(&mut bytes);
        let header = InHeader {
            opcode: opcode.number(),
            ..InHeader::default()
        };
        reply_capacity(&header, &bytes)
    }

    #[test]
    fn data_has_the_size_that_was_asked_for() {
        let read = ReadIn {
            size: 70_000,
            ..ReadIn::default()
        };
        assert_eq!(capacity(Opcode::Read, &read), Some(70_016));
        assert_eq!(capacity(Opcode::ReadDirPlus, &read), Some(70_016));
        let get = GetXattrIn {
            size: 60_000,
            padding: 0,
        };
        assert_eq!(capacity(Opcode::GetXattr, &get), Some(60_016));
        assert_eq!(capacity(Opcode::GetXattr, &0_u64), Some(528));
        assert_eq!(capacity(Opcode::Forget, &1_u64), None);
    }
}
