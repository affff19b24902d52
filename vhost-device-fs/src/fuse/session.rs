//! `FUSE_INIT`: what a guest and this back-end agree on. Plain data afterwards: copied freely, carried by the state.
//!
//! We answer a flag only if it is true of what we do under this configuration. Knows no ring and no file.

use common::report::Sparse;
use rustix::io::Errno;

use super::abi::{self, InitIn, InitInExtension, InitOut, init};
use super::input::Input;
use crate::config::{Cache, Config, Negotiation};

/// Greatest data of one READ or WRITE, in bytes.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;
/// The same in pages of 4 KiB.
const PAGES_MAX: u16 = 256;
/// What a guest that does not know `MAX_PAGES` puts into one request, in bytes.
const TRANSFER_BYTES_WITHOUT_MAX_PAGES: u32 = 32 * 4096;
/// Background requests that a guest may have in flight, and above how many it holds back.
const BACKGROUND_MAX: u16 = u16::MAX;
const CONGESTION_THRESHOLD: u16 = BACKGROUND_MAX / 4 * 3;

/// Flags that are true of this back-end however it is configured.
///
/// Not among them is `ATOMIC_O_TRUNC`, which we could do: Linux then sends the OPEN that truncates before it looks whether the
/// file is a running program, and kills that program instead of answering `ETXTBSY`.
const ALWAYS: u64 = init::ASYNC_READ
    | init::BIG_WRITES
    | init::AUTO_INVAL_DATA
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::MAX_PAGES
    | init::INIT_EXT
    | init::CREATE_SUPP_GROUP
    | init::ALLOW_IDMAP;

/// What ACLs take, all of it or nothing: the guest heeds them, leaves the file mode creation mask to us (the host knows
/// whether a directory has a default ACL), and tells when a new ACL is to take the set-group-id bit away.
const ACLS: u64 = init::POSIX_ACL | init::DONT_MASK | init::SETXATTR_EXT;

/// Flags that let the guest do something which needs nothing of us: a back-end that does not offer them can take over a session
/// that has them.
const GUESTS_BUSINESS: u64 = init::CACHE_SYMLINKS;

/// The INIT record of a running session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Minor version of the protocol that both sides speak (the major version is 7).
    pub minor: u32,
    /// The flags that the guest offered, `flags` and `flags2` in one word.
    pub flags_offered: u64,
    /// The flags that we answered: the agreement.
    pub flags: u64,
    /// Greatest read-ahead, in bytes.
    pub max_readahead: u32,
    /// Greatest data of a WRITE, in bytes.
    pub max_write: u32,
    /// Greatest number of pages in a request.
    pub max_pages: u16,
    /// Greatest number of background requests.
    pub max_background: u16,
    /// Number of background requests above which the guest holds back.
    pub congestion_threshold: u16,
    /// Granularity of timestamps, in nanoseconds.
    pub time_granularity_ns: u32,
}

/// A session that this back-end, as configured, could not have agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionMismatch {
    /// A version that we do not speak.
    #[error(
        "state stream: session of FUSE 7.{0}, and this back-end speaks 7.{oldest} to 7.{newest}",
        oldest = abi::MINOR_VERSION_OLDEST,
        newest = abi::MINOR_VERSION
    )]
    Version(u32),
    /// Flags that the guest did not offer.
    #[error("state stream: session flags {0:#x} were agreed on but never offered by the guest")]
    NeverOffered(u64),
    /// Flags that this configuration does not have.
    #[error(
        "state stream: session flags {flags:#x} ({names}) are not offered by this back-end's configuration"
    )]
    Unsupported {
        /// The flags.
        flags: u64,
        /// The options that would offer them.
        names: &'static str,
    },
    /// Flags that only come together.
    #[error(
        "state stream: session with flags {0:#x} of POSIX ACLs without the others ({ACLS:#x}), which nobody agrees on"
    )]
    HalfAcls(u64),
    /// Flags without which this configuration lets no session begin.
    #[error(
        "state stream: session without flags {flags:#x}, which this back-end's configuration demands ({name})"
    )]
    Demanded {
        /// The flags.
        flags: u64,
        /// The option that demands them.
        name: &'static str,
    },
    /// Requests larger than ours.
    #[error(
        "state stream: session with requests of {0} bytes, and this back-end takes {TRANSFER_BYTES_MAX}"
    )]
    TransferSize(u32),
}

