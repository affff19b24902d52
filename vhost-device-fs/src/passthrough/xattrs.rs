//! Extended attributes, if the operator wants them: GETXATTR, SETXATTR, LISTXATTR, REMOVEXATTR, and labels.
//!
//! By way of `/proc`, as the calls take no `O_PATH` descriptor, and files of any type and permission have attributes.
//! Names are the guest's here; what they are on the host is the operator's business (`--xattrmap`).

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, CWD, Mode, XattrFlags};
use rustix::io::Errno;

use super::FileSystem;
use super::host::{ProcPath, stat_descriptor};
use crate::config::Config;
use crate::operations::{Extensions, FsResult, XattrReply};
use crate::xattr_map::HostName;

/// Greatest size of a value or of a list of names in bytes (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX` of Linux).
const XATTR_BYTES_MAX: u32 = 65_536;
/// Greatest length of a name in bytes (`XATTR_NAME_MAX` of Linux).
const XATTR_NAME_BYTES_MAX: usize = 255;
/// The names of POSIX ACLs.
const ACLS: &[u8] = b"system.posix_acl_";
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// Capabilities that a program gets when it is run. The kernel takes them away when the file is changed.
const CAPABILITIES: &[u8] = b"security.capability";

impl FileSystem {
    /// Sets an attribute. `flags` are those of `setxattr(2)`; with `kill_sgid` an ACL takes the set-group-id bit away.
    pub fn set_xattr(
        &self,
        nodeid: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> FsResult<()> {
        self.host.writable()?;
        self.offered()?;
        let on_host = self.host_name(name)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let inode = self.tables().resolve(nodeid)?;
        let _changing = self.changing();
        let path = ProcPath::new(inode.as_fd());
        rustix::fs::setxattr(path.as_c_str(), &*on_host, value, flags)?;
        if kill_sgid && name == ACCESS_ACL {
            // We are in more groups than the caller, so the host does not think of it.
            remove_set_group_id(inode.as_fd())?;
        }
        Ok(())
    }

    /// Reads an attribute of at most `size` bytes; asks for its size if that is 0.
    pub fn get_xattr(&self, nodeid: u64, name: &[u8], size: u32) -> FsResult<XattrReply> {
        self.offered()?;
        let name = match self.host_name(name) {
            // Reading is not forbidden; there just is nothing.
            Err(Errno::PERM) => return Err(Errno::NODATA),
            result => result?,
        };
        let inode = self.tables().resolve(nodeid)?;
        let path = ProcPath::new(inode.as_fd());
        if size == 0 {
            return rustix::fs::getxattr_query(path.as_c_str(), &*name).and_then(size_reply);
        }
        let mut value = buffer(size);
        rustix::fs::getxattr(
            path.as_c_str(),
            &*name,
            rustix::buffer::spare_capacity(&mut value),
        )?;
        Ok(XattrReply::Value(value))
    }

    /// Lists the names in at most `size` bytes; asks for the size of the list if that is 0.
    pub fn list_xattr(&self, nodeid: u64, size: u32) -> FsResult<XattrReply> {
        self.offered()?;
        let inode = self.tables().resolve(nodeid)?;
        let path = ProcPath::new(inode.as_fd());
        // All of them: how many the guest sees of them is not known before.
        let mut on_host = buffer(XATTR_BYTES_MAX);
        rustix::fs::listxattr(
            path.as_c_str(),
            rustix::buffer::spare_capacity(&mut on_host),
        )?;
        let names = self.seen_by_guest(on_host);
        if size == 0 {
            size_reply(names.len())
        } else if names.len() as u64 > u64::from(size) {
            Err(Errno::RANGE)
        } else {
            Ok(XattrReply::Value(names))
        }
    }

    /// Removes an attribute.
    pub fn remove_xattr(&self, nodeid: u64, name: &[u8]) -> FsResult<()> {
        self.host.writable()?;
        self.offered()?;
        let name = self.host_name(name)?;
        let inode = self.tables().resolve(nodeid)?;
        let _changing = self.changing();
        rustix::fs::removexattr(ProcPath::new(inode.as_fd()).as_c_str(), &*name)
    }

    /// Gives what was just made the label that came with the request.
    pub(super) fn label(&self, made: BorrowedFd<'_>, extensions: Extensions<'_>) -> FsResult<()> {
        let Some(context) = extensions.security_context else {
            return Ok(());
        };
        let name = self.host_name(context.name)?;
        let path = ProcPath::new(made);
        rustix::fs::setxattr(path.as_c_str(), &*name, context.value, XattrFlags::empty())
    }

    /// Takes away the capabilities of a regular file that is about to be changed, if they are not where the host's kernel
    /// would look for them.
    pub(super) fn drop_remapped_capabilities(&self, file: BorrowedFd<'_>) -> FsResult<()> {
        let Some(name) = &self.remapped_capabilities else {
            return Ok(());
        };
        match rustix::fs::removexattr(ProcPath::new(file).as_c_str(), name.as_slice()) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// `ENOSYS`, after which the guest does not ask again, if the operator does not want attributes.
    fn offered(&self) -> FsResult<()> {
        if self.host.config.xattr {
            Ok(())
        } else {
            Err(Errno::NOSYS)
        }
    }

    /// What the guest's `name` is on the host; `ERANGE` or `EINVAL` for one that is none, `EOPNOTSUPP` or `EPERM` for one that
    /// the guest may not use.
    fn host_name<'a>(&self, name: &'a [u8]) -> FsResult<Cow<'a, [u8]>> {
        if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX {
            return Err(Errno::RANGE);
        }
        if name.contains(&0) {
            return Err(Errno::INVAL);
        }
        let on_host = match &self.host.config.xattr_map {
            None => Cow::Borrowed(name),
            Some(map) => match map.to_host(name) {
                HostName::Named(on_host) => on_host,
                HostName::Denied => return Err(Errno::PERM),
                HostName::Unsupported => return Err(Errno::OPNOTSUPP),
            },
        };
        if on_host.len() > XATTR_NAME_BYTES_MAX {
            Err(Errno::RANGE)
        } else if (name.starts_with(ACLS) || on_host.starts_with(ACLS)) && !self.acls() {
            // A guest that does not heed ACLs must not set some that only the host would.
            Err(Errno::OPNOTSUPP)
        } else {
            Ok(on_host)
        }
    }

