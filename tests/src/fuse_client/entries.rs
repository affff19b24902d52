//! Requests about entries and nodes: lookup, attributes, names, links, extended attributes.

use anyhow::Context;
use vhost_device_fs::fuse::abi::{
    AccessIn, Attr, AttrOut, BatchForgetIn, CreateIn, EntryOut, ForgetIn, ForgetOne,
    GETATTR_HANDLE, GetAttrIn, GetXattrIn, GetXattrOut, InitIn, InitInExtension, InitOut, LinkIn,
    MAJOR_VERSION, MINOR_VERSION, MkDirIn, MkNodIn, Opcode, OpenOut, Rename2In, RenameIn,
    SetAttrIn, SetXattrIn, StatFsOut, init,
};
use vhost_device_fs::fuse::wire::Wire;

use super::{Answer, Client, ROOT, c_string, encode, whole};

/// What INIT is asked with: the newest version, and these flags of [`init`] beside `INIT_EXT`.
pub fn init_arguments(flags: u64) -> Vec<u8> {
    let flags = flags | init::INIT_EXT;
    let low = u32::try_from(flags & u64::from(u32::MAX)).unwrap_or_default();
    let arguments = InitIn {
        major: MAJOR_VERSION,
        minor: MINOR_VERSION,
        max_readahead: 1 << 17,
        flags: low,
    };
    let extension = InitInExtension {
        flags2: u32::try_from(flags >> 32).unwrap_or_default(),
        unused: [0; 11],
    };
    [encode(&arguments), encode(&extension)].concat()
}

impl Client {
    /// INIT with [`init_arguments`].
    pub fn init(&mut self, flags: u64) -> Answer<InitOut> {
        self.ask(Opcode::Init, ROOT, &init_arguments(flags))
    }

    /// LOOKUP; the caller now owes one FORGET.
    pub fn lookup(&mut self, parent: u64, name: impl AsRef<[u8]>) -> Answer<EntryOut> {
        self.ask(Opcode::Lookup, parent, &c_string(name))
    }

    /// LOOKUP of every component of `path`, from the root.
    pub fn walk(&mut self, path: &str) -> Answer<EntryOut> {
        let mut entry = EntryOut {
            nodeid: ROOT,
            ..EntryOut::default()
        };
        for name in path.split('/') {
            entry = self.lookup(entry.nodeid, name)?;
        }
        Ok(entry)
    }

    /// FORGET, which has no answer; returns when the device has taken it.
    pub fn forget(&mut self, nodeid: u64, lookups: u64) -> Answer<()> {
        let body = encode(&ForgetIn { nlookup: lookups });
        self.tell(Opcode::Forget, nodeid, &body)
    }

    /// `BATCH_FORGET` of pairs of nodeid and count.
    pub fn batch_forget(&mut self, nodes: &[(u64, u64)]) -> Answer<()> {
        let count = u32::try_from(nodes.len()).context("too many nodes")?;
        let mut body = encode(&BatchForgetIn { count, padding: 0 });
        for &(nodeid, nlookup) in nodes {
            ForgetOne { nodeid, nlookup }.append(&mut body);
        }
        self.tell(Opcode::BatchForget, 0, &body)
    }

    /// GETATTR, by handle if there is one.
    pub fn get_attr(&mut self, nodeid: u64, handle: Option<u64>) -> Answer<Attr> {
        let flags = handle.map_or(0, |_| GETATTR_HANDLE);
        let arguments = GetAttrIn {
            flags,
            padding: 0,
            handle: handle.unwrap_or_default(),
        };
        let AttrOut { attr, .. } = self.ask(Opcode::GetAttr, nodeid, &encode(&arguments))?;
        Ok(attr)
    }

    /// SETATTR of what `arguments.valid` says.
    pub fn set_attr(&mut self, nodeid: u64, arguments: &SetAttrIn) -> Answer<Attr> {
        let AttrOut { attr, .. } = self.ask(Opcode::SetAttr, nodeid, &encode(arguments))?;
        Ok(attr)
    }

    /// READLINK.
    pub fn read_link(&mut self, nodeid: u64) -> Answer<Vec<u8>> {
        self.call(Opcode::ReadLink, nodeid, &[])
    }

    /// SYMLINK named `name` to `target`.
    pub fn symlink(
        &mut self,
        parent: u64,
        name: impl AsRef<[u8]>,
        target: impl AsRef<[u8]>,
    ) -> Answer<EntryOut> {
        let body = [c_string(name), c_string(target)].concat();
        self.ask(Opcode::Symlink, parent, &body)
    }