impl SessionOptions {
    /// Whether all of `flags` (of [`abi::init`]) were agreed on.
    pub fn has(&self, flags: u64) -> bool {
        self.flags & flags == flags
    }

    /// Whether the guest holds back writes and knows sizes and times better than we do.
    pub fn writeback(&self) -> bool {
        self.has(init::WRITEBACK_CACHE)
    }

    /// Whether the guest mounts what we announce as mount points.
    pub fn submounts(&self) -> bool {
        self.has(init::SUBMOUNTS)
    }

    /// Whether removing set-user-id and set-group-id bits is left to us.
    pub fn kill_privileges(&self) -> bool {
        self.has(init::HANDLE_KILLPRIV_V2)
    }

    /// Whether guest and host heed POSIX ACLs, and file mode creation masks are left to us.
    pub fn acls(&self) -> bool {
        self.has(ACLS)
    }

    /// Whether the guest asks us for its locks of fcntl(2), instead of keeping them to itself.
    pub fn posix_locks(&self) -> bool {
        self.has(init::POSIX_LOCKS)
    }

    /// Whether a session that began on another back-end could have begun on one configured like this.
    pub fn fits(&self, config: &Config) -> Result<(), SessionMismatch> {
        if !(abi::MINOR_VERSION_OLDEST..=abi::MINOR_VERSION).contains(&self.minor) {
            return Err(SessionMismatch::Version(self.minor));
        }
        let never_offered = self.flags & !self.flags_offered;
        if never_offered != 0 {
            return Err(SessionMismatch::NeverOffered(never_offered));
        }
        let unsupported = self.flags & !(supported(config) | GUESTS_BUSINESS);
        if unsupported != 0 {
            return Err(SessionMismatch::Unsupported {
                flags: unsupported,
                names: option_for(unsupported),
            });
        }
        let acls = self.flags & ACLS;
        if acls != 0 && acls != ACLS {
            return Err(SessionMismatch::HalfAcls(acls));
        }
        if let Some((flags, name, _)) = demanded(config, self.flags) {
            return Err(SessionMismatch::Demanded { flags, name });
        }
        if self.max_write > TRANSFER_BYTES_MAX || self.max_pages > PAGES_MAX {
            return Err(SessionMismatch::TransferSize(self.max_write));
        }
        Ok(())
    }
}

/// The flags that this configuration has, whatever the guest can.
fn supported(config: &Config) -> u64 {
    let caches = config.cache != Cache::Never;
    ALWAYS
        | flag_if(
            config.readdirplus && caches,
            init::DO_READDIRPLUS | init::READDIRPLUS_AUTO,
        )
        | flag_if(caches, init::CACHE_SYMLINKS)
        | flag_if(config.remote_posix_locks, init::POSIX_LOCKS)
        | flag_if(config.remote_flock, init::FLOCK_LOCKS)
        | flag_if(config.writeback, init::WRITEBACK_CACHE)
        | flag_if(config.announce_submounts, init::SUBMOUNTS)
        | flag_if(config.killpriv_v2, init::HANDLE_KILLPRIV_V2)
        | flag_if(config.allow_mmap, init::DIRECT_IO_ALLOW_MMAP)
        | flag_if(
            config.security_label != Negotiation::Never,
            init::SECURITY_CTX,
        )
        | flag_if(config.posix_acl != Negotiation::Never, ACLS)
}

/// What this configuration demands of every session and `flags` do not have: the flags, the option, and what it means that
/// they are missing.
fn demanded(config: &Config, flags: u64) -> Option<(u64, &'static str, &'static str)> {
    [
        (
            config.security_label,
            init::SECURITY_CTX,
            "--security-label=always",
            "cannot label what it creates",
        ),
        (
            config.posix_acl,
            ACLS,
            "--posix-acl=always",
            "cannot heed POSIX ACLs",
        ),
    ]
    .into_iter()
    .find(|(when, demanded, ..)| *when == Negotiation::Always && flags & demanded != *demanded)
    .map(|(_, flags, name, why)| (flags, name, why))
}