    /// Of a list of the host's names, those that the guest sees, as it sees them.
    fn seen_by_guest(&self, on_host: Vec<u8>) -> Vec<u8> {
        let map = self.host.config.xattr_map.as_ref();
        let acls = self.acls();
        if map.is_none() && acls {
            return on_host;
        }
        let mut seen = Vec::with_capacity(on_host.len());
        let names = on_host.split(|byte| *byte == 0);
        for name in names.filter(|name| !name.is_empty()) {
            let in_guest = map.map_or(Some(name), |map| map.to_guest(name));
            let is_acl = |name: &[u8]| name.starts_with(ACLS);
            if let Some(in_guest) = in_guest
                && (acls || !is_acl(name) && !is_acl(in_guest))
            {
                seen.extend_from_slice(in_guest);
                seen.push(0);
            }
        }
        seen
    }
}

/// The name on the host of what is `security.capability` in the guest, if it is another one.
pub(super) fn remapped_capabilities(config: &Config) -> Option<Vec<u8>> {
    match config.xattr_map.as_ref()?.to_host(CAPABILITIES) {
        HostName::Named(name) if *name != *CAPABILITIES => Some(name.into_owned())
            // No file has one that is longer.
            .filter(|name| name.len() <= XATTR_NAME_BYTES_MAX),
        HostName::Named(_) | HostName::Denied | HostName::Unsupported => None,
    }
}

fn remove_set_group_id(inode: BorrowedFd<'_>) -> FsResult<()> {
    let mode = Mode::from_raw_mode(stat_descriptor(inode)?.stx_mode.into());
    if !mode.contains(Mode::SGID) {
        return Ok(());
    }
    let path = ProcPath::new(inode);
    rustix::fs::chmodat(CWD, path.as_c_str(), mode - Mode::SGID, AtFlags::empty())
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
