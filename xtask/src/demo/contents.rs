//! What is in a saved state: its sections and their sizes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use common::state::{DeviceKind, Inspection, Limits, inspect};

use super::story::size;

/// How much there is of what, in a file system's state. An error if the state is damaged.
pub(super) fn contents(state: &[u8]) -> Result<String> {
    let mut input = state;
    let Inspection {
        header,
        sections,
        bytes: _,
        problem,
    } = inspect(&mut input, &Limits::default());
    if let Some(problem) = problem {
        return Err(problem).context("the saved state is damaged");
    }
    let header = header.context("the saved state has no header")?;
    ensure!(
        header.kind == DeviceKind::Fs.as_u16(),
        "the saved state is of device {}",
        header.kind
    );
    let mut by_tag: BTreeMap<String, u64> = BTreeMap::new();
    for section in sections {
        *by_tag.entry(section.tag.to_string()).or_default() += section.length;
    }
    let texts = by_tag
        .iter()
        .map(|(tag, bytes)| format!("{tag} {}", size(*bytes)));
    Ok(texts.collect::<Vec<_>>().join(", "))
}
