//! Each rule, broken on a small tree; and the workspace itself, which breaks none.

use super::*;

/// The rules that a tree of one file breaks, besides the lack of a changelog.
fn broken(path: &str, text: &str) -> Vec<(usize, &'static str)> {
    findings(&[(path, text)])
        .into_iter()
        .map(|finding| {
            assert_eq!(finding.path, path);
            (finding.line, finding.rule)
        })
        .collect()
}

fn findings(tree: &[(&str, &str)]) -> Vec<Finding> {
    let changelog = (
        "CHANGELOG.md",
        "# Changelog\n\n## [Unreleased]\n\n### State format\n",
    );
    let files: Vec<File> = [&[changelog], tree]
        .concat()
        .into_iter()
        .map(|(path, text)| File::new(path.to_owned(), text.as_bytes().to_vec()))
        .collect();
    check(&files)
}

#[test]
fn the_workspace_is_tidy() {
    let findings = check(&read_workspace().unwrap());
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

#[test]
fn a_finding_says_where_and_why() {
    let findings = findings(&[("common/src/util.rs", "//! a\n")]);
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        ["common/src/util.rs:1: file-name: a name that says nothing"]
    );
}

#[test]
fn invariant_1_vhost_types_stay_in_the_protocol() {
    let text = "//! a\nuse vhost::vhost_user::Error;\nfn a() { ::vhost_user_backend::b(); }\n";
    let expected = [(2, "invariant-1"), (3, "invariant-1")];
    assert_eq!(broken("common/src/device.rs", text), expected);
    assert_eq!(broken("tests/tests/relay.rs", text), expected);
    assert_eq!(
        broken(
            "vhost-device-fs/src/device.rs",
            "//! a\nuse {vhost::a, b};\n"
        ),
        [(2, "invariant-1")]
    );
    assert_eq!(broken("common/src/protocol/relay.rs", text), []);
    assert_eq!(broken("common/src/daemon.rs", text), []);
    let comment = "//! vhost::vhost_user\nfn a() { b(\"vhost::c\"); d::vhost::e() }\n";
    assert_eq!(broken("common/src/gate.rs", comment), []);
    let manifest = "[dependencies]\nvhost.workspace = true\n";
    assert_eq!(broken("tests/Cargo.toml", manifest), [(2, "invariant-1")]);
    assert_eq!(broken("common/Cargo.toml", manifest), []);
}

#[test]
fn invariant_2_a_state_is_plain_data() {
    let path = "vhost-device-fs/src/state.rs";
    for line in [
        "use std::fs::File;",
        "use std::sync::Arc;",
        "use std::{collections::BTreeMap, io::Read};",
        "use vm_memory::GuestAddress;",
        "use crate::store::Inode;",
        "use super::config::Config;",
        "use common::device::Device;",
        "use libc;",
        "fn a() { rustix::fs::sync(); }",
        "fn a() -> std::io::Result<()> { b() }",
    ] {
        assert_eq!(
            broken(path, &format!("//! a\n{line}\n")),
            [(2, "invariant-2")],
            "{line}"
        );
    }
    let plain = "//! a\nuse serde::{Deserialize, Serialize};\nuse std::collections::BTreeMap;\n\
                 use common::state::{StateError, Tag};\nuse thiserror::Error;\n\
                 fn a() { usize::from(b); Tag::new(c); Self::d(); }\n\
                 #[cfg(test)]\nmod tests {\n use super::*;\n use proptest::prelude::*;\n}\n";
    assert_eq!(broken(path, plain), []);
    let inner = "//! a\nuse super::tags::SESSION;\nuse crate::state::tags;\n";
    assert_eq!(broken("vhost-device-fs/src/state/session.rs", inner), []);
    let tested =
        "//! a\nuse common::state::golden;\nuse std::path::Path;\nfn a() { golden::check(b); }\n";
    assert_eq!(broken("vhost-device-fs/src/state/tests.rs", tested), []);
}

#[test]
fn invariant_3_only_save_and_load_see_both_sides() {
    for line in [
        "use crate::state::InodeState;",
        "use crate::{config, state::InodeState};",
        "use common::state::StateReader;",
        "fn a(b: crate::state::InodeState) {}",
    ] {
        let text = format!("//! a\n{line}\n");
        for path in [
            "vhost-device-fs/src/store/table.rs",
            "vhost-device-gpu/src/scanout.rs",
        ] {
            assert_eq!(broken(path, &text), [(2, "invariant-3")], "{path}: {line}");
        }
        for path in ["save.rs", "load.rs", "device.rs", "load/inodes.rs"] {
            assert_eq!(
                broken(&format!("vhost-device-fs/src/{path}"), &text),
                [],
                "{path}: {line}"
            );
        }
    }
    let reexport = "//! a\npub mod state;\npub use state::FsState;\n";
    assert_eq!(
        broken("vhost-device-fs/src/lib.rs", reexport),
        [(3, "invariant-3")]
    );
    let tested = "//! a\n#[cfg(test)]\nmod tests {\n use crate::state::FsState;\n}\n";
    assert_eq!(broken("vhost-device-fs/src/config.rs", tested), []);
    assert_eq!(
        broken(
            "vhost-device-fs/tests/a.rs",
            "//! a\nuse common::state::Tag;\n"
        ),
        []
    );
}

