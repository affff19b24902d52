//! For the tests of device crates: states of released versions, kept as files for ever.
//!
//! Knows folders of files and a schema, not a device. Behind the cargo feature `test-kit`.
//!
//! `golden/vN/NAME.state` is a stream that version `N` of a schema wrote, and `NAME.txt` is what it
//! means, as the pretty `Debug` text of the state. Choose samples whose fields all differ and are no
//! defaults: a test on zeros does not find two fields that changed places.
//!
//! A test that runs with [`BLESS`] in its environment writes the files that are missing for the
//! newest version. It never changes one: a released state is history.

#![expect(
    clippy::panic,
    reason = "what a test calls says what is wrong by a panic"
)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::StateError;
use super::reader::read_state;
use super::schema::StateSchema;
use super::stream::{Header, Limits};
use super::writer::{StateWriter, write_state};

/// The environment variable that makes [`check`] write missing files.
pub const BLESS: &str = "GOLDEN_BLESS";

/// Golden states are small: each of their bits is flipped, and the result is read.
const STATE_BYTES_MAX: usize = 4096;

/// Checks all golden states in `folder`, and that `samples` still are the newest ones.
///
/// * Every version from the oldest to the newest has states, and every state its text.
/// * Each is read, means what its text says, and is written again to the same bytes.
/// * Each is refused at every truncation and with every single bit flipped.
/// * The newest version's are those of `samples`, no more and no fewer, byte for byte.
/// * A stream that needs a newer reader, one that is too old and one of another device are refused.
///
/// # Panics
///
/// If any of this is not so.
pub fn check<S: StateSchema + Debug>(folder: &Path, samples: &[(&str, S)]) {
    let newest = folder.join(format!("v{}", S::VERSION));
    if std::env::var_os(BLESS).is_some() {
        bless(&newest, samples);
    }
    for version in S::VERSION_OLDEST..=S::VERSION {
        let names = names_in(&folder.join(format!("v{version}")));
        assert!(
            !names.is_empty(),
            "{} has no states of version {version}",
            folder.display()
        );
        for name in names {
            check_state::<S>(&folder.join(format!("v{version}")).join(name), version);
        }
    }
    let expected: BTreeSet<String> = samples.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        names_in(&newest),
        expected,
        "states in {}",
        newest.display()
    );
    for (name, state) in samples {
        let golden = read_file(&newest.join(name).with_extension("state"));
        assert!(
            written(state, S::VERSION) == golden,
            "sample {name} is written differently now"
        );
    }
    refuses_other_streams::<S>();
}

/// `path` without extension.
fn check_state<S: StateSchema + Debug>(path: &Path, version: u16) {
    let shown = path.display();
    let bytes = read_file(&path.with_extension("state"));
    let text = read_file(&path.with_extension("txt"));
    let state: S = read(&bytes).unwrap_or_else(|error| panic!("{shown} is refused: {error:?}"));
    assert_eq!(
        String::from_utf8_lossy(&text),
        text_of(&state),
        "what {shown} means"
    );
    assert!(
        written(&state, version) == bytes,
        "{shown} is written differently now"
    );
    assert!(
        bytes.len() <= STATE_BYTES_MAX,
        "{shown} is larger than {STATE_BYTES_MAX} bytes"
    );
    for length in 0..bytes.len() {
        let cut = bytes.get(..length).unwrap_or_default();
        assert!(
            read::<S>(cut).is_err(),
            "{shown} is read although cut at byte {length}"
        );
    }
    for offset in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped
                .iter_mut()
                .skip(offset)
                .take(1)
                .for_each(|byte| *byte ^= 1 << bit);
            let refused = read::<S>(&flipped).is_err();
            assert!(
                refused,
                "{shown} is read although bit {bit} of byte {offset} is flipped"
            );
        }
    }
}

fn refuses_other_streams<S: StateSchema + Debug>() {
    let (kind, newest, oldest) = (S::KIND.as_u16(), S::VERSION, S::VERSION_OLDEST);
    let refusal = |kind, reader_oldest, version| {
        let mut bytes = Vec::new();
        let header = Header {
            kind,
            reader_oldest,
            version,
        };
        let written = StateWriter::begin(header, &mut bytes).and_then(StateWriter::end);
        assert!(written.is_ok(), "a vector takes every stream");
        read::<S>(&bytes).err()
    };
    let error = refusal(kind, newest + 1, newest + 1);
    let named = matches!(error, Some(StateError::ReaderTooOld { needed, .. }) if needed > newest);
    assert!(
        named,
        "version {} is not refused by name: {error:?}",
        newest + 1
    );
    if let Some(older) = oldest.checked_sub(1) {
        let error = refusal(kind, older, older);
        let named =
            matches!(error, Some(StateError::VersionTooOld { found, .. }) if found == older);
        assert!(named, "version {older} is not refused by name: {error:?}");
    }
    let error = refusal(!kind, newest, newest);
    let named = matches!(error, Some(StateError::Device { .. }));
    assert!(
        named,
        "a stream of another device is not refused by name: {error:?}"
    );
}

