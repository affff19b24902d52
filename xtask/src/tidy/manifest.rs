//! Which crate may depend on which.
//!
//! Invariant 4: no device crate depends on another, and nothing depends on `tests` or `xtask`, except
//! `xtask` and the fuzz targets on `tests`, and device crates on `tests` for their own tests. Besides, only `common` depends
//! on the vhost-user crates (invariant 1), and `common` on no other member.

use super::{File, Finding};

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let crate_name = file.path.strip_suffix("/Cargo.toml");
        if let (Some(crate_name), Some(text)) = (crate_name, file.text()) {
            for dependency in dependencies(text) {
                if let Some((rule, reason)) = refusal(crate_name, &dependency) {
                    findings.push(file.finding(dependency.line, rule, reason));
                }
            }
        }
    }
    findings
}

struct Dependency {
    name: String,
    for_tests: bool,
    line: usize,
}

/// Reads the tables of dependencies as far as our manifests are written: a line for each.
fn dependencies(text: &str) -> Vec<Dependency> {
    let mut table = "";
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let mut name = "";
        if let Some(header) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            // [dependencies] or [target.'...'.dependencies] or [dependencies.name]
            let start = header.rfind("dependencies").map(|at| header.split_at(at));
            table = start.map_or("", |(before, _)| {
                if before.ends_with("dev-") {
                    "tests"
                } else {
                    "all"
                }
            });
            name = start.map_or("", |(_, rest)| rest.trim_start_matches("dependencies"));
        } else if let (false, Some((key, value))) = (table.is_empty(), line.split_once('=')) {
            let renamed = value
                .split_once("package")
                .and_then(|(_, name)| name.split('"').nth(1));
            name = renamed.unwrap_or_else(|| key.split('.').next().unwrap_or_default());
        }
        let name = name.trim_matches([' ', '"', '.']).to_owned();
        if !name.is_empty() {
            found.push(Dependency {
                name,
                for_tests: table == "tests",
                line: index + 1,
            });
        }
    }
    found
}

fn refusal(crate_name: &str, dependency: &Dependency) -> Option<(&'static str, String)> {
    let is_device = |name: &str| name.starts_with("vhost-device-") && !name.contains('/');
    let Dependency {
        name,
        for_tests,
        line: _,
    } = dependency;
    let reason = match name.as_str() {
        "vhost" | "vhost-user-backend" if crate_name != "common" => {
            return Some(("invariant-1", format!("only common depends on {name}")));
        }
        "xtask" => "nothing depends on xtask",
        "tests" if is_device(crate_name) && !for_tests => {
            "a device needs `tests` for its tests only"
        }
        "tests" if crate_name.ends_with("/fuzz") => return None, // a workspace of its own, which nobody uses
        "tests" if crate_name != "xtask" && !is_device(crate_name) => "nothing depends on tests",
        device if is_device(device) && is_device(crate_name) => "no device depends on another",
        device if is_device(device) && crate_name == "common" => "common knows no device",
        _ => return None,
    };
    Some(("invariant-4", format!("{name}: {reason}")))
}
