//! The shape of `CHANGELOG.md`: what changed for users, newest first, as keepachangelog.com has it.
//!
//! Every release, and what is not released yet, says what became of the state format.

use super::{File, Finding};

const RULE: &str = "changelog";
const SECTIONS: [&str; 7] = [
    "Added",
    "Changed",
    "Deprecated",
    "Removed",
    "Fixed",
    "Security",
    "State format",
];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let Some(file) = files.iter().find(|file| file.path == "CHANGELOG.md") else {
        let reason = "there is none".to_owned();
        return vec![Finding {
            path: "CHANGELOG.md".to_owned(),
            line: 0,
            rule: RULE,
            reason,
        }];
    };
    let mut findings = Vec::new();
    let mut complain = |line: usize, reason: &str| findings.push(file.finding(line, RULE, reason));
    let text = file.text().unwrap_or_default();
    if !text.starts_with("# Changelog\n") {
        complain(1, "begins with `# Changelog`");
    }
    let mut releases: Vec<Release> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(title) = line.strip_prefix("## ") {
            let release = Release::new(title, index + 1);
            if releases.is_empty() && title != "[Unreleased]" {
                complain(index + 1, "the first release is `## [Unreleased]`");
            }
            match releases.last() {
                Some(_) if release.version.is_none() => {
                    complain(index + 1, "a release is `## [1.2.3] - 2026-01-31`");
                }
                Some(newer) if newer.version.is_some() && newer.version <= release.version => {
                    complain(index + 1, "newer releases stand above older ones");
                }
                _ => {}
            }
            releases.push(release);
        } else if let Some(section) = line.strip_prefix("### ") {
            if !SECTIONS.contains(&section) {
                complain(
                    index + 1,
                    &format!("a section is one of {}", SECTIONS.join(", ")),
                );
            }
            if let Some(release) = releases.last_mut() {
                release.tells_state_format |= section == "State format";
            }
        }
    }
    if releases.is_empty() {
        complain(1, "the first release is `## [Unreleased]`");
    }
    for release in releases
        .iter()
        .filter(|release| !release.tells_state_format)
    {
        complain(
            release.line,
            "says nothing of the `### State format`, be it `unchanged`",
        );
    }
    findings
}

struct Release {
    line: usize,
    /// `None` if the title is not one of a release.
    version: Option<[u32; 3]>,
    tells_state_format: bool,
}

impl Release {
    fn new(title: &str, line: usize) -> Self {
        let parsed = || {
            let (version, date) = title.strip_prefix('[')?.split_once("] - ")?;
            let date: Vec<&str> = date.split('-').collect();
            let lengths: Vec<usize> = date.iter().map(|part| part.len()).collect();
            let digits = date
                .iter()
                .all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
            let version: Vec<u32> = version
                .split('.')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            (digits && lengths == [4, 2, 2]).then(|| version.try_into().ok())?
        };
        Self {
            line,
            version: parsed(),
            tells_state_format: false,
        }
    }
}
