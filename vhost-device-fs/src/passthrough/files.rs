//! Open files and directories: OPEN, CREATE, READ, WRITE, FSYNC, RELEASE, READDIR and what else needs a handle.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use common::Placement;
use common::request::{Reader, Writer};
use rustix::fs::{AtFlags, CWD, FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::FileSystem;
use super::close::close;
use super::directory::Directory;
use super::flags::{GuestFlags, host_flags};
use super::handle::{Handle, Target};
use super::host::{self, ProcPath};
use super::tables::Tables;
use crate::config::Cache;
use crate::operations::{
    Caller, DirectoryEntry, Entry, Extensions, FsResult, OpenReply, WriteOptions,
};
use crate::store::{FileKind, Name};

impl FileSystem {
    /// Opens a regular file.
    pub fn open(
        &self,
        _caller: &Caller,
        nodeid: u64,
        flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<OpenReply> {
        let tables = self.tables();
        self.open_known(&tables, nodeid, flags, kill_suidgid)
    }

    fn open_known(
        &self,
        tables: &Tables,
        nodeid: u64,
        flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<OpenReply> {
        let truncate = OFlags::from_bits_retain(flags).contains(OFlags::TRUNC);
        let flags = GuestFlags::from_guest(flags)?;
        if truncate || flags.contains(GuestFlags::WRITE) {
            self.host.writable()?;
        }
        match tables.nodes.traits(nodeid)?.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::ISDIR),
            FileKind::Symlink => return Err(Errno::LOOP),
            // The guest serves these itself; what they are on the host is none of its business.
            FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharacterDevice
            | FileKind::BlockDevice => return Err(Errno::NXIO),
        }
        let _room = tables.reserve_descriptors(1)?;
        let descriptor = tables.resolve(nodeid)?;
        let mut host = self.host_flags(flags);
        let _changing = truncate.then(|| self.changing());
        if truncate {
            host |= OFlags::TRUNC;
            self.drop_remapped_capabilities(descriptor.as_fd())?;
        }
        let file = self
            .credentials
            .removing_privileges(truncate && kill_suidgid, || {
                self.host.reopen(descriptor.as_fd(), host)
            })?;
        self.opened(tables, nodeid, flags, Target::File(file))
    }

    /// The one way from the guest's flags to the host's, as this session was agreed on.
    fn host_flags(&self, guest: GuestFlags) -> OFlags {
        let writeback = self.session().is_some_and(|session| session.writeback());
        host_flags(guest, writeback, &self.host.config)
    }

    fn opened(
        &self,
        tables: &Tables,
        nodeid: u64,
        flags: GuestFlags,
        target: Target,
    ) -> FsResult<OpenReply> {
        let mount = tables.nodes.traits(nodeid)?.mount;
        // FLUSH is what gives back locks of fcntl(2).
        let locks = self.session().is_some_and(|session| session.posix_locks());
        tables.nodes.hold(nodeid)?;
        let is_directory = matches!(target, Target::Directory(_));
        let cache = self.host.config.cache;
        let cached = cache == Cache::Always || (cache == Cache::Metadata && is_directory);
        Ok(OpenReply {
            handle: tables.handles.insert(Handle::new(nodeid, flags, target)),
            keep_cache: cached,
            cache_dir: cached && is_directory,
            direct_io: !is_directory && matches!(cache, Cache::Never | Cache::Metadata),
            no_flush: !is_directory && !locks && tables.mounts.closes_silently(mount),
        })
    }

    /// Makes a regular file, if it is not there yet, and opens it.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are the fields of one FUSE request"
    )]
    pub fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        flags: u32,
        mode: u32,
        umask: u32,
        extensions: Extensions<'_>,
    ) -> FsResult<(Entry, OpenReply)> {
        self.host.writable()?;
        let tables = self.tables();
        let name = Name::new(name)?;
        let directory = tables.resolve(parent)?;
        let guest = GuestFlags::from_guest(flags)?;
        let room = tables.reserve_descriptors(1)?;
        let host = self.host_flags(guest) | OFlags::CREATE | OFlags::EXCL;
        let _names = tables.names.keep(parent, name);
        let _changing = self.changing();
        let made = self.creating(caller, mode, umask, |permissions| {
            host::open_beneath(directory.as_fd(), name, host, permissions)
        });
        let file = match made {
            Ok(file) => file,
            // Somebody else made it since the guest looked.
            Err(Errno::EXIST) if !OFlags::from_bits_retain(flags).contains(OFlags::EXCL) => {
                drop(room); // for the one that is opened instead
                let entry = self.enter(&tables, directory.as_fd(), parent, name)?;
                return match self.open_known(&tables, entry.nodeid, flags, false) {
                    Ok(reply) => Ok((entry, reply)),
                    Err(errno) => {
                        tables.nodes.forget(entry.nodeid, 1);
                        Err(errno)
                    }
                };
            }
            Err(errno) => return Err(errno),
        };
        if let Err(errno) = self.label(file.as_fd(), extensions) {
            rustix::fs::unlinkat(&directory, name.bytes(), AtFlags::empty())?;
            return Err(errno);
        }
        let entry = self.enter_descriptor(&tables, &file, parent, name)?;
        let reply = self.opened(&tables, entry.nodeid, guest, Target::File(file))?;
        Ok((entry, reply))
    }

    /// Makes a regular file without a name in the directory `parent`, and opens it.
    pub fn temporary_file(
        &self,
        caller: &Caller,
        parent: u64,
        flags: u32,
        mode: u32,
        umask: u32,
        extensions: Extensions<'_>,
    ) -> FsResult<(Entry, OpenReply)> {
        self.host.writable()?;
        let tables = self.tables();
        let directory = tables.resolve(parent)?;
        let guest = GuestFlags::from_guest(flags)?;
        // For the handle, and for the way to an inode without a name.
        let _room = tables.reserve_descriptors(2)?;
        // Without O_EXCL: the guest may give it a name with LINK.
        let host = self.host_flags(guest) | OFlags::TMPFILE;
        let _changing = self.changing();
        let file = self.creating(caller, mode, umask, |permissions| {
            let path = ProcPath::new(directory.as_fd());
            rustix::fs::openat(CWD, path.as_c_str(), host, permissions)
        })?;
        self.label(file.as_fd(), extensions)?;
        let (sighting, stat) = tables.see_descriptor(file.as_fd())?;
        let pin = self.pin(file.as_fd())?;
        let entry = self.entry(&tables, sighting, &stat, None)?;
        tables.nodes.pin(entry.nodeid, pin);
        let reply = self.opened(&tables, entry.nodeid, guest, Target::File(file))?;
        Ok((entry, reply))
    }

    /// Another descriptor (`O_PATH`) of the same inode.
    fn pin(&self, file: BorrowedFd<'_>) -> FsResult<OwnedFd> {
        self.host.reopen(file, OFlags::PATH)
    }

    /// Reads up to `size` bytes at `offset`, straight into the reply.
    pub fn read(
        &self,
        handle: u64,
        offset: u64,
        size: usize,
        writer: &mut Writer<'_>,
    ) -> FsResult<usize> {
        let handle = self.tables().handles.get(handle)?;
        writer
            .read_from_file(handle.file()?, offset, size)
            .map_err(|error| errno(&error))
    }

    /// Writes up to `size` bytes, straight from the request.
    pub fn write(
        &self,
        handle: u64,
        offset: u64,
        size: usize,
        options: WriteOptions,
        reader: &mut Reader<'_>,
    ) -> FsResult<usize> {
        let handle = self.tables().handles.get(handle)?;
        let file = handle.file()?;
        let _changing = self.changing();
        self.drop_remapped_capabilities(file)?;
        // What the guest had cached knows where it belongs, even in append mode.
        let placement = if options.append && !options.cached {
            Placement::Append
        } else {
            Placement::At(offset)
        };
        self.credentials
            .removing_privileges(options.kill_suidgid, || {
                reader
                    .write_to_file(file, placement, size)
                    .map_err(|error| errno(&error))
            })
    }

    /// A descriptor of the file is being closed in the guest: the host may have errors to tell that it kept, if it is of a sort
    /// that does.
    pub fn flush(&self, nodeid: u64, handle: u64, lock_owner: u64) -> FsResult<()> {
        let tables = self.tables();
        let handle = tables.handles.get(handle)?;
        self.flush_locks(&tables, nodeid, lock_owner)?;
        let traits = tables.nodes.traits(handle.nodeid);
        if traits.is_ok_and(|traits| tables.mounts.closes_silently(traits.mount)) {
            return handle.descriptor().map(drop);
        }
        let again = rustix::io::fcntl_dupfd_cloexec(handle.descriptor()?, 0)?;
        close(again)
    }

    /// The guest closed the file.
    pub fn release(&self, handle: u64) -> FsResult<()> {
        let tables = self.tables();
        let released = tables.handles.remove(handle)?;
        self.release_locks(&tables, released.nodeid, handle);
        tables.nodes.release(released.nodeid);
        Ok(())
    }

    /// Puts the data of a file on stable storage, and unless `datasync` all of its attributes.
    pub fn fsync(&self, handle: u64, datasync: bool) -> FsResult<()> {
        let handle = self.tables().handles.get(handle)?;
        sync(handle.descriptor()?, datasync)
    }

    /// Reserves or frees space of a file.
    pub fn fallocate(&self, handle: u64, mode: u32, offset: u64, length: u64) -> FsResult<()> {
        let handle = self.tables().handles.get(handle)?;
        let _changing = self.changing();
        let mode = FallocateFlags::from_bits_retain(mode);
        let file = handle.file()?;
        self.drop_remapped_capabilities(file)?;
        rustix::fs::fallocate(file, mode, offset, length)
    }

    /// Finds data or a hole (`SEEK_DATA`, `SEEK_HOLE`) from `offset` on.
    pub fn seek(&self, handle: u64, offset: u64, whence: u32) -> FsResult<u64> {
        let handle = self.tables().handles.get(handle)?;
        // The other ways to seek would only move a position that nobody uses.
        let target = match whence {
            3 => SeekFrom::Data(offset),
            4 => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        rustix::fs::seek(handle.file()?, target)
    }

    /// Copies within the host.
    pub fn copy_file_range(
        &self,
        handle_in: u64,
        mut offset_in: u64,
        handle_out: u64,
        mut offset_out: u64,
        length: u64,
        flags: u64,
    ) -> FsResult<usize> {
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        let tables = self.tables();
        let from = tables.handles.get(handle_in)?;
        let to = tables.handles.get(handle_out)?;
        let _changing = self.changing();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.drop_remapped_capabilities(to.file()?)?;
        rustix::fs::copy_file_range(
            from.file()?,
            Some(&mut offset_in),
            to.file()?,
            Some(&mut offset_out),
            length,
        )
    }

    /// Opens a directory.
    pub fn open_directory(&self, nodeid: u64, flags: u32) -> FsResult<OpenReply> {
        let tables = self.tables();
        let guest = GuestFlags::from_guest(flags)?;
        if tables.nodes.traits(nodeid)?.kind != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        let _room = tables.reserve_descriptors(1)?;
        let descriptor = tables.resolve(nodeid)?;
        let file = self
            .host
            .reopen(descriptor.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.opened(
            &tables,
            nodeid,
            guest,
            Target::Directory(Directory::new(file)),
        )
    }

    /// The guest closed the directory.
    pub fn release_directory(&self, handle: u64) -> FsResult<()> {
        self.release(handle)
    }

    /// Puts a directory on stable storage.
    pub fn fsync_directory(&self, handle: u64, datasync: bool) -> FsResult<()> {
        self.fsync(handle, datasync)
    }

    /// Gives the names of a directory from `offset` on to `visit`, until it refuses one; that one is not used up.
    pub fn read_directory(
        &self,
        nodeid: u64,
        handle: u64,
        offset: u64,
        visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> FsResult<()> {
        let handle = self.tables().handles.get(handle)?;
        if handle.nodeid != nodeid {
            return Err(Errno::BADF);
        }
        handle.directory()?.read(offset, visit)
    }

    /// Puts the whole file system that an inode is on on stable storage.
    pub fn sync_filesystem(&self, nodeid: u64) -> FsResult<()> {
        let tables = self.tables();
        let descriptor = tables.resolve(nodeid)?;
        match tables.nodes.traits(nodeid)?.kind {
            FileKind::Regular | FileKind::Directory => {
                rustix::fs::syncfs(self.host.reopen(descriptor.as_fd(), OFlags::RDONLY)?)
            }
            FileKind::Symlink
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharacterDevice
            | FileKind::BlockDevice => Err(Errno::INVAL),
        }
    }
}

fn sync(file: BorrowedFd<'_>, datasync: bool) -> FsResult<()> {
    if datasync {
        rustix::fs::fdatasync(file)
    } else {
        rustix::fs::fsync(file)
    }
}

/// The number in an error of an operation on a file.
fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
