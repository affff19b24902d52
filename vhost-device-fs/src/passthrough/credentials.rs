//! Acting as the caller in the guest. Credentials on Linux belong to a thread; glibc's wrappers hide that, the system
//! calls below do not.
//!
//! Knows no file. A change of credentials ends with the closure it was made for, whatever happens in there.

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capabilities_secure_bits,
    set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::operations::{Caller, FsResult};
use crate::translation::{Forbidden, Translations};

/// Who the daemon is, noted when it started.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    capabilities: CapabilitySets,
    /// The kernel makes all of these capabilities effective again for a thread that becomes root again (capabilities(7)).
    root_regains_capabilities: bool,
    /// Who the guest's users and groups are on the host.
    translations: Translations,
}

impl From<Forbidden> for Errno {
    fn from(_: Forbidden) -> Self {
        Self::PERM
    }
}

impl Credentials {
    /// Those of this thread.
    pub(crate) fn current(translations: Translations) -> FsResult<Self> {
        let capabilities = capabilities(None)?;
        let keeps_still =
            capabilities_secure_bits()?.contains(CapabilitiesSecureBits::NO_SETUID_FIXUP);
        Ok(Self {
            root_regains_capabilities: !keeps_still
                && capabilities.effective == capabilities.permitted,
            translations,
            uid: rustix::process::geteuid(),
            gid: rustix::process::getegid(),
            groups: rustix::process::getgroups()?,
            capabilities,
        })
    }

    /// Does `work` as `caller`, so that what it creates belongs to the caller.
    ///
    /// A daemon that is not root, or without the privilege to change its user, works as itself. The guest has checked
    /// the caller's permissions, in groups that we do not know of: so the right to write into any directory is kept.
    pub(crate) fn as_caller<T>(
        &self,
        caller: &Caller,
        work: impl FnOnce() -> FsResult<T>,
    ) -> FsResult<T> {
        // To the system calls this number means "leave as it is", that is root.
        let groups = [
            Some(caller.uid),
            Some(caller.gid),
            caller.supplementary_group,
        ];
        if groups.contains(&Some(u32::MAX)) {
            return Err(Errno::INVAL);
        }
        let change = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let users = &self.translations.users;
        let groups = &self.translations.groups;
        let uid = Uid::from_raw(users.to_host(caller.uid)?);
        let gid = Gid::from_raw(groups.to_host(caller.gid)?);
        let group = caller.supplementary_group;
        let group = group.map(|group| groups.to_host(group)).transpose()?;
        let group = group.map(Gid::from_raw);
        let is_us = uid == self.uid && gid == self.gid && group.is_none();
        // Another user than root with these capabilities loses them for good when it goes through user 0 and back.
        if is_us || !self.uid.is_root() || !self.capabilities.effective.contains(change) {
            return work();
        }
        let mut restore = Restore::new(self);
        if group.is_some() || !self.groups.is_empty() {
            restore.changed.groups = true;
            set_thread_groups(group.as_slice())?;
        }
        if gid != self.gid {
            restore.changed.group = true;
            set_thread_res_gid(None, gid, None)?;
        }
        if uid != self.uid {
            restore.changed.user = true;
            restore.changed.capabilities = true;
            set_thread_res_uid(None, uid, None)?;
            set_capabilities(
                None,
                CapabilitySets {
                    effective: self.capabilities.permitted & CapabilitySet::DAC_OVERRIDE,
                    ..self.capabilities
                },
            )?;
        }
        work()
    }

    /// Does `work` without the privilege that keeps set-user-id and set-group-id bits on a file that is changed.
    pub(crate) fn removing_privileges<T>(
        &self,
        wanted: bool,
        work: impl FnOnce() -> FsResult<T>,
    ) -> FsResult<T> {
        if !wanted || !self.capabilities.effective.contains(CapabilitySet::FSETID) {
            return work();
        }
        let mut restore = Restore::new(self);
        restore.changed.capabilities = true;
        set_capabilities(
            None,
            CapabilitySets {
                effective: self.capabilities.effective - CapabilitySet::FSETID,
                ..self.capabilities
            },
        )?;
        work()
    }

    fn restore(&self, changed: Changed) -> FsResult<()> {
        if changed.user {
            // The real and the saved user were never changed, so the way back is open.
            set_thread_res_uid(None, self.uid, None)?;
        }
        if changed.capabilities && !(changed.user && self.root_regains_capabilities) {
            set_capabilities(None, self.capabilities)?;
        }
        if changed.group {
            set_thread_res_gid(None, self.gid, None)?;
        }
        if changed.groups {
            set_thread_groups(&self.groups)?;
        }
        Ok(())
    }
}

/// What was changed, or would have been if that had not failed.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each stands for a system call of its own"
)]
struct Changed {
    user: bool,
    group: bool,
    groups: bool,
    capabilities: bool,
}

