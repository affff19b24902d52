//! The shape of a Rust file: what it begins with, how long it is, and what it is called.

use super::rust::{Rust, is_word};
use super::{File, Finding};

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        if let (Some(rust), Some(text)) = (&file.rust, file.text()) {
            let stem = file.name().trim_end_matches(".rs");
            if matches!(stem, "util" | "utils" | "misc" | "helper" | "helpers") {
                findings.push(file.finding(1, "file-name", "a name that says nothing"));
            }
            if !text.starts_with("//!") {
                let reason =
                    "does not begin with what the file does and what it does not know (`//!`)";
                findings.push(file.finding(1, "module-doc", reason));
            }
            let lines = rust.lines_without_tests();
            if lines > FILE_LINES_MAX && !file.is_test() {
                let reason = format!("{lines} lines without tests, the limit is {FILE_LINES_MAX}");
                findings.push(file.finding(1, "file-length", reason));
            }
            findings.extend(functions(file, rust));
            findings.extend(test_modules(file, rust));
        }
    }
    findings
}

fn functions(file: &File, rust: &Rust) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, token) in rust.tokens.iter().enumerate() {
        if token.text != "fn" || !is_word(rust.at(index + 1)) || token.test || file.is_test() {
            continue;
        }
        let mut body = index + 2;
        while !matches!(rust.at(body), "{" | ";" | "") {
            let nested = matches!(rust.at(body), "(" | "[");
            body = if nested { rust.closing(body) } else { body } + 1;
        }
        let end = rust
            .tokens
            .get(rust.closing(body))
            .map_or(token.line, |last| last.line);
        let lines = end - token.line + 1;
        if lines > FUNCTION_LINES_MAX && rust.at(body) == "{" {
            let name = rust.at(index + 1);
            let reason = format!("{name} has {lines} lines, the limit is {FUNCTION_LINES_MAX}");
            findings.push(file.finding(token.line, "function-length", reason));
        }
    }
    findings
}

fn test_modules(file: &File, rust: &Rust) -> Vec<Finding> {
    let tokens = rust.tokens.iter().enumerate();
    let modules =
        tokens.filter(|(index, token)| token.text == "mod" && rust.at(index + 1) == "test");
    modules
        .map(|(_, token)| {
            file.finding(
                token.line,
                "test-module",
                "a module of tests is called `tests`",
            )
        })
        .collect()
}