fn flag_if(condition: bool, flags: u64) -> u64 {
    if condition { flags } else { 0 }
}

/// The option of the command line that offers one of these flags.
fn option_for(flags: u64) -> &'static str {
    [
        (
            init::DO_READDIRPLUS | init::READDIRPLUS_AUTO,
            "no --no-readdirplus, no --cache=never",
        ),
        (init::POSIX_LOCKS, "--remote-posix-locks"),
        (init::FLOCK_LOCKS, "--remote-flock"),
        (init::WRITEBACK_CACHE, "--writeback"),
        (init::SUBMOUNTS, "--announce-submounts"),
        (init::HANDLE_KILLPRIV_V2, "--killpriv-v2"),
        (init::DIRECT_IO_ALLOW_MMAP, "--allow-mmap"),
        (init::SECURITY_CTX, "--security-label"),
        (ACLS, "--posix-acl"),
    ]
    .into_iter()
    .find_map(|(of_option, name)| (flags & of_option != 0).then_some(name))
    .unwrap_or("of a newer version")
}

/// What to answer to INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The reply.
    pub reply: InitOut,
    /// The session that begins; `None` if the guest is to ask again in our major version.
    pub session: Option<SessionOptions>,
}

/// Reads the guest's INIT and decides.
pub fn negotiate(config: &Config, input: &mut Input<'_>) -> Result<Answer, Errno> {
    let asked: InitIn = input.take()?;
    if asked.major > abi::MAJOR_VERSION {
        let reply = InitOut {
            major: abi::MAJOR_VERSION,
            minor: abi::MINOR_VERSION,
            ..InitOut::default()
        };
        return Ok(Answer {
            reply,
            session: None,
        });
    }
    if asked.major < abi::MAJOR_VERSION || asked.minor < abi::MINOR_VERSION_OLDEST {
        return Err(refuse(&format_args!(
            "speaks FUSE {}.{}, too old",
            asked.major, asked.minor
        )));
    }
    let mut offered = u64::from(asked.flags);
    if offered & init::INIT_EXT != 0 {
        let extension: InitInExtension = input.take()?;
        offered |= u64::from(extension.flags2) << 32;
    }
    if let Some((_, name, why)) = demanded(config, offered) {
        return Err(refuse(&format_args!("{why}, and {name} is set")));
    }
    let session = agree(config, &asked, offered);
    Ok(Answer {
        reply: reply(&session),
        session: Some(session),
    })
}

/// Tells the operator why, though not each time that a guest asks.
fn refuse(why: &dyn std::fmt::Display) -> Errno {
    static REFUSED: Sparse = Sparse::new();
    if let Some(count) = REFUSED.count() {
        log::error!("guest: {why} (refused {count} times)");
    }
    Errno::PROTO
}

fn agree(config: &Config, asked: &InitIn, offered: u64) -> SessionOptions {
    let mut flags = offered & supported(config);
    if flags & ACLS != ACLS {
        flags &= !ACLS;
    }
    let (max_write, max_pages) = if flags & init::MAX_PAGES == 0 {
        (TRANSFER_BYTES_WITHOUT_MAX_PAGES, 0)
    } else {
        (TRANSFER_BYTES_MAX, PAGES_MAX)
    };
    SessionOptions {
        minor: asked.minor.min(abi::MINOR_VERSION),
        flags_offered: offered,
        flags,
        max_readahead: asked.max_readahead,
        max_write,
        max_pages,
        max_background: BACKGROUND_MAX,
        congestion_threshold: CONGESTION_THRESHOLD,
        time_granularity_ns: 1,
    }
}

