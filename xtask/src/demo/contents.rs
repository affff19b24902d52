//! What is in a saved state, in words: the state is decoded as a destination would do it.

use anyhow::{Context as _, Result, ensure};
use common::state::{Limits, read_state};
use vhost_device_fs::state::FsState;

use super::story::size;

/// How much there is of what. An error if the state cannot be loaded, or if what the workload keeps
/// open is not in it.
pub(super) fn contents(state: &[u8]) -> Result<String> {
    let mut input = state;
    let state: FsState =
        read_state(&mut input, &Limits::default()).context("the saved state does not decode")?;
    let (nodes, handles, orphans) = (state.nodes.len(), state.handles.len(), state.orphans.len());
    ensure!(
        handles > 5,
        "{handles} handles: not all open files are in the state"
    );
    ensure!(
        orphans == 1,
        "{orphans} files without a name are in the state"
    );
    Ok(format!(
        "{nodes} inodes, {handles} open files and folders, {orphans} unlinked file with {} of data",
        size(state.orphan_data.len() as u64)
    ))
}
