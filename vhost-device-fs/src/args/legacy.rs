//! virtiofsd's old options: `-o` with a list, and `--socket`. They are written anew as long options before the command line
//! is parsed, so that there is one way to a configuration, and a setting that is given both ways is refused as one that
//! is given twice: what somebody appends to a command line must not override what stands there.
//!
//! Knows spellings only.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// A list that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LegacyError {
    /// No list.
    #[error("-o needs a list of options behind it")]
    NoList,
    /// It is not text.
    #[error("-o {0:?} is not UTF-8")]
    NotText(OsString),
    /// No such option.
    #[error("-o {0}: there is no such option")]
    Unknown(String),
    /// No such value.
    #[error("-o {option}={value}: must be {expected}")]
    Value {
        /// The option.
        option: String,
        /// What it was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

/// The command line, program included, with long options only.
pub fn expand(line: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, LegacyError> {
    let mut line = line.into_iter();
    let mut expanded: Vec<OsString> = line.next().into_iter().collect();
    let mut switches = Switches::default();
    while let Some(argument) = line.next() {
        let bytes = argument.as_bytes();
        if let Some(list) = bytes.strip_prefix(b"-o") {
            let list = match list {
                [] => line.next().ok_or(LegacyError::NoList)?,
                list => OsString::from_vec(list.to_vec()),
            };
            let list = list.into_string().map_err(LegacyError::NotText)?;
            for option in list.split(',') {
                expanded.extend(switches.option(option)?);
            }
        } else if bytes == b"--socket" || bytes.starts_with(b"--socket=") {
            let value = bytes.strip_prefix(b"--socket").unwrap_or_default();
            let mut option = OsString::from("--socket-path");
            option.push(OsStr::from_bytes(value));
            expanded.push(option);
        } else {
            expanded.push(argument);
        }
    }
    expanded.extend(switches.into_options());
    Ok(expanded)
}

/// What can be switched on and off, with the long option for each.
const SWITCHES: [(&str, &str); 6] = [
    ("xattr", "--xattr"),
    ("writeback", "--writeback"),
    ("allow_direct_io", "--allow-direct-io"),
    ("killpriv_v2", "--killpriv-v2"),
    ("posix_acl", "--posix-acl=always"),
    ("security_label", "--security-label=always"),
];

/// Switches as they stand: the last one counts among those of `-o`. What is off is off anyway, unless a long option
/// says otherwise.
#[derive(Default)]
struct Switches {
    on: [bool; SWITCHES.len()],
    no_readdirplus: bool,
}

impl Switches {
    /// Takes one option of a list. Returns the long option, unless it is a switch.
    fn option(&mut self, text: &str) -> Result<Option<OsString>, LegacyError> {
        if let Some((option, value)) = text.split_once('=') {
            return tuple(option, value).map(|long| Some(long.into()));
        }
        let (name, on) = text
            .strip_prefix("no_")
            .map_or((text, true), |name| (name, false));
        let mut known = SWITCHES.iter().zip(&mut self.on);
        if let Some((_, switch)) = known.find(|((short, _), _)| *short == name) {
            *switch = on;
            return Ok(None);
        }
        match text {
            "readdirplus" | "no_readdirplus" => self.no_readdirplus = !on,
            "announce_submounts" => return Ok(Some("--announce-submounts".into())),
            // Locks are the guest's own.
            "no_posix_lock" | "no_flock" => {}
            _ => return Err(LegacyError::Unknown(text.to_owned())),
        }
        Ok(None)
    }

    fn into_options(self) -> impl Iterator<Item = OsString> {
        let on = SWITCHES.into_iter().zip(self.on).filter(|(_, on)| *on);
        let readdirplus = self.no_readdirplus.then(|| "--no-readdirplus".into());
        on.map(|((_, long), _)| long.into()).chain(readdirplus)
    }
}

/// The long option for one with a value.
fn tuple(option: &str, value: &str) -> Result<String, LegacyError> {
    let one_of = |expected, values: &[(&str, &str)], long: &str| {
        let found = values.iter().find(|(short, _)| *short == value);
        let (_, long_value) = found.ok_or_else(|| LegacyError::Value {
            option: option.to_owned(),
            value: value.to_owned(),
            expected,
        })?;
        Ok(format!("{long}={long_value}"))
    };
    match option {
        "source" => Ok(format!("--shared-dir={value}")),
        "xattrmap" => Ok(format!("--xattrmap={value}")),
        "modcaps" => Ok(format!("--modcaps={value}")),
        "cache" => one_of(
            "auto, always, none or metadata",
            &[
                ("auto", "auto"),
                ("always", "always"),
                ("none", "never"),
                ("metadata", "metadata"),
            ],
            "--cache",
        ),
        "loglevel" => one_of(
            "debug, info, warn or err",
            &[
                ("debug", "debug"),
                ("info", "info"),
                ("warn", "warn"),
                ("err", "error"),
            ],
            "--log-level",
        ),
        "sandbox" => one_of(
            "namespace or chroot",
            &[("namespace", "namespace"), ("chroot", "chroot")],
            "--sandbox",
        ),
        _ => Err(LegacyError::Unknown(format!("{option}={value}"))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::FsArgs;
    use super::*;
    use crate::config::{Cache, Config, Negotiation};

    fn long(line: &[&str]) -> Result<Vec<String>, LegacyError> {
        let line = ["program"].iter().chain(line).map(OsString::from);
        let expanded = expand(line)?.into_iter().skip(1);
        Ok(expanded.map(|one| one.into_string().unwrap()).collect())
    }

    #[test]
    fn lists_become_long_options() {
        let line = [
            "--fd=3",
            "-o",
            "source=/share,cache=none,loglevel=err,sandbox=chroot,no_flock,no_posix_lock",
            "-oxattr,no_readdirplus",
            "-o",
            "modcaps=+sys_admin:-chown,xattrmap=:map::user.a=b.:,announce_submounts",
            "-f",
        ];
        let expected = [
            "--fd=3",
            "--shared-dir=/share",
            "--cache=never",
            "--log-level=error",
            "--sandbox=chroot",
            "--modcaps=+sys_admin:-chown",
            "--xattrmap=:map::user.a=b.:",
            "--announce-submounts",
            "-f",
            "--xattr",
            "--no-readdirplus",
        ];
        assert_eq!(long(&line), Ok(expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn every_switch_can_be_on_and_off_and_the_last_counts() {
        for (short, option) in SWITCHES {
            let off = format!("no_{short}");
            assert_eq!(long(&["-o", short]), Ok(vec![option.to_owned()]));
            assert_eq!(long(&["-o", &off]), Ok(Vec::new()));
            assert_eq!(long(&["-o", short, "-o", &off]), Ok(Vec::new()));
            assert_eq!(
                long(&["-o", &off, "-o", short]),
                Ok(vec![option.to_owned()])
            );
        }
        assert_eq!(long(&["-o", "no_readdirplus,readdirplus"]), Ok(Vec::new()));
    }

    #[test]
    fn the_old_name_of_the_socket_is_known() {
        assert_eq!(
            long(&["--socket=/s"]),
            Ok(vec!["--socket-path=/s".to_owned()])
        );
        let apart = vec!["--socket-path".to_owned(), "/s".to_owned()];
        assert_eq!(long(&["--socket", "/s"]), Ok(apart));
        let group = vec!["--socket-group=g".to_owned()];
        assert_eq!(long(&["--socket-group=g"]), Ok(group));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |line: &[&str]| long(line).unwrap_err();
        let unknown = |text: &str| LegacyError::Unknown(text.to_owned());
        assert_eq!(error(&["-o"]), LegacyError::NoList);
        assert_eq!(error(&["-o", "xattr,"]), unknown(""));
        assert_eq!(error(&["-o", "flock"]), unknown("flock"));
        assert_eq!(error(&["-o", "no_source"]), unknown("no_source"));
        assert_eq!(error(&["-o", "timeout=1"]), unknown("timeout=1"));
        assert_eq!(
            error(&["-o", "cache=never"]).to_string(),
            "-o cache=never: must be auto, always, none or metadata"
        );
        assert!(long(&["-o", "sandbox=none"]).is_err(), "as virtiofsd does");
    }

    #[test]
    fn a_list_overrides_no_long_option() {
        let parse = |line: &[&str]| {
            let line = ["program"].iter().chain(line).map(OsString::from);
            FsArgs::try_parse_from(expand(line).unwrap())
        };
        for list in [
            "source=/",
            "cache=always",
            "xattrmap=:map::user.b.:",
            "xattr",
        ] {
            let line = [
                "--shared-dir=/share",
                "--cache=never",
                "--xattrmap=:map::user.a.:",
                "--xattr",
                "-o",
                list,
            ];
            assert!(parse(&line).is_err(), "{list}");
        }
        let args = parse(&["-osource=/share,cache=none,posix_acl,security_label"]).unwrap();
        let expected = Config {
            cache: Cache::Never,
            xattr: true,
            posix_acl: Negotiation::Always,
            security_label: Negotiation::Always,
            ..Config::new("/share")
        };
        assert_eq!(Config::try_from(&args), Ok(expected));
    }
}
