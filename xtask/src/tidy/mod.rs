//! `cargo xtask tidy`: the rules of this workspace that neither rustc nor clippy knows.
//!
//! Knows files and their text, not how they are built. Each family of rules has a file of its own, and
//! each rule a test on a small tree that breaks it.

mod changelog;
mod golden;
mod layers;
mod lexer;
mod manifest;
mod rust;
mod shape;
mod state_types;
#[cfg(test)]
mod tests;
mod words;

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

use rust::Rust;

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    /// Counted from 1; 0 for the whole file.
    line: usize,
    rule: &'static str,
    reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            rule,
            reason,
        } = self;
        write!(formatter, "{path}:{line}: {rule}: {reason}")
    }
}

/// A file of the workspace.
pub(crate) struct File {
    /// Relative to the root, with `/`.
    path: String,
    bytes: Vec<u8>,
    /// What the text is as Rust, if the file is named so.
    rust: Option<Rust>,
}

impl File {
    fn new(path: String, bytes: Vec<u8>) -> Self {
        let is_rust = Path::new(&path).extension() == Some(OsStr::new("rs"));
        let rust = is_rust.then(|| Rust::new(&String::from_utf8_lossy(&bytes)));
        Self { path, bytes, rust }
    }

    /// `None` if it is not text.
    fn text(&self) -> Option<&str> {
        str::from_utf8(&self.bytes).ok()
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// A file that is nothing but tests: `tests.rs`, or in a folder `tests` below a crate.
    fn is_test(&self) -> bool {
        self.name() == "tests.rs" || self.path.contains("/tests/")
    }

    fn finding(&self, line: usize, rule: &'static str, reason: impl Into<String>) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            rule,
            reason: reason.into(),
        }
    }
}

/// Checks the workspace that this program was built from, and prints what it finds.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let findings = check(&read_workspace()?);
    for finding in &findings {
        println!("{finding}");
    }
    Ok(if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn check(files: &[File]) -> Vec<Finding> {
    let rules = [
        changelog::check,
        golden::check,
        layers::check,
        manifest::check,
        shape::check,
        state_types::check,
        words::check,
    ];
    let mut findings: Vec<Finding> = rules.iter().flat_map(|rule| rule(files)).collect();
    findings.sort();
    findings
}

/// All files that git has, or would take.
fn read_workspace() -> anyhow::Result<Vec<File>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new("git")
        .args([
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
        ])
        .arg("--exclude-standard")
        .current_dir(&root)
        .output()
        .context("cannot run git, which knows the files of the workspace")?;
    ensure!(
        output.status.success(),
        "git: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let paths = String::from_utf8(output.stdout).context("a path is not UTF-8")?;
    let mut files = Vec::new();
    for path in paths.split_terminator('\0') {
        let full = root.join(path);
        if full.is_file() {
            let bytes = fs::read(&full).with_context(|| format!("cannot read {path}"))?;
            files.push(File::new(path.to_owned(), bytes));
        }
    }
    Ok(files)
}
