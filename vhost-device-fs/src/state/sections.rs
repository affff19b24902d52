//! Sections that come once, tables that come in several, and what must be there. Knows none of them.

use common::state::{Section, StateError, Tag};
use serde::de::DeserializeOwned;

pub(super) fn once<T: DeserializeOwned>(
    value: &mut Option<T>,
    section: &Section,
) -> Result<(), StateError> {
    if value.is_some() {
        let (tag, offset) = (section.tag, section.offset);
        return Err(StateError::RepeatedSection { tag, offset });
    }
    *value = Some(section.decode()?);
    Ok(())
}

pub(super) fn more<T: DeserializeOwned>(
    table: &mut Option<Vec<T>>,
    section: &Section,
) -> Result<(), StateError> {
    let mut items = section.decode_table()?;
    table.get_or_insert_default().append(&mut items);
    Ok(())
}

pub(super) fn required<T>(value: Option<T>, tag: Tag) -> Result<T, StateError> {
    value.ok_or(StateError::MissingSection { tag })
}