#[test]
fn invariant_4_crates_keep_apart() {
    let depends = |crate_name: &str, table: &str, name: &str| {
        broken(
            &format!("{crate_name}/Cargo.toml"),
            &format!("[package]\n\n[{table}]\n{name}\n"),
        )
    };
    let refused = [(4, "invariant-4")];
    assert_eq!(
        depends(
            "vhost-device-fs",
            "dependencies",
            "vhost-device-gpu.workspace = true"
        ),
        refused
    );
    assert_eq!(
        depends(
            "vhost-device-fs",
            "dev-dependencies",
            "vhost-device-gpu = \"1\""
        ),
        refused
    );
    let renamed = "gpu = { path = \"a\", package = \"vhost-device-gpu\" }";
    assert_eq!(depends("vhost-device-fs", "dependencies", renamed), refused);
    assert_eq!(
        depends("vhost-device-fs", "dependencies", "tests.workspace = true"),
        refused
    );
    assert_eq!(
        depends("common", "dev-dependencies", "tests.workspace = true"),
        refused
    );
    assert_eq!(
        depends("common", "dependencies", "vhost-device-fs.workspace = true"),
        refused
    );
    assert_eq!(
        depends("tests", "build-dependencies", "xtask = { path = \"..\" }"),
        refused
    );
    let table = "[package]\n[dependencies.vhost-device-scsi]\nworkspace = true\n";
    assert_eq!(
        broken("vhost-device-fs/Cargo.toml", table),
        [(2, "invariant-4")]
    );
    let target = "target.'cfg(unix)'.dependencies";
    assert_eq!(
        depends("vhost-device-fs", target, "vhost-device-gpu = \"1\""),
        refused
    );

    assert_eq!(
        depends(
            "vhost-device-fs",
            "dev-dependencies",
            "tests.workspace = true"
        ),
        []
    );
    assert_eq!(
        depends("vhost-device-fs", "dependencies", "common.workspace = true"),
        []
    );
    for user in ["xtask", "vhost-device-fs/fuzz"] {
        let manifest = depends(user, "dependencies", "tests.workspace = true");
        assert_eq!(manifest, [], "{user}");
    }
    assert_eq!(
        depends("tests", "dependencies", "vhost-device-fs.workspace = true"),
        []
    );
}

#[test]
fn types_of_the_stream_have_bytes_of_fixed_width_and_an_end() {
    let path = "vhost-device-fs/src/state.rs";
    for item in [
        "struct A { b: usize }",
        "struct A { b: HashMap<u8, u8> }",
        "enum A { B, C(Box<A>) }",
        "struct A { b: Vec<()> }",
        "struct A(#[serde(flatten)] B);",
        "struct A;",
        "struct A {}",
        "struct A();",
    ] {
        let text = format!("//! a\n#[derive(Debug, Deserialize)]\npub {item}\n");
        assert!(broken(path, &text).contains(&(3, "wire-type")), "{item}");
        assert_eq!(
            broken(path, &format!("//! a\n#[derive(Debug)]\n{item}\n")),
            [],
            "{item}"
        );
    }
    let fine = "//! a\n#[derive(Serialize, Deserialize)]\nstruct A { b: Vec<(u8, [u8; 4])> }\nfn a() -> usize { b() }\n";
    assert_eq!(broken(path, fine), []);
}

#[test]
fn files_begin_with_what_they_do() {
    assert_eq!(broken("common/src/a.rs", "use b;\n"), [(1, "module-doc")]);
    assert_eq!(broken("common/src/a.rs", ""), [(1, "module-doc")]);
}

#[test]
fn files_and_functions_are_short() {
    let lines = |count: usize| " let a = 1;\n".repeat(count);
    let function = |count: usize| format!("fn b() {{\n{}}}\n", lines(count));
    let path = "common/src/a.rs";
    assert_eq!(
        broken(path, &format!("//! a\n{}", function(69))),
        [(2, "function-length")]
    );
    assert_eq!(broken(path, &format!("//! a\n{}", function(68))), []);
    let where_clause = format!(
        "//! a\nfn b(c: [u8; 2]) -> d\nwhere e: f {{\n{}}}\n",
        lines(68)
    );
    assert_eq!(broken(path, &where_clause), [(2, "function-length")]);

    let long = format!("//! a\n{}", function(2).repeat(100));
    assert_eq!(broken(path, &long), [(1, "file-length")]);
    assert_eq!(broken("common/src/a/tests.rs", &long), []);
    assert_eq!(broken("tests/tests/a.rs", &long), []);
    assert_eq!(broken("tests/src/a.rs", &long), [(1, "file-length")]);
    let tested = format!(
        "//! a\n#[cfg(test)]\nmod tests {{\n{}}}\n",
        function(69).repeat(6)
    );
    assert_eq!(broken(path, &tested), []);
}

