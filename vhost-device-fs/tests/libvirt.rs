//! What libvirt asks a virtio-fs daemon, and how its callers of old spell their options: the program itself answers.

use std::path::Path;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-device-fs");

fn run(arguments: &[&str]) -> Output {
    let output = Command::new(PROGRAM).args(arguments).output();
    output.expect("the program is built with this test")
}

#[test]
fn capabilities_are_those_that_libvirt_looks_for() {
    for arguments in [
        &["--print-capabilities"][..],
        &["-o", "nonsense", "--print-capabilities"],
    ] {
        let output = run(arguments);
        assert!(output.status.success());
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected = serde_json::json!({
            "type": "fs",
            "features": [
                "migrate-precopy",
                "posix-acl-negotiation-mode",
                "security-label-negotiation-mode",
                "separate-options",
            ],
        });
        assert_eq!(printed, expected);
    }
}

/// docs/interop/vhost-user.json of QEMU, `VhostUserBackend`: description, type and binary are all that a back-end of this
/// type has.
#[test]
fn the_descriptor_names_the_program_and_its_type() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("60-vhost-device-fs.json");
    let descriptor: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let members = descriptor.as_object().unwrap();
    let mut names: Vec<&str> = members.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["binary", "description", "type"]);
    assert_eq!(descriptor["type"], "fs");
    let binary = Path::new(descriptor["binary"].as_str().unwrap());
    assert!(binary.is_absolute());
    assert_eq!(binary.file_name(), Path::new(PROGRAM).file_name());
}

#[test]
fn old_spellings_are_understood_and_override_nothing() {
    let message = |arguments: &[&str]| {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    // All that is missing is a socket.
    let understood = message(&["-o", "source=/,cache=none,xattr,no_flock", "--syslog"]);
    assert!(
        understood.is_empty() || understood.contains("socket"),
        "{understood}"
    );
    let twice = message(&["--shared-dir=/usr", "-osource=/"]);
    assert!(twice.contains("--shared-dir"), "{twice}");
    let unknown = message(&["--shared-dir=/", "-o", "flock"]);
    assert!(unknown.contains("-o flock"), "{unknown}");
}
