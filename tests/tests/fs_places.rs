//! Does the guest notice when its share is on another kind of file system after a migration?
//!
//! Four kinds, from each to a copy on each and to itself: the disk's file system, one in memory, an overlay, and a FUSE file system that knows
//! no time of birth. More of them, in a guest that has them: `laboratory.rs`.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tests::places::{Kind, move_between};

/// One test at a time: until a child that one of them starts runs its program, it has the files of the other open, whose mount is busy.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_share_stays_where_it_is_on_every_kind_of_file_system() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for kind in [Kind::Disk, Kind::Memory, Kind::Overlay, Kind::Fuse] {
        move_between(kind, None).with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

#[test]
fn a_share_moves_from_every_kind_of_file_system_to_a_copy_on_another() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (from, to) in [
        (Kind::Disk, Kind::Memory),
        (Kind::Memory, Kind::Overlay),
        (Kind::Overlay, Kind::Fuse),
        (Kind::Fuse, Kind::Fuse),
        (Kind::Fuse, Kind::Disk),
        (Kind::Disk, Kind::Disk),
    ] {
        move_between(from, Some(to)).with_context(|| format!("{from:?} to {to:?}"))?;
    }
    Ok(())
}
