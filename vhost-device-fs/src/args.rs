//! The command line: virtiofsd's names and meanings wherever an option exists there, and its [`Config`].
//!
//! An option of virtiofsd that we do not have is refused by name and with what to do instead; one that changes
//! nothing here is accepted. clap refuses a second `--shared-dir`, `--sandbox` and the like: the last one must not
//! win over the operator's.

mod identity;
mod legacy;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser};
use common::args::{DaemonArgs, Level};
use common::daemon::Logging;
use common::sandbox::IdMaps;

use crate::config::{
    BUSY_POLL_US, BUSY_POLL_US_MAX, Cache, Config, MigrationOnError, REQUEST_RINGS_MAX,
    TAG_BYTES_MAX,
};
use crate::sandbox::{Mode, SandboxArgs};
use crate::translation::TranslationError;

pub use identity::IdentityArgs;
pub use legacy::{LegacyError, expand};

/// A command line that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// An option of virtiofsd that is not there.
    #[error("{option} is not available in this version: {instead}")]
    NotAvailable {
        /// The option, with its value where that is the matter.
        option: String,
        /// What the operator can do.
        instead: &'static str,
    },
    /// A mount tag that does not fit into the config space.
    #[error("--tag has {0} bytes, and must have 1 to {TAG_BYTES_MAX}")]
    Tag(usize),
    /// Ranges of ids that contradict each other.
    #[error(transparent)]
    Translation(#[from] TranslationError),
    /// An ACL names users by numbers that are not translated.
    #[error(
        "--posix-acl cannot be used with --translate-uid and --translate-gid, which do not reach into ACLs"
    )]
    TranslatedAcls,
    /// Ids of a namespace that is not made.
    #[error("--uid-map and --gid-map take --sandbox=namespace")]
    MapsWithoutNamespace,
    /// The host inherits ACLs by their own names only.
    #[error(
        "--posix-acl cannot be used with an --xattrmap that does not pass {0} through unchanged: end it with rules such as :ok:all:system.posix_acl_:system.posix_acl_: before those that catch it"
    )]
    MappedAcls(&'static str),
}

/// Shares a host directory with a guest over virtio-fs, and moves with it.
#[derive(Debug, Parser)]
#[command(name = "vhost-device-fs", version)]
pub struct FsArgs {
    /// What all daemons share.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// How the guest sees the directory.
    #[command(flatten)]
    pub share: ShareArgs,
    /// Who is who, and which attributes files have.
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// How it moves to another host.
    #[command(flatten)]
    pub migration: MigrationArgs,
    /// What it gives up.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    /// Options of virtiofsd that mean nothing here, or are not here.
    #[command(flatten)]
    pub compatibility: CompatibilityArgs,
    /// Limit of open files; 0 leaves it as it is [default: 1000000, or what the host allows]
    #[arg(long, value_name = "NUMBER")]
    pub rlimit_nofile: Option<u64>,
}

/// How the guest sees the directory.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent switches of the operator's"
)]
pub struct ShareArgs {
    /// Directory that the guest sees
    #[arg(long, value_name = "DIR")]
    pub shared_dir: PathBuf,

    /// Mount tag of 1 to 36 bytes, for a front-end that has none of its own
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,

    /// Request rings to offer; the front-end uses as many as it was told to
    #[arg(long, value_name = "NUMBER", default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(REQUEST_RINGS_MAX)))]
    pub num_request_queues: u16,

    /// How long, in microseconds, a thread looks for more requests before it sleeps, if the last one came so soon
    #[arg(long, value_name = "US", default_value_t = BUSY_POLL_US,
        value_parser = clap::value_parser!(u16).range(0..=BUSY_POLL_US_MAX))]
    pub busy_poll_us: u16,

    /// What the guest may cache, and for how long
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    pub cache: Cache,

    /// Seconds for which the guest may remember that there is nothing of a name; what somebody else makes is not seen for so
    /// long [default: a day with --cache always, otherwise 0]
    #[arg(long, value_name = "SECONDS")]
    pub negative_timeout: Option<u32>,

    /// Lets the guest hold back writes; nobody else may then write to the files
    #[arg(long)]
    pub writeback: bool,

    /// Does not offer READDIRPLUS
    #[arg(long)]
    pub no_readdirplus: bool,

    /// Refuses every change
    #[arg(long)]
    pub readonly: bool,

    /// Passes `O_DIRECT` on to the host's files
    #[arg(long)]
    pub allow_direct_io: bool,

    /// Lets the guest map files although it may not cache them (--cache never or metadata)
    #[arg(long)]
    pub allow_mmap: bool,

    /// Shows mount points below the directory as such; this is the default
    #[arg(long, overrides_with = "no_announce_submounts")]
    pub announce_submounts: bool,

    /// Hides mount points below the directory
    #[arg(long)]
    pub no_announce_submounts: bool,

    /// Passes `O_NOATIME` on to the host's files
    #[arg(long)]
    pub preserve_noatime: bool,

    /// Removes set-user-id and set-group-id bits here, not in the guest
    #[arg(long, overrides_with = "no_killpriv_v2")]
    pub killpriv_v2: bool,

    /// Leaves that to the guest; this is the default
    #[arg(long)]
    pub no_killpriv_v2: bool,

    /// Lets others who use the share see the guest's fcntl(2) locks, and the guest theirs. A program that waits for one
    /// cannot be interrupted, and a deadlock is not noticed
    #[arg(long)]
    pub remote_posix_locks: bool,

    /// The same for flock(2) locks
    #[arg(long)]
    pub remote_flock: bool,
}

