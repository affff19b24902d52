//! A share of many empty files, and a guest that knows every one of them. Knows nothing of what becomes of that knowledge.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use vhost_device_fs::fuse::abi::{EntryOut, Opcode};
use vhost_device_fs::fuse::wire::Wire;

use crate::fuse_client::{Client, ROOT};

/// Files in a folder; the last folder may have fewer.
const FILES_PER_FOLDER: u32 = 1_000;
/// Requests that are on the ring together.
const AT_ONCE: usize = 100;

/// The folders, each with the numbers of its files.
fn folders(files: u32) -> impl Iterator<Item = (String, std::ops::Range<u32>)> {
    (0..files.div_ceil(FILES_PER_FOLDER)).map(move |folder| {
        let first = folder * FILES_PER_FOLDER;
        let end = files.min(first + FILES_PER_FOLDER);
        (format!("folder-{folder}"), first..end)
    })
}

/// Makes the files below `share`.
pub fn make(share: &Path, files: u32) -> Result<()> {
    for (folder, numbers) in folders(files) {
        let folder = share.join(folder);
        fs::create_dir(&folder)?;
        for number in numbers {
            let path = folder.join(format!("file-{number}"));
            File::create(&path).with_context(|| format!("making {}", path.display()))?;
        }
    }
    Ok(())
}

/// Has the guest look each file up, once. Returns the nodeids of the files.
pub fn look_up(client: &mut Client, files: u32) -> Result<Vec<u64>> {
    let mut nodeids = Vec::with_capacity(files as usize);
    for (folder, numbers) in folders(files) {
        let folder = client.lookup(ROOT, folder)?.nodeid;
        let numbers: Vec<u32> = numbers.collect();
        for some in numbers.chunks(AT_ONCE) {
            let sent = some.iter().map(|number| {
                let name = format!("file-{number}\0");
                client.send(Opcode::Lookup, folder, name.as_bytes())
            });
            for ticket in sent.collect::<Result<Vec<_>>>()? {
                let reply = client.wait(ticket)?;
                let found = EntryOut::take(&mut reply.as_slice()).context("an entry")?;
                nodeids.push(found.nodeid);
            }
        }
    }
    Ok(nodeids)
}
