//! Extended attributes, if the operator wants them: GETXATTR, SETXATTR, LISTXATTR, REMOVEXATTR.
//!
//! By way of `/proc`, as the calls take no `O_PATH` descriptor, and files of any type and permission have attributes.

use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::FileSystem;
use super::host::ProcPath;
use crate::operations::{FsResult, XattrReply};

/// Greatest size of a value or of a list of names in bytes (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX` of Linux).
const XATTR_BYTES_MAX: u32 = 65_536;
/// Greatest length of a name in bytes (`XATTR_NAME_MAX` of Linux).
const XATTR_NAME_BYTES_MAX: usize = 255;

impl FileSystem {
    /// Sets an attribute. `flags` are those of `setxattr(2)`.
    pub fn set_xattr(&self, nodeid: u64, name: &[u8], value: &[u8], flags: u32) -> FsResult<()> {
        self.host.writable()?;
        let name = self.checked(name)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let inode = self.tables().resolve(nodeid)?;
        let _changing = self.changing();
        rustix::fs::setxattr(ProcPath::new(inode.as_fd()).as_c_str(), name, value, flags)
    }

    /// Reads an attribute of at most `size` bytes; asks for its size if that is 0.
    pub fn get_xattr(&self, nodeid: u64, name: &[u8], size: u32) -> FsResult<XattrReply> {
        let name = self.checked(name)?;
        let inode = self.tables().resolve(nodeid)?;
        let path = ProcPath::new(inode.as_fd());
        if size == 0 {
            return rustix::fs::getxattr_query(path.as_c_str(), name).and_then(size_reply);
        }
        let mut value = buffer(size);
        rustix::fs::getxattr(
            path.as_c_str(),
            name,
            rustix::buffer::spare_capacity(&mut value),
        )?;
        Ok(XattrReply::Value(value))
    }

    /// Lists the names in at most `size` bytes; asks for the size of the list if that is 0.
    pub fn list_xattr(&self, nodeid: u64, size: u32) -> FsResult<XattrReply> {
        self.offered()?;
        let inode = self.tables().resolve(nodeid)?;
        let path = ProcPath::new(inode.as_fd());
        if size == 0 {
            return rustix::fs::listxattr_query(path.as_c_str()).and_then(size_reply);
        }
        let mut names = buffer(size);
        rustix::fs::listxattr(path.as_c_str(), rustix::buffer::spare_capacity(&mut names))?;
        Ok(XattrReply::Value(names))
    }

    /// Removes an attribute.
    pub fn remove_xattr(&self, nodeid: u64, name: &[u8]) -> FsResult<()> {
        self.host.writable()?;
        let name = self.checked(name)?;
        let inode = self.tables().resolve(nodeid)?;
        let _changing = self.changing();
        rustix::fs::removexattr(ProcPath::new(inode.as_fd()).as_c_str(), name)
    }

    /// `ENOSYS`, after which the guest does not ask again, if the operator does not want attributes.
    fn offered(&self) -> FsResult<()> {
        if self.host.config.xattr {
            Ok(())
        } else {
            Err(Errno::NOSYS)
        }
    }

    fn checked<'a>(&self, name: &'a [u8]) -> FsResult<&'a [u8]> {
        self.offered()?;
        checked_name(name)
    }
}

/// The name of an attribute that a guest may set; `ERANGE`, `EINVAL` or `EOPNOTSUPP` for others.
pub(super) fn checked_name(name: &[u8]) -> FsResult<&[u8]> {
    if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX {
        Err(Errno::RANGE)
    } else if name.contains(&0) {
        Err(Errno::INVAL)
    } else if name.starts_with(b"system.posix_acl_") {
        // A guest that was not offered ACLs must not set some that only the host would heed.
        Err(Errno::OPNOTSUPP)
    } else {
        Ok(name)
    }
}

/// Room for `size` bytes, or for as many as there can be.
fn buffer(size: u32) -> Vec<u8> {
    Vec::with_capacity(usize::try_from(size.min(XATTR_BYTES_MAX)).unwrap_or(0))
}

fn size_reply(size: usize) -> FsResult<XattrReply> {
    u32::try_from(size)
        .map(XattrReply::Size)
        .map_err(|_| Errno::TOOBIG)
}
