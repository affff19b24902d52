//! Released states stay as they are.
//!
//! Every file below a crate's `golden/` is listed in its `golden/SHA256SUMS`, in the format of
//! `sha256sum`, with its checksum; and every file listed there exists. Whether the states are still
//! read is for the crate's own tests.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::{File, Finding};

const RULE: &str = "golden";
const LIST: &str = "SHA256SUMS";

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed: BTreeMap<String, (String, &File, usize)> = BTreeMap::new();
    for list in files
        .iter()
        .filter(|file| file.path.ends_with(&format!("/golden/{LIST}")))
    {
        let folder = list.path.trim_end_matches(LIST);
        for (index, line) in list.text().unwrap_or_default().lines().enumerate() {
            let Some((checksum, name)) = line.split_once("  ") else {
                findings.push(list.finding(index + 1, RULE, "not a line of sha256sum"));
                continue;
            };
            let entry = (checksum.to_owned(), list, index + 1);
            listed.insert(format!("{folder}{name}"), entry);
        }
    }
    let is_golden = |file: &&File| file.path.contains("/golden/") && file.name() != LIST;
    for file in files.iter().filter(is_golden) {
        let found = checksum_of(&file.bytes);
        match listed.remove(&file.path) {
            Some((expected, _, _)) if expected == found => {}
            Some(_) => findings.push(file.finding(0, RULE, "a released state has changed")),
            None => {
                let name = file
                    .path
                    .split_once("/golden/")
                    .map_or("", |(_, name)| name);
                let reason = format!("not in golden/{LIST}, add: {found}  {name}");
                findings.push(file.finding(0, RULE, reason));
            }
        }
    }
    for (path, (_, list, line)) in listed {
        findings.push(list.finding(line, RULE, format!("{path}, a released state, is gone")));
    }
    findings
}

fn checksum_of(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").unwrap_or_default(); // a String takes everything
    }
    text
}