/// How the device moves to another host.
#[derive(Debug, Args)]
pub struct MigrationArgs {
    /// What to do about a file that the destination does not find: let the migration fail, or let the guest see an
    /// error on that file
    #[arg(long, value_enum, value_name = "ACTION", default_value_t)]
    pub migration_on_error: MigrationOnError,

    /// Most bytes of files that are deleted but still open, which move inside the state, in total
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    pub migration_orphan_bytes_max: u64,

    /// No effect: the destination always finds files by the names that the guest knows them by, as with
    /// `find-paths`. A file handle of another daemon is never opened, because a forged one reaches any file
    #[arg(long, value_name = "MODE", value_parser = ["find-paths", "file-handles"])]
    pub migration_mode: Option<String>,

    /// No effect: files are always verified at the destination
    #[arg(long)]
    pub migration_verify_handles: bool,

    /// No effect: paths are always kept up to date
    #[arg(long)]
    pub migration_confirm_paths: bool,
}

/// Options of virtiofsd that callers pass.
#[derive(Debug, Args)]
pub struct CompatibilityArgs {
    /// No effect: every ring has a thread of its own
    #[arg(long, value_name = "NUMBER")]
    pub thread_pool_size: Option<usize>,

    /// No effect: an inode costs no descriptor in any case, and no file handle is needed for that
    #[arg(long, value_name = "WHEN", require_equals = true, value_parser = ["never", "prefer", "mandatory", "fallback"])]
    pub inode_file_handles: Option<String>,

    /// Logs to the system's log instead of standard error
    #[arg(long)]
    pub syslog: bool,

    /// Old spellings of long options, separated by commas: `source=`, `cache=`, `loglevel=`, `sandbox=`, `xattrmap=`,
    /// `modcaps=`, `announce_submounts`, `no_posix_lock`, `no_flock`; and with or without `no_` in front: `xattr`,
    /// `readdirplus`, `writeback`, `allow_direct_io`, `killpriv_v2`, `posix_acl`, `security_label`. They never override a
    /// long option
    #[arg(short = 'o', value_name = "LIST", action = ArgAction::Append)]
    legacy: Vec<String>,

    #[arg(short = 'f', hide = true)]
    foreground: bool,
    #[arg(short = 'd', hide = true)]
    debug: bool,
}

impl FsArgs {
    /// How much to log, and where; `-d` is virtiofsd's old way to ask for more.
    pub fn logging(&self) -> Logging {
        let level = if self.compatibility.debug {
            Level::Debug
        } else {
            self.daemon.log_level
        };
        Logging {
            level,
            syslog: self.compatibility.syslog,
        }
    }
}

impl CompatibilityArgs {
    /// Refuses what would not be done.
    fn check(&self) -> Result<(), ArgsError> {
        let Self {
            thread_pool_size: _,
            inode_file_handles: _,
            syslog: _,
            legacy,
            foreground: _,
            debug: _,
        } = self;
        // `expand` has taken them away, but for one that hides behind another short option.
        never(!legacy.is_empty(), "-o", BY_ITSELF)
    }
}

// What an operator can do instead.
const BY_ITSELF: &str = "write it by itself, not behind other letters";

/// Refuses an option.
fn never(present: bool, option: &str, instead: &'static str) -> Result<(), ArgsError> {
    if present {
        let option = option.to_owned();
        return Err(ArgsError::NotAvailable { option, instead });
    }
    Ok(())
}

impl TryFrom<&FsArgs> for Config {
    type Error = ArgsError;