    /// MKNOD.
    pub fn mk_nod(
        &mut self,
        parent: u64,
        name: impl AsRef<[u8]>,
        mode: u32,
        rdev: u32,
    ) -> Answer<EntryOut> {
        let arguments = MkNodIn {
            mode,
            rdev,
            umask: 0,
            padding: 0,
        };
        self.ask(
            Opcode::MkNod,
            parent,
            &[encode(&arguments), c_string(name)].concat(),
        )
    }

    /// MKDIR.
    pub fn mk_dir(&mut self, parent: u64, name: impl AsRef<[u8]>, mode: u32) -> Answer<EntryOut> {
        let body = [encode(&MkDirIn { mode, umask: 0 }), c_string(name)].concat();
        self.ask(Opcode::MkDir, parent, &body)
    }

    /// UNLINK.
    pub fn unlink(&mut self, parent: u64, name: impl AsRef<[u8]>) -> Answer<()> {
        self.tell(Opcode::Unlink, parent, &c_string(name))
    }

    /// RMDIR.
    pub fn rm_dir(&mut self, parent: u64, name: impl AsRef<[u8]>) -> Answer<()> {
        self.tell(Opcode::RmDir, parent, &c_string(name))
    }

    /// RENAME, or RENAME2 if there are flags.
    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Answer<()> {
        let names = [c_string(from.1), c_string(to.1)].concat();
        let (opcode, arguments) = if flags == 0 {
            (Opcode::Rename, encode(&RenameIn { new_parent: to.0 }))
        } else {
            (
                Opcode::Rename2,
                encode(&Rename2In {
                    new_parent: to.0,
                    flags,
                    padding: 0,
                }),
            )
        };
        self.tell(opcode, from.0, &[arguments, names].concat())
    }

    /// LINK of `nodeid` as `name` in `parent`.
    pub fn link(&mut self, nodeid: u64, parent: u64, name: impl AsRef<[u8]>) -> Answer<EntryOut> {
        let body = [encode(&LinkIn { old_nodeid: nodeid }), c_string(name)].concat();
        self.ask(Opcode::Link, parent, &body)
    }

    /// CREATE: an entry and an open file.
    pub fn create(
        &mut self,
        parent: u64,
        name: impl AsRef<[u8]>,
        flags: u32,
        mode: u32,
    ) -> Answer<(EntryOut, OpenOut)> {
        let arguments = CreateIn {
            flags,
            mode,
            umask: 0,
            open_flags: 0,
        };
        let body = [encode(&arguments), c_string(name)].concat();
        let reply = self.call(Opcode::Create, parent, &body)?;
        let mut rest = reply.as_slice();
        let entry = EntryOut::take(&mut rest).context("CREATE without entry")?;
        Ok((entry, whole(rest)?))
    }

    /// STATFS.
    pub fn stat_fs(&mut self, nodeid: u64) -> Answer<StatFsOut> {
        self.ask(Opcode::StatFs, nodeid, &[])
    }

    /// SETXATTR.
    pub fn set_xattr(&mut self, nodeid: u64, name: &str, value: &[u8]) -> Answer<()> {
        let size = u32::try_from(value.len()).context("too long a value")?;
        let arguments = encode(&SetXattrIn { size, flags: 0 });
        let body = [&arguments, &c_string(name), value].concat();
        self.tell(Opcode::SetXattr, nodeid, &body)
    }

    /// GETXATTR, asking for the size first, as programs do.
    pub fn get_xattr(&mut self, nodeid: u64, name: &str) -> Answer<Vec<u8>> {
        let body = |size| [encode(&GetXattrIn { size, padding: 0 }), c_string(name)].concat();
        let GetXattrOut { size, .. } = self.ask(Opcode::GetXattr, nodeid, &body(0))?;
        self.call(Opcode::GetXattr, nodeid, &body(size))
    }

    /// LISTXATTR, asking for the size first.
    pub fn list_xattr(&mut self, nodeid: u64) -> Answer<Vec<u8>> {
        let body = |size| encode(&GetXattrIn { size, padding: 0 });
        let GetXattrOut { size, .. } = self.ask(Opcode::ListXattr, nodeid, &body(0))?;
        self.call(Opcode::ListXattr, nodeid, &body(size))
    }

    /// REMOVEXATTR.
    pub fn remove_xattr(&mut self, nodeid: u64, name: &str) -> Answer<()> {
        self.tell(Opcode::RemoveXattr, nodeid, &c_string(name))
    }

    /// ACCESS.
    pub fn access(&mut self, nodeid: u64, mask: u32) -> Answer<()> {
        self.tell(
            Opcode::Access,
            nodeid,
            &encode(&AccessIn { mask, padding: 0 }),
        )
    }
}
