//! INQUIRY: what the unit is (SPC-5, 6.6 and 7.7; SBC-4, 6.6).
//!
//! Knows pages; everything they say comes from the identity, but for the size.

use super::super::{Refusal, Unit};
use super::provisioning::{UNMAP_BYTES_MAX, UNMAP_DESCRIPTORS_MAX, WRITE_SAME_BYTES_MAX};
use crate::scsi::command::Command;
use crate::scsi::fast::TRANSFER_BYTES_MAX;
use crate::scsi::identity::Identity;
use crate::scsi::sense::Sense;
use crate::scsi::{Action, Reply};

/// The vital product data pages there are.
const PAGES: [u8; 8] = [0x00, 0x80, 0x83, 0x85, 0x86, 0xb0, 0xb1, 0xb2];

/// PRODUCT REVISION LEVEL.
const REVISION: &str = "0001";

/// Version descriptors (SPC-5, table 150): SAM-5, SPC-4, SBC-3, no version claimed.
const VERSIONS: [u16; 3] = [0x00a0, 0x0460, 0x04c0];

/// INQUIRY.
pub(crate) fn inquiry(unit: &mut Unit, command: Command<'_>) -> Result<Action, Refusal> {
    let page = command.byte(2);
    let data = if command.bit(1, 0) {
        vital(&unit.identity, page).ok_or(Sense::INVALID_FIELD.at_command(2, Some(7)))?
    } else if page == 0 && !command.bit(1, 1) {
        standard(&unit.identity)
    } else {
        return Err(Sense::INVALID_FIELD.at_command(2, Some(7)).into());
    };
    Ok(Action::Reply(Reply::good(data, u32::from(command.u16(3)))))
}

/// Standard INQUIRY data, 96 bytes.
fn standard(identity: &Identity) -> Vec<u8> {
    let mut data = vec![
        0x00, // direct access block device, connected
        0x00, // not removable
        0x06, // SPC-4
        0x12, // HISUP, response data format 2
        91,   // bytes that follow
        0x00, 0x00, 0x02, // CMDQUE
    ];
    data.extend(padded(&identity.vendor, 8));
    data.extend(padded(&identity.product, 16));
    data.extend(padded(REVISION, 4));
    data.resize(58, 0);
    data.extend(VERSIONS.iter().flat_map(|version| version.to_be_bytes()));
    data.resize(96, 0);
    data
}

/// Left-aligned, with blanks behind it; what is not printable ASCII is a blank (SPC-5, 4.3.1).
fn padded(text: &str, length: usize) -> impl Iterator<Item = u8> {
    text.bytes()
        .map(|byte| {
            if (0x20..0x7f).contains(&byte) {
                byte
            } else {
                b' '
            }
        })
        .chain(std::iter::repeat(b' '))
        .take(length)
}

/// A vital product data page; `None` if there is none of this code.
fn vital(identity: &Identity, page: u8) -> Option<Vec<u8>> {
    let body = match page {
        0x00 => PAGES.to_vec(),
        0x80 => identity.serial.bytes().collect(),
        0x83 => identification(identity),
        0x85 => Vec::new(), // no management network addresses
        0x86 => extended(),
        0xb0 => limits(identity),
        0xb1 => characteristics(identity),
        0xb2 => provisioning(identity),
        _ => return None,
    };
    let mut data = vec![0x00, page];
    data.extend_from_slice(&u16::try_from(body.len()).unwrap_or(0).to_be_bytes());
    data.extend(body);
    Some(data)
}

/// Designators: T10 vendor identification, NAA, and the target port that was used.
fn identification(identity: &Identity) -> Vec<u8> {
    let mut name: Vec<u8> = padded(&identity.vendor, 8).collect();
    name.extend(padded(&identity.product, 16));
    name.extend(identity.serial.bytes());
    let port = [0, 0, 0, identity.target.wrapping_add(1)];
    let designators: [(u8, u8, &[u8]); 3] = [
        (0x02, 0x01, &name),                       // ASCII; unit, T10 vendor ID
        (0x01, 0x03, &identity.wwn.to_be_bytes()), // binary; unit, NAA
        (0x01, 0x14, &port),                       // binary; port, relative target port identifier
    ];
    let mut data = Vec::new();
    for (codes, kind, bytes) in designators {
        data.extend_from_slice(&[codes, kind, 0, u8::try_from(bytes.len()).unwrap_or(0)]);
        data.extend_from_slice(bytes);
    }
    data
}

/// Extended INQUIRY data, 60 bytes behind the header.
fn extended() -> Vec<u8> {
    let mut body = vec![0; 60];
    if let [_, tasks, cache, clear, ..] = body.as_mut_slice() {
        *tasks = 0x07; // HEADSUP, ORDSUP, SIMPSUP: the attributes are accepted
        *cache = 0x01; // V_SUP
        *clear = 0x01; // LUICLR: a unit attention goes to this nexus only
    }
    body
}

/// Block limits, 60 bytes behind the header.
fn limits(identity: &Identity) -> Vec<u8> {
    let blocks = |bytes: u64| bytes >> identity.block_shift();
    let short = |bytes: u64| u32::try_from(blocks(bytes)).unwrap_or(u32::MAX);
    let (unmap, descriptors, granularity) = if identity.thin {
        (
            short(UNMAP_BYTES_MAX),
            UNMAP_DESCRIPTORS_MAX,
            short(4096).max(1),
        )
    } else {
        (0, 0, 0)
    };
    let mut body = vec![0x01, 0xff]; // WSNZ; MAXIMUM COMPARE AND WRITE LENGTH
    body.extend_from_slice(&u16::try_from(short(4096).max(1)).unwrap_or(1).to_be_bytes());
    for word in [
        short(TRANSFER_BYTES_MAX),
        short(1 << 20), // OPTIMAL TRANSFER LENGTH
        0,              // no limit of PRE-FETCH
        unmap,
        descriptors,
        granularity,
        if granularity > 0 { 1 << 31 } else { 0 }, // UGAVALID, alignment 0
    ] {
        body.extend_from_slice(&word.to_be_bytes());
    }
    body.extend_from_slice(&blocks(WRITE_SAME_BYTES_MAX).to_be_bytes());
    body.resize(60, 0);
    body
}

/// Block device characteristics, 60 bytes behind the header.
fn characteristics(identity: &Identity) -> Vec<u8> {
    let mut body = identity.rotation_rate.to_be_bytes().to_vec();
    body.resize(60, 0);
    body
}

/// Logical block provisioning, 4 bytes behind the header.
fn provisioning(identity: &Identity) -> Vec<u8> {
    // LBPU, LBPWS, LBPWS10, LBPRZ = 001b; PROVISIONING TYPE is thin.
    let (supported, kind) = if identity.thin { (0xe4, 0x02) } else { (0, 0) };
    vec![0, supported, kind, 0]
}
