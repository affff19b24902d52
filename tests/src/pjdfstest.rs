//! What pjdfstest is told, and how its verdicts are read and compared.
//!
//! Knows neither where it runs nor what happens meanwhile.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

/// Its configuration. It switches users by name; these two are on every Debian.
pub const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Cases that pjdfstest itself leaves out on any FUSE file system, with its reason.
const LEFT_OUT: [&str; 1] = [
    // It asks pathconf(3) for the greatest number of links, which glibc derives from the type of the file system.
    "link::link_count_max",
];

/// Its verdict on each case.
pub type Verdicts = BTreeMap<String, String>;

/// Reads them from what it printed.
pub fn verdicts(output: &str) -> Result<Verdicts> {
    let mut verdicts = BTreeMap::new();
    for line in output.lines() {
        let mut words = line.split_whitespace();
        if let (Some(case), Some(verdict)) = (words.next(), words.next())
            && case.contains("::")
        {
            verdicts.insert(case.to_owned(), verdict.to_owned());
        }
    }
    // A run that broke off must not look like one without failures.
    let total = output
        .lines()
        .find(|line| line.starts_with("Summary:"))
        .and_then(|line| line.split_whitespace().rev().nth(1)?.parse::<usize>().ok());
    let Some(total) = total else {
        bail!("the suite has not come to its end:\n{output}");
    };
    ensure!(
        total > 300 && verdicts.len() == total,
        "{total} cases, {} verdicts",
        verdicts.len()
    );
    Ok(verdicts)
}

/// What is worse in `ours` than in `bare`.
pub fn worse(bare: &Verdicts, ours: &Verdicts) -> Vec<String> {
    let failed = |verdict: &str| verdict.to_lowercase().contains("fail");
    bare.iter()
        .filter_map(|(case, expected)| {
            let verdict = ours.get(case).map_or("missing", String::as_str);
            let left_out = verdict == "skipped" && LEFT_OUT.contains(&case.as_str());
            let fine = left_out
                || verdict == "ok"
                || verdict == expected
                || (failed(verdict) && failed(expected));
            (!fine).then(|| format!("{case}: {verdict}, but {expected} without us"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The judge itself: a failure that the bare file system does not have is seen, and so is a run that broke off.
    #[test]
    fn a_difference_would_be_found() {
        let table = |text: &str| -> Verdicts {
            text.split(", ")
                .map(|entry| entry.split_once('=').unwrap())
                .map(|(case, verdict)| (case.to_owned(), verdict.to_owned()))
                .collect()
        };
        let bare = table("a::b=ok, a::c=FAILED, a::d=skipped");
        assert_eq!(worse(&bare, &bare), Vec::<String>::new());
        assert_eq!(
            worse(&bare, &table("a::b=FAILED, a::c=ok, a::d=ok")).len(),
            1
        );
        assert_eq!(
            worse(&bare, &table("a::b=skipped, a::c=FAILED, a::d=FAILED")).len(),
            2
        );
        assert_eq!(worse(&bare, &table("a::b=ok, a::c=FAILED")).len(), 1);
        assert!(verdicts("a::b ok\n").is_err());
    }
}
