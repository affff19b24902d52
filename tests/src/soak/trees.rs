//! Are two folders the same: names, kinds, targets of links, sizes, content?

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// What is different between two folders, by paths in them.
pub(super) fn differences(one: &Path, other: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    compare(one, other, Path::new(""), &mut found)?;
    Ok(found)
}

fn compare(one: &Path, other: &Path, at: &Path, found: &mut Vec<String>) -> Result<()> {
    let (here, there) = (names(&one.join(at))?, names(&other.join(at))?);
    for name in here.symmetric_difference(&there) {
        found.push(format!("{}: only on one side", at.join(name).display()));
    }
    for name in here.intersection(&there) {
        let at = at.join(name);
        let (here, there) = (one.join(&at), other.join(&at));
        let kinds = [&here, &there].map(|path| fs::symlink_metadata(path).map(|m| m.file_type()));
        let [Ok(kind), Ok(other_kind)] = kinds else {
            found.push(format!("{}: cannot be looked at", at.display()));
            continue;
        };
        let same = if kind != other_kind {
            false
        } else if kind.is_dir() {
            compare(one, other, &at, found)?;
            true
        } else if kind.is_symlink() {
            fs::read_link(&here)? == fs::read_link(&there)?
        } else {
            !kind.is_file() || fs::read(&here)? == fs::read(&there)?
        };
        if !same {
            found.push(format!("{}: not the same", at.display()));
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<BTreeSet<OsString>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|entry| Ok(entry?.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let [one, other] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        for folder in [&one, &other] {
            fs::create_dir(folder.path().join("deep")).unwrap();
            fs::write(folder.path().join("deep/same"), "same").unwrap();
            fs::write(folder.path().join("deep/other"), "one").unwrap();
        }
        let differ = || differences(one.path(), other.path()).unwrap();
        assert_eq!(differ(), Vec::<String>::new());
        fs::write(other.path().join("deep/other"), "two").unwrap();
        fs::write(one.path().join("extra"), "").unwrap();
        assert_eq!(
            differ(),
            ["extra: only on one side", "deep/other: not the same"]
        );
    }
}
