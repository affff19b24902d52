//! Modules of the guest's kernel: found by name, with what they need, in the order in which they have to be inserted.
//!
//! The lists that modprobe uses are made when a kernel is installed, and ours is only unpacked. So what a module needs is read from
//! the module itself: `depends=` in its section `.modinfo`. Not found out is what a module asks for while it runs, by another name
//! (ext4 for `crypto-crc32c`, which `crc32c_generic` is): such a module has to be named.
//!
//! Knows no guest image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lzma_rust2::XzReader;
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{Endianness, Object as _, ObjectSection as _};

/// A module as the kernel takes it: an ELF object, uncompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Such as `virtio_scsi.ko`.
    pub file_name: String,
    /// The object.
    pub data: Vec<u8>,
}

/// The modules of one kernel.
#[derive(Debug)]
pub struct Modules {
    folder: PathBuf,
    /// Files by [`canonical`] name.
    files: BTreeMap<String, PathBuf>,
    /// What needs no file.
    built_in: BTreeSet<String>,
}

impl Modules {
    /// The modules below `folder`, which is `lib/modules/VERSION` of a distribution.
    pub fn find(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        collect(folder, &mut files)?;
        // The kernel's build makes this list; one that is not there is of a kernel with nothing built in.
        let list = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        Ok(Self {
            folder: folder.to_owned(),
            files,
            built_in: list.lines().filter_map(name_of).collect(),
        })
    }

    /// The modules called `names` and all that they need, each after what it needs. What is built into the kernel is left out.
    pub fn with_needed(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut modules = Vec::new();
        let mut met = BTreeSet::new();
        for name in names {
            self.place(name, &mut met, &mut modules)?;
        }
        Ok(modules)
    }

    /// Puts a module behind those that it needs. No module needs itself, not even by way of others; here, such a one would come
    /// once and too early.
    fn place(
        &self,
        name: &str,
        met: &mut BTreeSet<String>,
        modules: &mut Vec<Module>,
    ) -> Result<()> {
        let name = canonical(name);
        if self.built_in.contains(&name) || !met.insert(name.clone()) {
            return Ok(());
        }
        let file = self
            .files
            .get(&name)
            .with_context(|| format!("no module {name} in {}", self.folder.display()))?;
        let data = read(file).with_context(|| format!("module {}", file.display()))?;
        let needed = depends(&data).with_context(|| format!("module {}", file.display()))?;
        for needed in needed {
            self.place(&needed, met, modules)
                .with_context(|| format!("which {name} needs"))?;
        }
        let file_name = format!("{name}.ko");
        modules.push(Module { file_name, data });
        Ok(())
    }
}

/// Modules in a folder and those below it. `build` and `source` are links to elsewhere, and not followed.
fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = path.to_str().and_then(name_of) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `virtio_gpu` of `kernel/drivers/gpu/drm/virtio/virtio-gpu.ko.xz`.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let name = file.strip_suffix(".xz").unwrap_or(file);
    Some(canonical(name.strip_suffix(".ko")?))
}

/// File names have either; module names, the underscore.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let stored = fs::read(file)?;
    if file.extension().is_none_or(|extension| extension != "xz") {
        return Ok(stored);
    }
    let mut data = Vec::new();
    XzReader::new(&stored[..], false).read_to_end(&mut data)?;
    Ok(data)
}

/// Names after `depends=` in the section `.modinfo`, whose entries end with a zero.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let object = ElfFile::<FileHeader64<Endianness>>::parse(module)?;
    let section = object.section_by_name(".modinfo");
    let entries = section.context("no section .modinfo")?.data()?;
    let names = entries
        .split(|byte| *byte == 0)
        .filter_map(|entry| entry.strip_prefix(b"depends="))
        .flat_map(|names| names.split(|byte| *byte == b','))
        .filter(|name| !name.is_empty());
    Ok(names
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use lzma_rust2::{XzOptions, XzWriter};

    use super::*;

    /// A module that is nothing but its `.modinfo`: an ELF header, the section, the sections' names, the table of sections.
    fn module(depends: &str) -> Vec<u8> {
        let info = format!("license=GPL\0depends={depends}\0retpoline=Y\0");
        let names = "\0.modinfo\0.names\0";
        let (info_at, names_at) = (64, 64 + info.len());
        let table_at = (names_at + names.len()).next_multiple_of(8);

        let mut module = b"\x7fELF\x02\x01\x01".to_vec(); // 64 bits, little-endian, version 1
        module.resize(16, 0);
        module.extend([1, 0, 62, 0, 1, 0, 0, 0]); // relocatable, x86-64, version 1
        module.extend([0; 16]);
        module.extend((table_at as u64).to_le_bytes());
        module.extend([0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 64, 0, 3, 0, 2, 0]); // three sections, names in the last
        module.extend(info.bytes());
        module.extend(names.bytes());
        module.resize(table_at, 0);
        module.extend([0; 64]);
        for (name, kind, at, size) in [
            (1_u32, 1_u32, info_at, info.len()), // PROGBITS
            (10, 3, names_at, names.len()),      // STRTAB
        ] {
            module.extend(name.to_le_bytes());
            module.extend(kind.to_le_bytes());
            module.extend([0; 16]);
            module.extend((at as u64).to_le_bytes());
            module.extend((size as u64).to_le_bytes());
            module.extend([0; 24]);
        }
        module
    }

    fn compressed(data: &[u8]) -> Vec<u8> {
        let mut writer = XzWriter::new(Vec::new(), XzOptions::default()).unwrap();
        writer.write_all(data).unwrap();
        writer.finish().unwrap()
    }

    fn kernel() -> (tempfile::TempDir, Modules) {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, data: &[u8]| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, data).unwrap();
        };
        put("kernel/gpu/drm.ko", &module(""));
        put("kernel/gpu/dma-buf.ko.xz", &compressed(&module("drm")));
        put("kernel/gpu/virtio-gpu.ko", &module("virtio,dma_buf,drm"));
        put("kernel/broken.ko", b"not ELF");
        put("kernel/orphan.ko", &module("nowhere"));
        put("modules.builtin", b"kernel/drivers/virtio/virtio.ko\n");
        let modules = Modules::find(folder.path()).unwrap();
        (folder, modules)
    }

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let (_folder, modules) = kernel();
        let found = modules.with_needed(&["virtio_gpu", "drm"]).unwrap();
        let names: Vec<&str> = found.iter().map(|m| m.file_name.as_str()).collect();
        assert_eq!(names, ["drm.ko", "dma_buf.ko", "virtio_gpu.ko"]);
        assert_eq!(found[1].data, module("drm"), "uncompressed");
    }

    #[test]
    fn what_is_built_in_needs_no_file() {
        let (_folder, modules) = kernel();
        assert_eq!(modules.with_needed(&["virtio"]).unwrap(), []);
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let (_folder, modules) = kernel();
        let error = |name| format!("{:#}", modules.with_needed(&[name]).unwrap_err());
        assert!(error("nothing").contains("no module nothing in"));
        assert!(error("orphan").starts_with("which orphan needs: no module nowhere"));
        assert!(error("broken").contains("broken.ko: "));
    }
}