/// Puts the daemon's credentials back when it is dropped.
struct Restore<'a> {
    credentials: &'a Credentials,
    changed: Changed,
}

impl<'a> Restore<'a> {
    fn new(credentials: &'a Credentials) -> Self {
        Self {
            credentials,
            changed: Changed::default(),
        }
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        if let Err(errno) = self.credentials.restore(self.changed) {
            // No guest can cause this. Serving the next request as somebody else would be worse than not at all.
            log::error!("host: credentials of a thread could not be restored: {errno}");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translation::Translation;

    fn caller(uid: u32, gid: u32) -> Caller {
        Caller {
            uid,
            gid,
            ..Caller::default()
        }
    }

    #[test]
    fn the_number_that_means_unchanged_is_refused() {
        let credentials = Credentials::current(Translations::default()).unwrap();
        for hostile in [caller(u32::MAX, 5), caller(5, u32::MAX)] {
            assert_eq!(
                credentials.as_caller(&hostile, || Ok(())),
                Err(Errno::INVAL)
            );
        }
    }

    #[test]
    fn who_is_not_root_stays_who_he_is() {
        let capable = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let unprivileged = Credentials {
            translations: Translations::default(),
            uid: Uid::from_raw(4_000),
            gid: Gid::from_raw(4_000),
            groups: Vec::new(),
            root_regains_capabilities: true,
            capabilities: CapabilitySets {
                effective: capable,
                permitted: capable,
                inheritable: CapabilitySet::empty(),
            },
        };
        let ourselves = (rustix::process::geteuid(), capabilities(None).unwrap());
        for somebody in [caller(0, 0), caller(4_321, 1_234)] {
            let inside = unprivileged.as_caller(&somebody, || {
                Ok((rustix::process::geteuid(), capabilities(None)?))
            });
            assert_eq!(inside, Ok(ourselves));
        }
    }

    #[test]
    fn the_caller_is_who_the_operator_says() {
        let options =
            |texts: &[&str]| -> Vec<_> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let users = options(&["guest:1000:4321:1", "forbid-guest:7:1"]);
        let groups = options(&["squash-guest:1000:1234:10", "forbid-guest:7:1"]);
        let translations = Translations {
            users: Translation::new("--translate-uid", &users).unwrap(),
            groups: Translation::new("--translate-gid", &groups).unwrap(),
        };
        let credentials = Credentials::current(translations).unwrap();
        let who = |caller: Caller| {
            credentials.as_caller(&caller, || {
                let groups = rustix::process::getgroups()?;
                Ok((
                    rustix::process::geteuid().as_raw(),
                    rustix::process::getegid().as_raw(),
                    groups
                        .iter()
                        .map(|group| group.as_raw())
                        .collect::<Vec<_>>(),
                ))
            })
        };
        let with_group = |group, caller| Caller {
            supplementary_group: Some(group),
            ..caller
        };
        for forbidden in [
            caller(7, 0),
            caller(0, 7),
            with_group(7, caller(1000, 1000)),
        ] {
            assert_eq!(who(forbidden), Err(Errno::PERM));
        }
        if rustix::process::geteuid().is_root() {
            let seen = who(with_group(1009, caller(1000, 1003)));
            assert_eq!(seen, Ok((4321, 1234, vec![1234])));
        }
    }

    #[test]
    fn credentials_are_back_after_success_error_and_panic() {
        let credentials = Credentials::current(Translations::default()).unwrap();
        let before = (
            rustix::process::geteuid(),
            rustix::process::getegid(),
            rustix::process::getgroups().unwrap(),
            capabilities(None).unwrap(),
        );
        let somebody = Caller {
            supplementary_group: Some(77),
            ..caller(4_321, 1_234)
        };
        let check = |what: &str| {
            let now = (
                rustix::process::geteuid(),
                rustix::process::getegid(),
                rustix::process::getgroups().unwrap(),
                capabilities(None).unwrap(),
            );
            assert_eq!(now, before, "after {what}");
        };
        let inside = credentials.as_caller(&somebody, || Ok(rustix::process::geteuid().as_raw()));
        let expected = if before.0.is_root() {
            4_321
        } else {
            before.0.as_raw()
        };
        assert_eq!(inside, Ok(expected));
        check("success");
        assert_eq!(
            credentials.as_caller(&somebody, || Err::<(), _>(Errno::NOSPC)),
            Err(Errno::NOSPC)
        );
        check("error");
        let panicked = std::panic::catch_unwind(|| {
            credentials.as_caller(&somebody, || -> FsResult<()> { panic!("in the closure") })
        });
        assert!(panicked.is_err());
        check("panic");
        let without = credentials.removing_privileges(true, || Ok(capabilities(None).unwrap()));
        assert!(!without.unwrap().effective.contains(CapabilitySet::FSETID));
        check("removing privileges");
    }
}
