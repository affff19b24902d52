//! The programs of others, and the files that they read; for this host, and for a guest.
//!
//! Knows where they are, not what they are told.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::Program;
use super::place::quoted;
use super::work::Effort;
use crate::pjdfstest::CONFIGURATION;
use crate::qemu::image::Image;
use crate::qemu::provision::{Tree, load_tools};
use crate::tools::{FSX, PJDFSTEST};

/// Where all of it is in a guest.
const IN_GUEST: &str = "/soak";

/// pjdfstest's configuration.
pub(super) const PJDFSTEST_CONFIGURATION: &str = "pjdfstest.toml";

/// What dbench does.
pub(super) const DBENCH_LOAD: &str = "dbench.load";

/// More files than dbench keeps open.
const DBENCH_OPENS: u32 = 1_200;

/// pjdfstest's users, as on this host.
const USERS: &str =
    "root:x:0:0::/:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
const GROUPS: &str = "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n";

/// How programs are called somewhere.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    lines: BTreeMap<Program, String>,
    files: PathBuf,
}

impl Commands {
    /// The beginning of a line of shell.
    pub(super) fn line(&self, program: Program) -> &str {
        self.lines.get(&program).map_or("false", String::as_str)
    }

    /// One of the files that programs read, as the shell reads it.
    pub(super) fn file(&self, name: &str) -> String {
        quoted(&self.files.join(name).display().to_string())
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Toolbox {
    tree: Tree,
    /// A program's path: in the tree, or on this host if cargo built it.
    paths: BTreeMap<Program, PathBuf>,
    files: TempDir,
}

impl Toolbox {
    /// Finds or fetches the programs, and writes what they read.
    pub(super) fn prepare(effort: Effort) -> Result<Self> {
        let tree = load_tools()?;
        let files = tempfile::tempdir()?;
        fs::write(files.path().join(PJDFSTEST_CONFIGURATION), CONFIGURATION)?;
        let load = tree.folder().join("usr/share/dbench/client.txt");
        let load = fs::read_to_string(&load).with_context(|| load.display().to_string())?;
        let load = dbench_load(&load, effort.dbench_lines);
        fs::write(files.path().join(DBENCH_LOAD), load)?;
        let paths = [
            (Program::Pjdfstest, PJDFSTEST.provide()?),
            (Program::Fsx, FSX.provide()?),
            (Program::StressNg, "usr/bin/stress-ng".into()),
            (Program::Dbench, "usr/bin/dbench".into()),
        ];
        Ok(Self {
            tree,
            paths: paths.into(),
            files,
        })
    }

    /// For this host.
    pub(super) fn on_host(&self) -> Result<Commands> {
        self.commands(self.tree.folder(), self.files.path())
    }

    /// For a guest with an image that has [`add_to`](Self::add_to) it all.
    pub(super) fn in_guest(&self) -> Result<Commands> {
        self.commands(Path::new(IN_GUEST), Path::new(IN_GUEST))
    }

    /// Everything, for a guest.
    pub(super) fn add_to(&self, image: &mut Image) -> Result<()> {
        let folder = IN_GUEST.trim_start_matches('/');
        for path in self.paths.values() {
            let path = path.to_str().context("a plain path")?;
            let mut parts = self.tree.parts_of(path)?;
            if path.starts_with('/') {
                parts.push(PathBuf::from(path)); // is not in the tree
            }
            for part in parts {
                let data = fs::read(self.tree.folder().join(&part))?;
                let place = place_of(&part);
                image.file(&format!("{folder}/{}", place.display()), 0o755, data);
            }
        }
        for name in [PJDFSTEST_CONFIGURATION, DBENCH_LOAD] {
            let data = fs::read(self.files.path().join(name))?;
            image.file(&format!("{folder}/{name}"), 0o644, data);
        }
        image.file("etc/passwd", 0o644, USERS.into());
        image.file("etc/group", 0o644, GROUPS.into());
        Ok(())
    }

    fn commands(&self, tree: &Path, files: &Path) -> Result<Commands> {
        let line = |path: &PathBuf| {
            let is_host = tree == self.tree.folder();
            let name = path.to_str().context("a plain path")?;
            let mut program = self.tree.program_seen_at(name, tree)?;
            if !is_host && let Some(last) = program.arguments.last_mut() {
                *last = tree.join(place_of(path)).display().to_string();
            }
            let mut line = quoted(&program.path.display().to_string());
            for argument in &program.arguments {
                // Writing to a String cannot fail.
                let _ = write!(line, " {}", quoted(argument));
            }
            anyhow::Ok(line)
        };
        let lines = self.paths.iter();
        let lines = lines.map(|(program, path)| Ok((*program, line(path)?)));
        Ok(Commands {
            lines: lines.collect::<Result<_>>()?,
            files: files.to_owned(),
        })
    }
}

/// Where a part of the tree, or a program from elsewhere, is in a guest's folder.
fn place_of(path: &Path) -> PathBuf {
    match path.file_name() {
        Some(name) if path.is_absolute() => Path::new("bin").join(name),
        _ => path.to_owned(),
    }
}

/// The first `lines` of dbench's own load, made so that the run ends there. dbench repeats its load until a time is over, and what
/// it leaves depends on the time; but it ends at once when it has too many files open.
fn dbench_load(load: &str, lines: usize) -> String {
    let mut text = String::new();
    for line in load.lines().take(lines) {
        text.extend([line, "\n"]);
    }
    for number in 0..DBENCH_OPENS {
        let disposition = if number == 0 { "0x2" } else { "0x1" };
        let handle = 50_000 + number;
        let _ = writeln!(
            text,
            r#"NTCreateX "\clients\client1\end" 0x40 {disposition} {handle} NT_STATUS_OK"#
        );
    }
    text
}