fn bless<S: StateSchema + Debug>(folder: &Path, samples: &[(&str, S)]) {
    let create = |path: PathBuf, bytes: &[u8]| {
        if !path.exists() {
            let done = fs::write(&path, bytes);
            assert!(
                done.is_ok(),
                "{} cannot be written: {done:?}",
                path.display()
            );
        }
    };
    let made = fs::create_dir_all(folder);
    assert!(
        made.is_ok(),
        "{} cannot be made: {made:?}",
        folder.display()
    );
    for (name, state) in samples {
        let path = folder.join(name);
        create(path.with_extension("state"), &written(state, S::VERSION));
        create(path.with_extension("txt"), text_of(state).as_bytes());
    }
}

/// The names of the states in `folder`, each of which has its two files.
fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", folder.display()));
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let stems = |extension: &str| -> BTreeSet<String> {
        let of_extension = paths
            .iter()
            .filter(|path| path.extension() == Some(OsStr::new(extension)));
        of_extension
            .filter_map(|path| path.file_stem())
            .map(|stem| stem.to_string_lossy().into_owned())
            .collect()
    };
    let (states, texts) = (stems("state"), stems("txt"));
    assert_eq!(
        states,
        texts,
        "the states and the texts in {}",
        folder.display()
    );
    assert_eq!(
        states.len() * 2,
        paths.len(),
        "{} holds other files",
        folder.display()
    );
    states
}

fn read<S: StateSchema>(mut bytes: &[u8]) -> Result<S, StateError> {
    read_state(&mut bytes, &Limits::default())
}

fn written<S: StateSchema>(state: &S, version: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let done = write_state(state, version, &mut bytes);
    assert!(done.is_ok(), "version {version} is not written: {done:?}");
    bytes
}

fn text_of<S: Debug>(state: &S) -> String {
    format!("{state:#?}\n")
}

fn read_file(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use serde::{Deserialize, Serialize};

    use super::super::*;
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Counter {
        value: u32,
    }

    impl StateSchema for Counter {
        const KIND: DeviceKind = DeviceKind::Null;
        const VERSION: u16 = 1;
        const VERSION_OLDEST: u16 = 1;
        const SUPPORT: SchemaSupport = SchemaSupport::Savable;

        fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
            out.section(Tag::new(*b"CNTR"), 1, Importance::Critical, self)
        }

        fn read(input: &mut StateReader<'_>) -> Result<Self, StateError> {
            let tag = Tag::new(*b"CNTR");
            let mut state = None;
            while let Some(section) = input.next_section()? {
                match (section.tag, section.version) {
                    (found, 1) if found == tag => state = Some(section.decode()?),
                    _ => input.unknown(&section)?,
                }
            }
            state.ok_or(StateError::MissingSection { tag })
        }
    }

    /// A folder with one golden state of version 1, which `spoil` may change before the check.
    fn complaint(spoil: impl FnOnce(&Path), samples: &[(&str, Counter)]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        bless(
            &folder.path().join("v1"),
            &[("seven", Counter { value: 7 })],
        );
        spoil(folder.path());
        let checked = catch_unwind(AssertUnwindSafe(|| check(folder.path(), samples)));
        checked
            .err()
            .map(|panic| *panic.downcast::<String>().unwrap())
    }

    #[test]
    fn sound_states_pass() {
        assert_eq!(complaint(|_| (), &[("seven", Counter { value: 7 })]), None);
    }

    #[test]
    fn each_fault_is_named() {
        let seven = [("seven", Counter { value: 7 })];
        let write = |name: &'static str, bytes: &'static [u8]| {
            move |folder: &Path| fs::write(folder.join("v1").join(name), bytes).unwrap()
        };
        let named = |complaint: Option<String>, words: &str| {
            let complaint = complaint.unwrap();
            assert!(
                complaint.contains(words),
                "{complaint:?} does not say {words:?}"
            );
        };
        named(
            complaint(|_| (), &[("seven", Counter { value: 8 })]),
            "written differently now",
        );
        named(
            complaint(|_| (), &[("eight", Counter { value: 7 })]),
            "states in",
        );
        named(complaint(write("seven.txt", b"Counter 8"), &seven), "means");
        named(
            complaint(write("seven.state", b"VHUSTATE"), &seven),
            "is refused",
        );
        named(
            complaint(write("eight.state", b""), &seven),
            "the states and the texts",
        );
        named(complaint(write("readme", b""), &seven), "holds other files");
        let remove = |folder: &Path| {
            fs::remove_file(folder.join("v1/seven.state")).unwrap();
            fs::remove_file(folder.join("v1/seven.txt")).unwrap();
        };
        named(complaint(remove, &seven), "has no states of version 1");
    }

    #[test]
    fn blessing_adds_and_never_changes() {
        let folder = tempfile::tempdir().unwrap();
        bless(folder.path(), &[("a", Counter { value: 1 })]);
        let first = read_file(&folder.path().join("a.state"));
        bless(
            folder.path(),
            &[("a", Counter { value: 2 }), ("b", Counter { value: 3 })],
        );
        assert_eq!(read_file(&folder.path().join("a.state")), first);
        assert_eq!(
            names_in(folder.path()),
            ["a", "b"].map(str::to_owned).into()
        );
    }
}
