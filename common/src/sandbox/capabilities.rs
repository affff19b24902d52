//! Capabilities: what is not needed is given up for good, and no program that is run could bring it back.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// Gives up all capabilities but `wanted`, and returns which are left.
pub(super) fn keep(wanted: CapabilitySet) -> io::Result<CapabilitySet> {
    set_no_new_privs(true)?;
    let before = capabilities(None)?;
    let kept = before.permitted & wanted;
    if before.effective.contains(CapabilitySet::SETPCAP) {
        for given_up in (CapabilitySet::all() - kept).iter() {
            // A kernel that does not know a capability has none to give up.
            match remove_capability_from_bounding_set(given_up) {
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(kept)
}

/// For the log.
pub(super) fn names(capabilities: CapabilitySet) -> String {
    let names: Vec<_> = capabilities
        .iter_names()
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}
