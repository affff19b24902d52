//! The invariants of the architecture that show in which names a file uses.
//!
//! 1. Only `common/src/protocol/` and `common/src/daemon.rs` name types of the vhost-user crates.
//! 2. A device's `state.rs` is plain data: `serde`, `std`, `thiserror` and `common::state` only, no I/O.
//! 3. Only a device's `save.rs` and `load.rs` see live types and state types. Its `device.rs` may name
//!    the state type, since the trait wants it, and nobody may re-export one.
//!
//! The fourth is about crates, not names: see [`manifest`](super::manifest).

use super::rust::{Name, Rust};
use super::{File, Finding};

/// Parts of `std` that reach out of the process, or into another thread.
const OUTWARD: [&str; 9] = [
    "env", "fs", "io", "net", "os", "process", "sync", "thread", "time",
];

/// Modules that are types of the language itself: `u32::from`.
const PRIMITIVE: [&str; 18] = [
    "bool", "char", "f32", "f64", "i128", "i16", "i32", "i64", "i8", "isize", "str", "u128", "u16",
    "u32", "u64", "u8", "usize", "Self",
];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        if let Some(rust) = &file.rust {
            findings.extend(protocol(file, rust));
            if let Some(module) = device_module(&file.path) {
                match module {
                    "state" => findings.extend(plain_data(file, rust)),
                    "save" | "load" | "device" => {}
                    _ => findings.extend(no_state_types(file, rust, module)),
                }
            }
        }
    }
    findings
}

/// The top-level module of a device crate that a file belongs to.
pub(super) fn device_module(path: &str) -> Option<&str> {
    let (folder, module) = path.strip_prefix("vhost-device-")?.split_once('/')?;
    let module = module.strip_prefix("src/").filter(|_| !folder.is_empty())?;
    Some(module.split(['/', '.']).next().unwrap_or_default())
}

fn protocol(file: &File, rust: &Rust) -> Vec<Finding> {
    let path = &file.path;
    if path.starts_with("common/src/protocol/") || path == "common/src/daemon.rs" {
        return Vec::new();
    }
    let outside =
        |name: &Name| name.starts_with(&["vhost"]) || name.starts_with(&["vhost_user_backend"]);
    let names = rust.names().into_iter().filter(outside);
    names
        .map(|name| {
            let reason = format!(
                "{} is named outside of common/src/protocol/ and common/src/daemon.rs",
                name.segments.join("::")
            );
            file.finding(name.line, "invariant-1", reason)
        })
        .collect()
}

fn plain_data(file: &File, rust: &Rust) -> Vec<Finding> {
    if file.is_test() {
        return Vec::new();
    }
    let is_plain = |name: &Name| {
        let segments: Vec<&str> = name.segments.iter().map(String::as_str).collect();
        match *segments {
            ["std", part, ..] => !OUTWARD.contains(&part),
            ["clippy" | "core" | "serde" | "thiserror", ..]
            | ["common" | "crate", "state", ..]
            | [] => true,
            ["self" | "super", ..] => file.path.contains("/src/state/"),
            [first, ..] => {
                let is_type = first.starts_with(char::is_uppercase);
                (is_type || PRIMITIVE.contains(&first)) && !name.used
            }
        }
    };
    let live = rust
        .names()
        .into_iter()
        .filter(|name| !name.test && !is_plain(name));
    live.map(|name| {
        let reason = format!("a state is plain data, {} is not", name.segments.join("::"));
        file.finding(name.line, "invariant-2", reason)
    })
    .collect()
}

fn no_state_types(file: &File, rust: &Rust, module: &str) -> Vec<Finding> {
    if file.is_test() {
        return Vec::new();
    }
    let is_root = module == "lib" || module == "main";
    let names_state = |name: &Name| {
        let of_device =
            name.starts_with(&["crate", "state"]) || name.starts_with(&["super", "state"]);
        let of_root =
            is_root && (name.starts_with(&["state"]) || name.starts_with(&["self", "state"]));
        of_device || of_root || (!is_root && name.starts_with(&["common", "state"]))
    };
    let names = rust
        .names()
        .into_iter()
        .filter(|name| !name.test && names_state(name));
    names
        .map(|name| {
            let reason = format!(
                "{} is named outside of state.rs, save.rs, load.rs and device.rs",
                name.segments.join("::")
            );
            file.finding(name.line, "invariant-3", reason)
        })
        .collect()
}
