//! What a type in a device's `state.rs` may be made of.
//!
//! bincode reads whatever a type allows. `usize` differs between machines, the order of a hash map
//! differs between runs, a recursive type ends in a stack overflow, and of elements without bytes a
//! few bytes can claim billions.

use super::layers::device_module;
use super::rust::{Rust, is_word};
use super::{File, Finding};

const RULE: &str = "wire-type";

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files
        .iter()
        .filter(|file| device_module(&file.path) == Some("state"))
    {
        if let Some(rust) = &file.rust {
            for (index, token) in rust.tokens.iter().enumerate() {
                if token.text == "Deserialize" && !token.test && in_derive(rust, index) {
                    findings.extend(check_item(file, rust, index));
                }
            }
        }
    }
    findings
}

fn in_derive(rust: &Rust, index: usize) -> bool {
    let before = rust.tokens.iter().take(index).rev();
    let mut words = before
        .map(|token| token.text.as_str())
        .skip_while(|text| *text != "(");
    words.nth(1) == Some("derive")
}

/// `index` is inside of the attribute that stands before the item.
fn check_item(file: &File, rust: &Rust, index: usize) -> Vec<Finding> {
    let is_keyword = |at: &usize| matches!(rust.at(*at), "struct" | "enum");
    let Some(start) = (index..rust.tokens.len()).find(is_keyword) else {
        return Vec::new();
    };
    let opens = |at: &usize| matches!(rust.at(*at), "{" | "(" | ";");
    let open = (start..rust.tokens.len()).find(opens).unwrap_or(start);
    let close = rust.closing(open);
    let mut findings = Vec::new();
    if rust.at(start) == "struct" && !(open..close).any(|at| is_word(rust.at(at))) {
        let line = rust.tokens.get(start).map_or(0, |token| token.line);
        findings.push(file.finding(line, RULE, "a struct without fields has no bytes"));
    }
    for at in open..close {
        let reason = match rust.at(at) {
            "usize" | "isize" => "the width of this type differs between machines",
            "HashMap" | "HashSet" => {
                "the order of a hash map is not the state's: use a BTreeMap or a Vec"
            }
            "Box" | "Rc" | "Arc" => {
                "a type behind a pointer may be recursive, and end in a stack overflow"
            }
            "(" if rust.at(at + 1) == ")" => "the unit type has no bytes",
            "flatten" | "untagged" | "skip_serializing_if" => "bincode cannot read this back",
            _ => continue,
        };
        let line = rust.tokens.get(at).map_or(0, |token| token.line);
        findings.push(file.finding(line, RULE, reason));
    }
    findings
}