#[test]
fn names_say_something() {
    for name in ["util", "misc", "helpers"] {
        assert_eq!(
            broken(&format!("common/src/{name}.rs"), "//! a\n"),
            [(1, "file-name")]
        );
    }
    let text = "//! a\n#[cfg(test)]\nmod test {}\n";
    assert_eq!(broken("common/src/a.rs", text), [(3, "test-module")]);
    for name in ["is_paused", "FreezeGuard", "QUIESCE_MS", "pause"] {
        let text = format!("//! a\nfn {name}() {{}}\n");
        assert_eq!(broken("common/src/a.rs", &text), [(2, "wording")], "{name}");
        assert_eq!(broken("tests/src/qemu/a.rs", &text), [], "{name}");
    }
    assert_eq!(
        broken(
            "common/src/a.rs",
            "//! pause\nfn menopauses() { b(\"freeze\") }\n"
        ),
        []
    );
}

#[test]
fn tests_run_and_code_is_finished() {
    let path = "common/src/a.rs";
    let broken_line = |line: &str| broken(path, &format!("//! a\n{line}\n"));
    assert_eq!(
        broken_line("#[should_panic] fn a() {}"),
        [(2, "should-panic")]
    );
    assert_eq!(
        broken_line("#[test] #[ignore = \"b\"] fn a() {}"),
        [(2, "ignored-test")]
    );
    assert_eq!(broken_line("fn a() { todo!() }"), [(2, "unfinished")]);
    assert_eq!(
        broken_line("fn a() { unimplemented!() }"),
        [(2, "unfinished")]
    );
    assert_eq!(broken_line("// TODO: b"), [(2, "unfinished")]);
    assert_eq!(
        broken_line("#[allow(dead_code)] fn a() {}"),
        [(2, "bare-allow")]
    );
    assert_eq!(broken_line("#![allow(dead_code)]"), [(2, "bare-allow")]);
    assert_eq!(broken_line("fn allow(ignore: b) { todo(); }"), []);
}

#[test]
fn no_path_leads_to_one_machine() {
    for folder in ["work", "root", "home"] {
        let path = format!("/{folder}/a");
        assert_eq!(
            broken("README.md", &format!("see {path}\n")),
            [(1, "machine-path")]
        );
        assert_eq!(
            broken("a.toml", &format!("\na = \"{path}\"\n")),
            [(2, "machine-path")]
        );
        assert_eq!(
            broken("README.md", &format!("target{path} and $HOME{path}\n")),
            []
        );
    }
}

#[test]
fn released_states_stay_as_they_are() {
    let state = ("vhost-device-fs/golden/v1/fresh.state", "abc");
    let checksum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let listed = format!("{checksum}  v1/fresh.state\n");
    let list = "vhost-device-fs/golden/SHA256SUMS";
    assert_eq!(findings(&[state, (list, &listed)]), []);

    let reason = |tree: &[(&str, &str)]| {
        let findings = findings(tree);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].rule, "golden");
        findings[0].reason.clone()
    };
    let added = format!("not in golden/SHA256SUMS, add: {checksum}  v1/fresh.state");
    assert_eq!(reason(&[state]), added);
    assert_eq!(
        reason(&[(state.0, "abd"), (list, &listed)]),
        "a released state has changed"
    );
    assert!(reason(&[(list, &listed)]).ends_with("is gone"));
    assert_eq!(reason(&[(list, "abc\n")]), "not a line of sha256sum");
}

#[test]
fn the_changelog_keeps_its_shape() {
    let lines = |text: &str| {
        let file = File::new("CHANGELOG.md".to_owned(), text.as_bytes().to_vec());
        let findings = check(&[file]);
        assert!(findings.iter().all(|finding| finding.rule == "changelog"));
        findings
            .iter()
            .map(|finding| finding.line)
            .collect::<Vec<_>>()
    };
    let head = "# Changelog\n\n## [Unreleased]\n### State format\n";
    let release = |version: &str| format!("## [{version}] - 2026-11-22\n### State format\n");
    let sound = format!("{head}{}{}", release("0.10.0"), release("0.9.0"));
    assert!(lines(&sound).is_empty());
    assert_eq!(
        lines(&format!("{head}{}{}", release("0.9.0"), release("0.10.0"))),
        [7]
    );
    assert_eq!(lines("# Changes\n## [Unreleased]\n### State format\n"), [1]);
    assert_eq!(lines("# Changelog\n"), [1]);
    assert_eq!(lines(&format!("# Changelog\n{}", release("0.1.0"))), [2]);
    assert_eq!(lines(&format!("{head}## 0.1.0\n### State format\n")), [5]);
    assert_eq!(
        lines(&format!("{head}## [0.1.0] - soon\n### State format\n")),
        [5]
    );
    assert_eq!(lines(&format!("{head}### Improved\n")), [5]);
    assert_eq!(lines("# Changelog\n## [Unreleased]\n### Added\n"), [2]);
    assert_eq!(check(&[])[0].reason, "there is none");
}
