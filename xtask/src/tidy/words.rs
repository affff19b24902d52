//! Words that do not stand in this workspace.
//!
//! Looks at the code without its literals, at comments for unfinished work, and at the whole text of
//! every file for paths of the machine that it was written on.

use super::rust::Rust;
use super::{File, Finding};

/// Words of virtual machine monitors. A device is suspended and resumed.
const FOREIGN: [&str; 6] = ["pause", "paused", "freeze", "frozen", "quiesce", "quiesced"];

/// Where a developer's files are. A path below them works for one person only.
const MACHINE_FOLDERS: [&str; 3] = ["work", "root", "home"];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        if let Some(text) = file.text() {
            findings.extend(machine_paths(file, text));
        }
        if let Some(rust) = &file.rust {
            findings.extend(code(file, rust));
            findings.extend(comments(file, rust));
        }
    }
    findings
}

fn machine_paths(file: &File, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for folder in MACHINE_FOLDERS {
            let path = format!("/{folder}/");
            let absolute = |at: usize| {
                let before = line.get(..at).and_then(|before| before.chars().next_back());
                !before.is_some_and(|last| last.is_alphanumeric() || "_-.})$*/".contains(last))
            };
            if line.match_indices(&path).any(|(at, _)| absolute(at)) {
                let reason = format!("{path} is a folder of one machine");
                findings.push(file.finding(index + 1, "machine-path", reason));
            }
        }
    }
    findings
}

fn code(file: &File, rust: &Rust) -> Vec<Finding> {
    let is_daemon = file.path.starts_with("common/") || file.path.starts_with("vhost-device-");
    let mut findings = Vec::new();
    for (index, token) in rust.tokens.iter().enumerate() {
        let before = |distance: usize| index.checked_sub(distance).map_or("", |at| rust.at(at));
        let attribute = before(1) == "[" && (before(2) == "#" || before(2) == "!");
        let (rule, reason) = match token.text.as_str() {
            "should_panic" => (
                "should-panic",
                "assert on the value: any panic passes this test",
            ),
            "ignore" if attribute => ("ignored-test", "a test that does not run tests nothing"),
            "todo" | "unimplemented" if rust.at(index + 1) == "!" => {
                ("unfinished", "a guest's message must not end the process")
            }
            "allow" if attribute => ("bare-allow", "use expect, with a reason"),
            word if is_daemon && word.split('_').any(is_foreign) => {
                ("wording", "a device is suspended and resumed")
            }
            _ => continue,
        };
        findings.push(file.finding(token.line, rule, format!("`{}`: {reason}", token.text)));
    }
    findings
}

/// `part` of an identifier in snake case, which may be in camel case itself.
fn is_foreign(part: &str) -> bool {
    let lower = part.to_lowercase();
    let is_start = |word: &str| {
        part.get(word.len()..).is_some_and(|rest| {
            lower.starts_with(word) && (rest.is_empty() || rest.starts_with(char::is_uppercase))
        })
    };
    FOREIGN.into_iter().any(is_start)
}

fn comments(file: &File, rust: &Rust) -> Vec<Finding> {
    let words = ["TODO", "FIXME", "XXX"];
    let mut findings = Vec::new();
    for (line, comment) in &rust.comments {
        if words.into_iter().any(|word| comment.contains(word)) {
            let reason = "finish it, or write down what is missing where users look";
            findings.push(file.finding(*line, "unfinished", reason));
        }
    }
    findings
}
