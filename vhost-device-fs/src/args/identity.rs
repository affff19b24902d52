//! The options that say who is who on both sides, and which attributes files have.

use clap::{ArgAction, Args};
use common::id_map::IdMap;

use super::ArgsError;
use crate::config::Negotiation;
use crate::translation::{Translation, TranslationOption, Translations};
use crate::xattr_map::{HostName, XattrMap};

/// Who is who on both sides, and which attributes files have.
#[derive(Debug, Args)]
pub struct IdentityArgs {
    /// Passes extended attributes through
    #[arg(long)]
    pub xattr: bool,

    /// Other names for extended attributes on the host, such as `:map::user.virtiofs.:`; implies --xattr. Rules are
    /// `:TYPE:SCOPE:KEY:PREPEND:` with TYPE prefix, ok, bad or unsupported and SCOPE client, server or all, or
    /// `:map:KEY:PREPEND:` at the end. Every name must match one
    #[arg(long, value_name = "RULES")]
    pub xattrmap: Option<XattrMap>,

    /// Lets guest and host heed POSIX ACLs; implies --xattr. Without a value: always, which refuses a guest that cannot
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, require_equals = true,
        default_value_t, default_missing_value = "always")]
    pub posix_acl: Negotiation,

    /// Lets the guest label what it creates; implies --xattr. Without a value: always, which refuses a guest that cannot
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, require_equals = true,
        default_value_t, default_missing_value = "always")]
    pub security_label: Negotiation,

    /// Other users on the host for users of the guest, without a user namespace: guest:GUEST:HOST:COUNT one way,
    /// host:HOST:GUEST:COUNT the other, map:GUEST:HOST:COUNT both, squash-guest:GUEST:HOST:COUNT and
    /// squash-host:HOST:GUEST:COUNT onto one id, forbid-guest:GUEST:COUNT; may be repeated
    #[arg(long, value_name = "TYPE:SOURCE:TARGET:COUNT", action = ArgAction::Append)]
    pub translate_uid: Vec<TranslationOption>,

    /// The same for groups
    #[arg(long, value_name = "TYPE:SOURCE:TARGET:COUNT", action = ArgAction::Append)]
    pub translate_gid: Vec<TranslationOption>,

    /// Users of a user namespace that the daemon serves in, as its root: :GUEST:HOST:COUNT:, with any separator; may be repeated.
    /// Takes privilege, or newuidmap and a range in /etc/subuid
    #[arg(long, value_name = ":GUEST:HOST:COUNT:", action = ArgAction::Append)]
    pub uid_map: Vec<IdMap>,

    /// The same for groups
    #[arg(long, value_name = ":GUEST:HOST:COUNT:", action = ArgAction::Append)]
    pub gid_map: Vec<IdMap>,
}

impl IdentityArgs {
    /// Whether attributes are passed through.
    pub(super) fn xattr(&self) -> bool {
        let negotiated = |when| when != Negotiation::Never;
        self.xattr
            || self.xattrmap.is_some()
            || negotiated(self.posix_acl)
            || negotiated(self.security_label)
    }

    /// What all translations say together.
    pub(super) fn translations(&self) -> Result<Translations, ArgsError> {
        Ok(Translations {
            users: Translation::new("--translate-uid", &self.translate_uid)?,
            groups: Translation::new("--translate-gid", &self.translate_gid)?,
        })
    }

    /// Refuses what contradicts itself.
    pub(super) fn check(&self) -> Result<(), ArgsError> {
        if self.posix_acl == Negotiation::Never {
            return Ok(());
        }
        if !self.translate_uid.is_empty() || !self.translate_gid.is_empty() {
            return Err(ArgsError::TranslatedAcls);
        }
        let acls = ["system.posix_acl_access", "system.posix_acl_default"];
        let is_mapped = |name: &&str| {
            let name = name.as_bytes();
            self.xattrmap
                .as_ref()
                .is_some_and(|map| map.to_host(name) != HostName::Named(name.into()))
        };
        let mapped = acls.into_iter().find(is_mapped);
        mapped.map_or(Ok(()), |name| Err(ArgsError::MappedAcls(name)))
    }
}
