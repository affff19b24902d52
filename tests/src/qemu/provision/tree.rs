//! Programs in a folder of unpacked packages, run by the folder's own loader with its own libraries.
//!
//! Knows where Debian puts things; does not know how they came here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Program, run};

/// Folders of libraries. Ceph's and systemd's own are in no folder that a loader looks into by itself.
const LIBRARIES: [&str; 5] = [
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/ceph",
    "lib/x86_64-linux-gnu/systemd",
    "usr/lib/x86_64-linux-gnu/systemd",
];

/// A folder of unpacked packages.
#[derive(Debug, Clone)]
pub struct Tree(PathBuf);

impl Tree {
    /// The folder, where packages were unpacked before.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The program at `path`, such as `usr/bin/fio`.
    pub fn program(&self, path: &str) -> Result<Program> {
        self.program_seen_at(path, &self.0)
    }

    /// The program at `path` for somebody who sees the folder at `place`, as a guest does.
    pub fn program_seen_at(&self, path: &str, place: &Path) -> Result<Program> {
        let program = self.0.join(path);
        if !program.exists() {
            bail!("{} is missing", program.display());
        }
        let loader = LIBRARIES
            .map(|folder| format!("{folder}/ld-linux-x86-64.so.2"))
            .into_iter()
            .find(|loader| self.0.join(loader).exists())
            .with_context(|| format!("no loader in {}", self.0.display()))?;
        let libraries: Vec<String> = LIBRARIES
            .iter()
            .filter(|folder| self.0.join(folder).exists())
            .map(|folder| place.join(folder).display().to_string())
            .collect();
        Ok(Program {
            path: place.join(loader),
            arguments: vec![
                "--library-path".to_owned(),
                libraries.join(":"),
                place.join(path).display().to_string(),
            ],
            environment: Vec::new(),
        })
    }

    /// All that the program at `path` is made of: itself, its loader, its libraries; paths in the folder.
    pub fn parts_of(&self, path: &str) -> Result<Vec<PathBuf>> {
        let program = self.program(path)?;
        let mut list = Command::new(&program.path);
        let listed = run(list.arg("--list").args(&program.arguments))?;
        // NAME => PATH (ADDRESS)
        let libraries = listed.lines().filter_map(|line| line.split("=> ").nth(1));
        let libraries = libraries.filter_map(|rest| Some(PathBuf::from(rest.split_once(" (")?.0)));
        let all = libraries.chain([self.0.join(path), program.path]);
        let inside = all.filter_map(|part| Some(part.strip_prefix(&self.0).ok()?.to_owned()));
        let mut parts: Vec<PathBuf> = inside.collect();
        parts.sort();
        parts.dedup();
        Ok(parts)
    }

    /// QEMU, with its modules and firmware.
    pub(super) fn qemu(&self) -> Result<Program> {
        let mut qemu = self.program("usr/bin/qemu-system-x86_64")?;
        for data in ["usr/share/seabios", "usr/share/qemu"] {
            let folder = self.0.join(data).display().to_string();
            qemu.arguments.extend(["-L".to_owned(), folder]);
        }
        let modules = self.0.join("usr/lib/x86_64-linux-gnu/qemu");
        let modules = modules.display().to_string();
        qemu.environment
            .push(("QEMU_MODULE_DIR".to_owned(), modules));
        Ok(qemu)
    }

    pub(super) fn kernel(&self) -> Result<PathBuf> {
        self.only(&["boot"], "vmlinuz-")
    }

    /// The kernel's folder of modules; newer releases of Debian have it below usr.
    pub(super) fn modules(&self) -> Result<PathBuf> {
        self.only(&["lib/modules", "usr/lib/modules"], "")
    }

    /// What begins with `prefix` in one of `folders`: a tree has one kernel.
    fn only(&self, folders: &[&str], prefix: &str) -> Result<PathBuf> {
        for folder in folders.iter().map(|folder| self.0.join(folder)) {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("reading {}", folder.display()));
                }
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with(prefix) {
                    return Ok(entry.path());
                }
            }
        }
        bail!("no {} in {}", folders.join(" or "), self.0.display())
    }

    pub(super) fn busybox(&self) -> Option<PathBuf> {
        let paths = ["bin/busybox", "usr/bin/busybox"].map(|path| self.0.join(path));
        paths.into_iter().find(|path| path.exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found_with_its_modules() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path().to_owned());
        assert!(tree.kernel().is_err());
        assert!(tree.modules().is_err());
        for path in ["boot", "usr/lib/modules/6.12.9"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        for name in ["config-6.12.9", "vmlinuz-6.12.9"] {
            fs::write(folder.path().join("boot").join(name), "").unwrap();
        }
        let (kernel, modules) = (tree.kernel().unwrap(), tree.modules().unwrap());
        assert!(kernel.ends_with("boot/vmlinuz-6.12.9"));
        assert!(modules.ends_with("usr/lib/modules/6.12.9"));
    }

    #[test]
    fn a_program_is_run_by_the_loader_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path().to_owned());
        let put = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        put("usr/bin/tool");
        assert!(tree.program("usr/bin/tool").is_err(), "no loader");
        put("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
        let seen = tree
            .program_seen_at("usr/bin/tool", Path::new("/tools"))
            .unwrap();
        assert_eq!(
            seen.path,
            Path::new("/tools/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
        );
        assert_eq!(
            seen.arguments,
            [
                "--library-path",
                "/tools/usr/lib/x86_64-linux-gnu",
                "/tools/usr/bin/tool"
            ]
        );
        assert!(tree.program("usr/bin/other").is_err());
    }
}