    fn try_from(args: &FsArgs) -> Result<Self, ArgsError> {
        args.compatibility.check()?;
        args.identity.check()?;
        let (share, identity) = (&args.share, &args.identity);
        let maps = !identity.uid_map.is_empty() || !identity.gid_map.is_empty();
        if maps && matches!(args.sandbox.sandbox, Some(Mode::None | Mode::Chroot)) {
            return Err(ArgsError::MapsWithoutNamespace);
        }
        if let Some(tag) = &share.tag
            && !(1..=TAG_BYTES_MAX).contains(&tag.len())
        {
            return Err(ArgsError::Tag(tag.len()));
        }
        let defaults = Self::new(&share.shared_dir);
        Ok(Self {
            tag: share.tag.clone(),
            request_rings: share.num_request_queues,
            busy_poll: Duration::from_micros(u64::from(share.busy_poll_us)),
            cache: share.cache,
            negative_timeout: share
                .negative_timeout
                .map(|seconds| Duration::from_secs(seconds.into())),
            writeback: share.writeback,
            readdirplus: !share.no_readdirplus,
            xattr: identity.xattr(),
            security_label: identity.security_label,
            posix_acl: identity.posix_acl,
            xattr_map: identity.xattrmap.clone(),
            translations: identity.translations()?,
            id_maps: IdMaps {
                users: identity.uid_map.clone(),
                groups: identity.gid_map.clone(),
            },
            readonly: share.readonly,
            allow_direct_io: share.allow_direct_io,
            allow_mmap: share.allow_mmap && matches!(share.cache, Cache::Never | Cache::Metadata),
            announce_submounts: !share.no_announce_submounts,
            preserve_noatime: share.preserve_noatime,
            killpriv_v2: share.killpriv_v2,
            remote_posix_locks: share.remote_posix_locks,
            remote_flock: share.remote_flock,
            migration_on_error: args.migration.migration_on_error,
            orphan_bytes_max: args.migration.migration_orphan_bytes_max,
            ..defaults
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::Negotiation;
    use crate::translation::{Translation, Translations};

    fn config(args: &[&str]) -> Result<Config, ArgsError> {
        let line = ["vhost-device-fs", "--shared-dir", "/share"]
            .iter()
            .chain(args);
        Config::try_from(&FsArgs::try_parse_from(line).unwrap())
    }

    #[test]
    fn the_command_is_consistent() {
        FsArgs::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_configuration() {
        assert_eq!(config(&[]), Ok(Config::new("/share")));
    }

    #[test]
    fn options_reach_the_configuration() {
        let line = [
            "--tag=myfs",
            "--num-request-queues=4",
            "--busy-poll-us=50",
            "--cache=metadata",
            "--negative-timeout=7",
            "--writeback",
            "--no-readdirplus",
            "--security-label",
            "--readonly",
            "--allow-direct-io",
            "--allow-mmap",
            "--no-announce-submounts",
            "--preserve-noatime",
            "--killpriv-v2",
            "--remote-posix-locks",
            "--remote-flock",
            "--migration-on-error=guest-error",
            "--migration-orphan-bytes-max=4096",
        ];
        let expected = Config {
            shared_dir: "/share".into(),
            tag: Some("myfs".into()),
            request_rings: 4,
            busy_poll: Duration::from_micros(50),
            cache: Cache::Metadata,
            negative_timeout: Some(Duration::from_secs(7)),
            writeback: true,
            readdirplus: false,
            xattr: true,
            security_label: Negotiation::Always,
            readonly: true,
            allow_direct_io: true,
            allow_mmap: true,
            announce_submounts: false,
            preserve_noatime: true,
            killpriv_v2: true,
            remote_posix_locks: true,
            remote_flock: true,
            migration_on_error: MigrationOnError::GuestError,
            orphan_bytes_max: 4096,
            ..Config::new("")
        };
        assert_eq!(config(&line), Ok(expected));
    }

    #[test]
    fn the_last_of_a_pair_counts() {
        let submounts = |args: &[&str]| config(args).unwrap().announce_submounts;
        assert!(submounts(&["--announce-submounts"]));
        assert!(submounts(&[
            "--no-announce-submounts",
            "--announce-submounts"
        ]));
        assert!(!submounts(&[
            "--announce-submounts",
            "--no-announce-submounts"
        ]));
        let killpriv = |args: &[&str]| config(args).unwrap().killpriv_v2;
        assert!(killpriv(&["--no-killpriv-v2", "--killpriv-v2"]));
        assert!(!killpriv(&["--killpriv-v2", "--no-killpriv-v2"]));
    }

    #[test]
    fn what_callers_of_virtiofsd_pass_is_accepted() {
        let kubevirt = [
            "--sandbox=none",
            "--cache=auto",
            "--migration-on-error=guest-error",
            "--migration-mode=find-paths",
        ];
        assert!(config(&kubevirt).is_ok());
        let others = [
            "--thread-pool-size=4",
            "--inode-file-handles=mandatory",
            "--migration-mode=file-handles",
            "--sandbox=chroot",
            "--seccomp=log",
            "--modcaps=-mknod:+sys_admin",
            "--posix-acl=never",
            "--syslog",
            "-f",
            "-d",
            "--migration-confirm-paths",
        ];
        assert!(config(&others).is_ok());
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let refused = [("-fosource=/", "-o")];
        for (argument, name) in refused {
            let error = config(&[argument]).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{name} is not available")),
                "{argument}: {error}"
            );
        }
    }

    #[test]
    fn who_is_who_reaches_the_configuration() {
        let line = [
            "--xattrmap=:map::user.vm.:",
            "--security-label=auto",
            "--translate-uid=host:107:0:1",
            "--translate-uid=guest:0:107:1",
            "--translate-gid=squash-guest:0:100:4294967295",
        ];
        let of = |option, texts: &[&str]| {
            let options: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
            Translation::new(option, &options).unwrap()
        };
        let expected = Config {
            xattr: true,
            xattr_map: Some(":prefix:all::user.vm.::bad:all:::".parse().unwrap()),
            security_label: Negotiation::Auto,
            translations: Translations {
                users: of("", &["map:0:107:1"]),
                groups: of("", &["squash-guest:0:100:4294967295"]),
            },
            ..Config::new("/share")
        };
        assert_eq!(config(&line), Ok(expected));
        for (argument, when) in [
            ("--posix-acl", Negotiation::Always),
            ("--posix-acl=auto", Negotiation::Auto),
            ("--posix-acl=always", Negotiation::Always),
        ] {
            let expected = Config {
                xattr: true,
                posix_acl: when,
                ..Config::new("/share")
            };
            assert_eq!(config(&[argument]), Ok(expected));
        }
    }

    #[test]
    fn acls_do_not_go_with_other_ids_and_names() {
        for translation in ["--translate-uid=map:0:1:1", "--translate-gid=map:0:1:1"] {
            let line = ["--posix-acl=auto", translation];
            assert_eq!(config(&line), Err(ArgsError::TranslatedAcls));
            assert!(config(&["--posix-acl=never", translation]).is_ok());
        }
        let with_map = |map: &str| config(&["--posix-acl", &format!("--xattrmap={map}")]);
        let mapped = [
            (":map::user.vm.:", "system.posix_acl_access"),
            (
                ":map:system.posix_acl_default:user.vm.:",
                "system.posix_acl_default",
            ),
            (
                ":bad:client:system.::  :ok:all:::",
                "system.posix_acl_access",
            ),
        ];
        for (map, name) in mapped {
            assert_eq!(with_map(map), Err(ArgsError::MappedAcls(name)));
        }
        assert!(with_map(":map:security.:user.vm.:").is_ok());
        let exempt = ":ok:all:system.posix_acl_:system.posix_acl_: :map::user.vm.:";
        assert!(with_map(exempt).is_ok());
    }

    #[test]
    fn rules_and_ranges_that_make_no_sense_are_wrong_usage() {
        let refused = [
            ("--xattrmap=:ok:all:a:a:", "rule 1 (byte 0)"),
            ("--translate-uid=guest:0:1", "3 numbers"),
            ("--translate-gid=host:0:1:0", "empty"),
            ("--posix-acl=maybe", "maybe"),
        ];
        for (argument, text) in refused {
            let line = ["vhost-device-fs", "--shared-dir=/share", argument];
            let error = FsArgs::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains(text), "{argument}: {error}");
        }
        let twice = ["--translate-uid=map:0:5:9", "--translate-uid=map:8:0:1"];
        let error = config(&twice).unwrap_err().to_string();
        assert!(error.starts_with("--translate-uid map:8:0:1: "), "{error}");
    }

    #[test]
    fn tags_fit_into_the_config_space() {
        assert_eq!(config(&["--tag="]), Err(ArgsError::Tag(0)));
        assert_eq!(config(&["--tag", &"x".repeat(37)]), Err(ArgsError::Tag(37)));
        assert!(config(&["--tag", &"x".repeat(36)]).is_ok());
    }

    #[test]
    fn an_option_cannot_be_overridden_by_repeating_it() {
        for argument in ["--shared-dir=/", "--sandbox=none"] {
            let line = [
                "vhost-device-fs",
                "--shared-dir=/share",
                "--sandbox=none",
                argument,
            ];
            assert!(FsArgs::try_parse_from(line).is_err(), "{argument}");
        }
        for number in ["0", "64"] {
            let line = [
                "vhost-device-fs",
                "--shared-dir=/share",
                "--num-request-queues",
                number,
            ];
            assert!(FsArgs::try_parse_from(line).is_err(), "{number}");
        }
    }
}
