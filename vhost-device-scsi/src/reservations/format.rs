//! The bytes of a store: a page with the generation, and two copies of the table as JSON with length and checksum.
//!
//! Knows no lock and no mapping. What is read is believed only after it was checked: the file may be anybody's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crc32c::crc32c;
use serde::{Deserialize, Serialize};

use super::NameError;
use crate::scsi::attention::Attention;
use crate::scsi::reservation::{
    ForgedReservations, Holder, Initiator, Kind, Registration, Reservations,
};

/// Bytes of the first page.
pub(super) const PAGE: usize = 4096;
/// Bytes of a copy, its header included: room for as many registrations as there can be.
const COPY: u64 = 256 << 10;
const LENGTH: u64 = PAGE as u64 + 2 * COPY;
/// The first 16 bytes: what it is, and its version.
const MAGIC: [u8; 16] = *b"VHRESERVATIONS\x00\x01";
/// Notices that wait for initiators, at most.
const NOTICES_MAX: usize = 4096;

/// What is wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It cannot be read or made.
    #[error("host: it cannot be read")]
    File(#[from] io::Error),
    /// It is something else.
    #[error("it is no store of reservations, or of a version that is not known")]
    Magic,
    /// It has another length.
    #[error("it has {0} bytes, and a store has {LENGTH}")]
    Length(u64),
    /// A copy of the table does not fit its checksum.
    #[error("the table does not fit its checksum")]
    Checksum,
    /// The table cannot be read.
    #[error("the table cannot be read")]
    Json(#[source] serde_json::Error),
    /// A name is none.
    #[error("a name in the table is none")]
    Name(#[from] NameError),
    /// The table makes no sense.
    #[error("the table makes no sense")]
    Table(#[from] ForgedReservations),
    /// A type of reservation that there is not.
    #[error("the table has a reservation of type {0}")]
    Kind(u8),
    /// Too much waits for initiators.
    #[error("{0} notices wait, and {NOTICES_MAX} are the most")]
    Notices(usize),
}

/// The table as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    generation: u32,
    aptpl: bool,
    registrations: Vec<(String, u64)>,
    holder: Option<(u8, String)>,
    legacy: Option<String>,
    notices: Vec<(String, u8, u8)>,
}

/// Makes a new file a store, and refuses one that is none.
pub(super) fn prepare(file: &File) -> Result<(), Damage> {
    let length = file.metadata()?.len();
    if length == 0 {
        file.set_len(LENGTH)?;
        file.write_all_at(&MAGIC, 0)?;
        file.sync_all()?;
        return Ok(());
    }
    if length != LENGTH {
        return Err(Damage::Length(length));
    }
    let mut magic = [0; MAGIC.len()];
    file.read_exact_at(&mut magic, 0)?;
    if magic == MAGIC {
        Ok(())
    } else {
        Err(Damage::Magic)
    }
}

fn offset(generation: u64) -> u64 {
    PAGE as u64 + (generation & 1) * COPY
}

/// The table of a generation. Of generation 0 there is none.
pub(super) fn read(file: &File, generation: u64) -> Result<Reservations, Damage> {
    if generation == 0 {
        return Ok(Reservations::default());
    }
    let at = offset(generation);
    let mut header = [0; 8];
    file.read_exact_at(&mut header, at)?;
    let [a, b, c, d, checksum @ ..] = header;
    let length = u32::from_le_bytes([a, b, c, d]);
    if u64::from(length) > COPY - 8 {
        return Err(Damage::Checksum);
    }
    let mut text = vec![0; length as usize];
    file.read_exact_at(&mut text, at + 8)?;
    if crc32c(&text) != u32::from_le_bytes(checksum) {
        return Err(Damage::Checksum);
    }
    let table: Table = serde_json::from_slice(&text).map_err(Damage::Json)?;
    let table = Reservations::try_from(table)?;
    table.validate()?;
    Ok(table)
}

/// Writes the table of a generation, over the one before the one that counts.
pub(super) fn write(file: &File, generation: u64, table: &Reservations) -> io::Result<()> {
    let text = serde_json::to_vec(&Table::from(table))?;
    let length = u32::try_from(text.len())
        .ok()
        .filter(|length| u64::from(*length) <= COPY - 8)
        .ok_or_else(|| io::Error::other("the table is too large"))?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&crc32c(&text).to_le_bytes());
    bytes.extend(text);
    file.write_all_at(&bytes, offset(generation))
}

impl From<&Reservations> for Table {
    fn from(table: &Reservations) -> Self {
        let Reservations {
            generation,
            aptpl,
            registrations,
            holder,
            legacy,
            notices,
        } = table;
        Self {
            generation: *generation,
            aptpl: *aptpl,
            registrations: registrations
                .iter()
                .map(|Registration { initiator, key }| (initiator.to_string(), *key))
                .collect(),
            holder: holder
                .as_ref()
                .map(|Holder { kind, initiator }| (*kind as u8, initiator.to_string())),
            legacy: legacy.as_ref().map(Initiator::to_string),
            // The newest are the ones to be lost: an initiator that never comes must not fill the store.
            notices: notices
                .iter()
                .take(NOTICES_MAX)
                .map(|(initiator, Attention { asc, ascq })| (initiator.to_string(), *asc, *ascq))
                .collect(),
        }
    }
}

impl TryFrom<Table> for Reservations {
    type Error = Damage;

    fn try_from(table: Table) -> Result<Self, Damage> {
        let Table {
            generation,
            aptpl,
            registrations,
            holder,
            legacy,
            notices,
        } = table;
        if notices.len() > NOTICES_MAX {
            return Err(Damage::Notices(notices.len()));
        }
        let holder = holder.map(|(code, name)| {
            Ok::<_, Damage>(Holder {
                kind: Kind::from_code(code).ok_or(Damage::Kind(code))?,
                initiator: Initiator::parse(&name)?,
            })
        });
        Ok(Self {
            generation,
            aptpl,
            registrations: registrations
                .into_iter()
                .map(|(name, key)| {
                    let initiator = Initiator::parse(&name)?;
                    Ok(Registration { initiator, key })
                })
                .collect::<Result<_, NameError>>()?,
            holder: holder.transpose()?,
            legacy: legacy.map(|name| Initiator::parse(&name)).transpose()?,
            notices: notices
                .into_iter()
                .map(|(name, asc, ascq)| Ok((Initiator::parse(&name)?, Attention { asc, ascq })))
                .collect::<Result<_, NameError>>()?,
        })
    }
}
