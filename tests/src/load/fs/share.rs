//! The files that the load is about: how they lie on the host, and what the device calls them.
//!
//! Knows names and nodeids; does not know what is done with them.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};

use crate::fuse_client::{Client, ROOT};

/// Files that are looked up, asked about and opened.
pub const KNOWN_FILES: usize = 1000;
/// Names in the folder that is listed.
pub const LISTED_FILES: usize = 10_000;
/// Bytes of the file that is read and written: fits into every page cache.
pub const DATA_BYTES: u64 = 128 << 20;

/// The folder of the known files.
pub const KNOWN: &str = "known";
/// The folder that is listed.
pub const LISTED: &str = "listed";
/// Where files are made and removed.
pub const NEW: &str = "new";
/// What is read and written.
pub const DATA: &str = "data";

/// The name of the known file with this number.
pub fn known_name(number: usize) -> String {
    format!("file-{number:04}")
}

/// Makes all of it in an empty folder. The data is written in pieces of one page, for large folios cost ext4 more at each small write,
/// and whoever came first would pay for that.
pub fn make(share: &Path) -> Result<()> {
    let folder = |name: &str| -> Result<_> {
        let path = share.join(name);
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    };
    let known = folder(KNOWN)?;
    for number in 0..KNOWN_FILES {
        fs::write(known.join(known_name(number)), b"known")?;
    }
    let listed = folder(LISTED)?;
    for number in 0..LISTED_FILES {
        File::create_new(listed.join(format!("a-name-of-usual-length-{number:05}")))?;
    }
    // Callers are no root.
    fs::set_permissions(folder(NEW)?, Permissions::from_mode(0o777))?;
    let data = File::create_new(share.join(DATA))?;
    let page = [0xa5; 4096];
    for at in (0..DATA_BYTES).step_by(page.len()) {
        data.write_all_at(&page, at)?;
    }
    Ok(data.sync_data()?)
}

/// The share as one guest knows it.
#[derive(Debug)]
pub(super) struct Known {
    /// The folder of the known files.
    pub(super) folder: u64,
    /// The known files.
    pub(super) files: Vec<u64>,
    pub(super) listed: u64,
    pub(super) new: u64,
    pub(super) data: u64,
    /// Handle of the data, open for reading and writing.
    pub(super) data_handle: u64,
}

impl Known {
    /// Looks everything up, and opens the data.
    pub(super) fn learn(client: &mut Client) -> Result<Self> {
        let mut look_up = |parent, name: &str| {
            let found = client.lookup(parent, name);
            Ok::<_, anyhow::Error>(found.with_context(|| format!("looking up {name}"))?.nodeid)
        };
        let folder = look_up(ROOT, KNOWN)?;
        let files = (0..KNOWN_FILES).map(|number| look_up(folder, &known_name(number)));
        let files = files.collect::<Result<_>>()?;
        let [listed, new, data] = [LISTED, NEW, DATA].map(|name| look_up(ROOT, name));
        let data = data?;
        let opened = client.open(data, libc::O_RDWR.cast_unsigned())?;
        Ok(Self {
            folder,
            files,
            listed: listed?,
            new: new?,
            data,
            data_handle: opened.handle,
        })
    }
}
