//! Landlock: files can be opened, made and removed beneath some paths only, whoever the daemon runs as.
//!
//! A descriptor that is opened again through `/proc/self/fd` is judged by where its file is, so it makes no difference by
//! which way a file is reached.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};

use super::{Access, Reachable, SandboxError};

/// What is asked for; a kernel that knows less restricts less.
const KNOWN: ABI = ABI::V6;

/// Restricts this thread, and all that it starts, to `reachable`. Returns what the log says.
pub(super) fn restrict(reachable: &[Reachable]) -> Result<String, SandboxError> {
    // The first version of Landlock knows no right to move a file to another directory: it forbids that to all.
    let essential = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer);
    let Ok(ruleset) = essential else {
        return Ok("none (not in this kernel, or too old)".to_owned());
    };
    let mut ruleset = ruleset
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .map_err(SandboxError::Landlock)?;
    for Reachable { path, access } in reachable {
        let descriptor = PathFd::new(path).map_err(|source| SandboxError::Path {
            path: path.clone(),
            source,
        })?;
        ruleset = ruleset
            .add_rule(PathBeneath::new(descriptor, rights(*access)))
            .map_err(SandboxError::Landlock)?;
    }
    let status = ruleset.restrict_self().map_err(SandboxError::Landlock)?;
    Ok(described(status.landlock))
}

fn rights(access: Access) -> BitFlags<AccessFs> {
    match access {
        Access::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Access::ReadWrite => AccessFs::from_all(KNOWN) & !(AccessFs::Execute | AccessFs::IoctlDev),
        Access::RemoveFiles => AccessFs::RemoveFile.into(),
    }
}

fn described(status: LandlockStatus) -> String {
    match status {
        LandlockStatus::Available { effective_abi, .. } => {
            format!("version {}", effective_abi as i32)
        }
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => "none".to_owned(),
    }
}