fn reply(session: &SessionOptions) -> InitOut {
    let [low, high] = [session.flags, session.flags >> 32].map(|word| (word & 0xffff_ffff) as u32);
    InitOut {
        major: abi::MAJOR_VERSION,
        minor: abi::MINOR_VERSION,
        max_readahead: session.max_readahead,
        flags: low,
        max_background: session.max_background,
        congestion_threshold: session.congestion_threshold,
        max_write: session.max_write,
        time_granularity: session.time_granularity_ns,
        max_pages: session.max_pages,
        flags2: high,
        ..InitOut::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Wire;
    use super::*;

    fn ask(config: &Config, major: u32, minor: u32, flags: u64) -> Result<Answer, Errno> {
        let mut bytes = Vec::new();
        let asked = InitIn {
            major,
            minor,
            max_readahead: 128 << 10,
            flags: (flags & 0xffff_ffff) as u32,
        };
        asked.append(&mut bytes);
        if flags & init::INIT_EXT != 0 {
            let extension = InitInExtension {
                flags2: (flags >> 32) as u32,
                ..InitInExtension::default()
            };
            extension.append(&mut bytes);
        }
        negotiate(config, &mut Input::new(&bytes))
    }

    fn session(config: &Config, flags: u64) -> SessionOptions {
        ask(config, 7, 45, flags).unwrap().session.unwrap()
    }

    #[test]
    fn no_flag_is_answered_that_is_not_true() {
        let config = Config::new("/");
        let agreed = session(&config, u64::MAX).flags;
        let never = init::POSIX_LOCKS
            | init::FLOCK_LOCKS
            | init::EXPORT_SUPPORT
            | init::HAS_IOCTL_DIR
            | init::POSIX_ACL
            | init::DONT_MASK
            | init::SETXATTR_EXT
            | init::NO_OPEN_SUPPORT
            | init::HAS_INODE_DAX
            | init::PASSTHROUGH
            | init::OVER_IO_URING;
        assert_eq!(agreed & never, 0);
        assert_eq!(agreed & ALWAYS, ALWAYS);
    }

    #[test]
    fn options_decide_about_flags() {
        type Enable = fn(&mut Config);
        let options: [(u64, Enable); 8] = [
            (init::POSIX_LOCKS, |config| config.remote_posix_locks = true),
            (init::FLOCK_LOCKS, |config| config.remote_flock = true),
            (init::WRITEBACK_CACHE, |config| config.writeback = true),
            (init::HANDLE_KILLPRIV_V2, |config| config.killpriv_v2 = true),
            (init::DIRECT_IO_ALLOW_MMAP, |config| {
                config.allow_mmap = true;
            }),
            (init::SECURITY_CTX, |config| {
                config.security_label = Negotiation::Auto;
            }),
            (init::SUBMOUNTS, |config| config.announce_submounts = true),
            (ACLS, |config| config.posix_acl = Negotiation::Auto),
        ];
        for (flag, enable) in options {
            let mut config = Config::new("/");
            config.announce_submounts = false;
            assert_eq!(session(&config, u64::MAX).flags & flag, 0);
            enable(&mut config);
            assert_eq!(session(&config, u64::MAX).flags & flag, flag);
            assert_eq!(session(&config, !flag).flags & flag, 0, "not offered");
        }
    }

    #[test]
    fn without_the_extension_there_are_no_upper_flags() {
        let mut config = Config::new("/");
        config.allow_mmap = true;
        assert_eq!(session(&config, !init::INIT_EXT).flags >> 32, 0);
    }

    #[test]
    fn versions() {
        let config = Config::new("/");
        let newer = ask(&config, 8, 0, 0).unwrap();
        assert_eq!((newer.reply.major, newer.session), (7, None));
        assert_eq!(ask(&config, 6, 99, 0), Err(Errno::PROTO));
        assert_eq!(ask(&config, 7, 26, 0), Err(Errno::PROTO));
        let oldest = ask(&config, 7, 27, 0).unwrap().session.unwrap();
        assert_eq!((oldest.minor, oldest.max_write), (27, 128 << 10));
        let newest = ask(&config, 7, 99, u64::MAX).unwrap().session.unwrap();
        assert_eq!((newest.minor, newest.max_write), (45, 1 << 20));
    }

    #[test]
    fn an_init_that_ends_early_is_refused() {
        let mut bytes = Vec::new();
        InitIn {
            major: 7,
            minor: 45,
            max_readahead: 0,
            flags: 1 << 30,
        }
        .append(&mut bytes);
        for len in 0..=bytes.len() {
            let answer = negotiate(&Config::new("/"), &mut Input::new(&bytes[..len]));
            assert_eq!(answer, Err(Errno::INVAL));
        }
    }

    #[test]
    fn a_label_that_must_be_needs_a_guest_that_can() {
        let mut config = Config::new("/");
        config.security_label = Negotiation::Always;
        assert_eq!(ask(&config, 7, 45, !init::SECURITY_CTX), Err(Errno::PROTO));
        assert!(session(&config, u64::MAX).has(init::SECURITY_CTX));
    }

    #[test]
    fn acls_are_agreed_on_with_all_that_they_take_or_not_at_all() {
        let mut config = Config::new("/");
        config.posix_acl = Negotiation::Auto;
        for missing in [init::POSIX_ACL, init::DONT_MASK, init::SETXATTR_EXT] {
            let poor = session(&config, !missing);
            assert_eq!(poor.flags & ACLS, 0);
            assert!(!poor.acls());
        }
        let whole = session(&config, u64::MAX);
        assert!(whole.acls());
        for one in [init::POSIX_ACL, init::DONT_MASK, init::SETXATTR_EXT] {
            let forged = SessionOptions {
                flags: whole.flags & !one,
                ..whole
            };
            let refusal = SessionMismatch::HalfAcls(ACLS & !one);
            assert_eq!(forged.fits(&config), Err(refusal));
        }
        config.posix_acl = Negotiation::Always;
        for missing in [init::POSIX_ACL, init::DONT_MASK, init::SETXATTR_EXT] {
            assert_eq!(ask(&config, 7, 45, !missing), Err(Errno::PROTO));
        }
        assert!(session(&config, u64::MAX).acls());
    }

    #[test]
    fn a_session_without_what_must_be_does_not_fit() {
        type Demand = fn(&mut Config, Negotiation);
        let plain = session(&Config::new("/"), u64::MAX);
        let demands: [(&str, Demand); 2] = [
            ("--posix-acl", |config, when| config.posix_acl = when),
            ("--security-label", |config, when| {
                config.security_label = when;
            }),
        ];
        for (option, demand) in demands {
            let mut config = Config::new("/");
            demand(&mut config, Negotiation::Auto);
            assert_eq!(plain.fits(&config), Ok(()));
            let rich = session(&config, u64::MAX);
            let refusal = rich.fits(&Config::new("/")).unwrap_err().to_string();
            assert!(refusal.contains(option), "{refusal}");
            demand(&mut config, Negotiation::Always);
            let refusal = plain.fits(&config).unwrap_err().to_string();
            assert!(refusal.contains(&format!("{option}=always")), "{refusal}");
            assert_eq!(rich.fits(&config), Ok(()));
        }
    }

    #[test]
    fn a_session_fits_the_configuration_it_began_with_and_no_poorer_one() {
        let mut rich = Config::new("/");
        rich.writeback = true;
        let session = session(&rich, u64::MAX);
        assert_eq!(session.fits(&rich), Ok(()));
        let mismatch = session.fits(&Config::new("/")).unwrap_err();
        assert!(mismatch.to_string().contains("--writeback"), "{mismatch}");

        let mut cacheless = rich.clone();
        cacheless.cache = Cache::Never;
        cacheless.readdirplus = false;
        let mut with_readdir = rich.clone();
        with_readdir.readdirplus = false;
        let session_with_links = self::session(&with_readdir, u64::MAX);
        assert!(session_with_links.has(init::CACHE_SYMLINKS));
        assert_eq!(
            session_with_links.fits(&cacheless),
            Ok(()),
            "the guest's business"
        );
        assert!(!self::session(&cacheless, u64::MAX).has(init::CACHE_SYMLINKS));

        let forged = SessionOptions {
            flags_offered: 0,
            ..session
        };
        assert_eq!(
            forged.fits(&rich),
            Err(SessionMismatch::NeverOffered(session.flags))
        );
        let forged = SessionOptions {
            minor: 12,
            ..session
        };
        assert_eq!(forged.fits(&rich), Err(SessionMismatch::Version(12)));
        let forged = SessionOptions {
            max_write: u32::MAX,
            ..session
        };
        assert_eq!(
            forged.fits(&rich),
            Err(SessionMismatch::TransferSize(u32::MAX))
        );
    }
}
