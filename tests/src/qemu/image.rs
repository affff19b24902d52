//! Guest image: an initramfs in cpio's "newc" format (`Documentation/driver-api/early-userspace/`
//! of Linux), written without root and without a cpio program, and left uncompressed.
//!
//! Holds busybox, an init script with a shell on the serial port, and whatever files the caller
//! adds: programs, and kernel modules with the order in which init inserts them.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::console::READY;

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Where init looks for modules: file names, one a line, in the order of insertion.
const MODULE_ORDER: &str = "modules/order";

struct Entry {
    mode: u32,
    /// Major and minor number of a device node.
    device: (u32, u32),
    data: Vec<u8>,
}

/// The files of a guest, by path without a leading slash.
#[derive(Default)]
pub struct Image {
    entries: BTreeMap<String, Entry>,
}

impl Image {
    /// A guest that boots to a shell on its serial port.
    pub fn with_busybox(busybox: &Path) -> Result<Self> {
        let program = std::fs::read(busybox)
            .with_context(|| format!("reading busybox for the guest: {}", busybox.display()))?;
        let mut image = Self::default();
        for folder in ["dev", "proc", "sys", "mnt", "tmp"] {
            image.insert(folder, DIRECTORY, Vec::new());
        }
        image.file("bin/busybox", 0o755, program);
        image.symlink("bin/sh", "busybox");
        image.file("init", 0o755, init().into_bytes());
        image.file(
            "etc/passwd",
            0o644,
            b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n".to_vec(),
        );
        image.file(
            "etc/group",
            0o644,
            b"root:x:0:\nnogroup:x:65534:\n".to_vec(),
        );
        // The kernel opens it before init can mount devtmpfs.
        image.insert("dev/console", CHARACTER_DEVICE, Vec::new());
        if let Some(console) = image.entries.get_mut("dev/console") {
            console.device = (5, 1);
        }
        Ok(image)
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, permissions: u32, data: Vec<u8>) {
        self.insert(path, REGULAR | permissions, data);
    }

    /// Adds a symbolic link at `path`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.insert(path, SYMLINK, target.as_bytes().to_vec());
    }

    /// Adds a kernel module (uncompressed); init inserts modules in the order in which they came.
    pub fn module(&mut self, file_name: &str, data: Vec<u8>) {
        self.file(&format!("modules/{file_name}"), 0o644, data);
        let mut order = match self.entries.remove(MODULE_ORDER) {
            Some(entry) => entry.data,
            None => Vec::new(),
        };
        order.extend(format!("{file_name}\n").into_bytes());
        self.file(MODULE_ORDER, 0o644, order);
    }

    /// Writes the archive.
    pub fn write(&self, output: &mut dyn Write) -> io::Result<()> {
        let mut archive = Archive { output, entries: 0 };
        for (path, entry) in &self.entries {
            archive.entry(path, entry)?;
        }
        let trailer = Entry {
            mode: 0,
            device: (0, 0),
            data: Vec::new(),
        };
        archive.entry("TRAILER!!!", &trailer)
    }

    fn insert(&mut self, path: &str, mode: u32, data: Vec<u8>) {
        // An entry's folder has to come before it; the map's order sees to that.
        for (end, _) in path.match_indices('/') {
            let folder = path.get(..end).unwrap_or_default();
            self.entries
                .entry(folder.to_owned())
                .or_insert_with(|| Entry {
                    mode: DIRECTORY,
                    device: (0, 0),
                    data: Vec::new(),
                });
        }
        let entry = Entry {
            mode,
            device: (0, 0),
            data,
        };
        self.entries.insert(path.to_owned(), entry);
    }
}

struct Archive<'a> {
    output: &'a mut dyn Write,
    entries: u32,
}

impl Archive<'_> {
    fn entry(&mut self, path: &str, entry: &Entry) -> io::Result<()> {
        self.entries += 1;
        let size = |length: usize| u32::try_from(length).map_err(io::Error::other);
        let fields = [
            self.entries, // inode
            entry.mode,
            0, // owner
            0, // group
            1, // links
            0, // modification time: the same input gives the same bytes
            size(entry.data.len())?,
            0, // device of the archive
            0,
            entry.device.0,
            entry.device.1,
            size(path.len() + 1)?,
            0, // checksum, unused in this format
        ];
        self.output.write_all(b"070701")?;
        for field in fields {
            write!(self.output, "{field:08x}")?;
        }
        self.output.write_all(path.as_bytes())?;
        self.output.write_all(&[0])?;
        self.align(6 + fields.len() * 8 + path.len() + 1)?;
        self.output.write_all(&entry.data)?;
        self.align(entry.data.len())
    }

    /// Names and data are padded to a multiple of four bytes, counted from the start of the entry.
    fn align(&mut self, length: usize) -> io::Result<()> {
        let padding = length.next_multiple_of(4) - length;
        self.output.write_all(&vec![0; padding])
    }
}

/// The guest's first process: mounts, modules, then a shell on the serial port for ever.
fn init() -> String {
    format!(
        "#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
[ ! -e /{MODULE_ORDER} ] || while read -r module; do
    insmod \"/modules/$module\" || echo \"insmod $module failed\" >/dev/ttyS0
done </{MODULE_ORDER}
stty -echo -onlcr </dev/ttyS0
echo \"{READY} $(cut -d' ' -f1 /proc/uptime) $(uname -r)\" >/dev/ttyS0
while true; do
    sh </dev/ttyS0 2>&1 | cat >/dev/ttyS0
done
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(image: &Image) -> Vec<u8> {
        let mut bytes = Vec::new();
        image.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn one_file_byte_for_byte() {
        let mut image = Image::default();
        image.file("f", 0o644, b"abc".to_vec());
        let expected = [
            "070701",
            "00000001",
            "000081a4",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000003",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000002",
            "00000000",
            "f\0",
            "abc\0",
            "070701",
            "00000002",
            "00000000",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "0000000b",
            "00000000",
            "TRAILER!!!\0\0\0\0",
        ];
        assert_eq!(
            String::from_utf8(archive(&image)).unwrap(),
            expected.concat()
        );
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut image = Image::default();
        image.file("a/b/two", 0o644, Vec::new());
        image.file("a/b/one", 0o644, Vec::new());
        let paths: Vec<&String> = image.entries.keys().collect();
        assert_eq!(paths, ["a", "a/b", "a/b/one", "a/b/two"]);
    }

    #[test]
    fn modules_keep_their_order() {
        let mut image = Image::default();
        image.module("z.ko", vec![1]);
        image.module("a.ko", vec![2]);
        assert_eq!(
            image.entries.get(MODULE_ORDER).unwrap().data,
            b"z.ko\na.ko\n"
        );
    }
}
