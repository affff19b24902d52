//! As much of iSCSI (RFC 7143) as is needed on the loopback interface: one connection in a session, no digests, no authentication.
//!
//! [`target`] is the other way from a tool to our ports, for tools that open a second session; [`client`] is an initiator for targets of others.

pub mod client;
pub mod target;

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};

/// Bytes of the basic header segment.
const HEADER_SIZE: usize = 48;
/// Longest data segment that we send or accept, in bytes.
const SEGMENT_MAX: usize = 256 << 10;
/// The tag that is none.
const NO_TAG: u32 = u32::MAX;

/// Bit of the first byte: immediate delivery.
const IMMEDIATE: u8 = 0x40;
/// Bit of the second byte: the last of its kind.
const FINAL: u8 = 0x80;

/// Operation codes (RFC 7143, 11.2.1.2).
mod opcode {
    pub(super) const NOP_OUT: u8 = 0x00;
    pub(super) const COMMAND: u8 = 0x01;
    pub(super) const TASK_MANAGEMENT: u8 = 0x02;
    pub(super) const LOGIN: u8 = 0x03;
    pub(super) const DATA_OUT: u8 = 0x05;
    pub(super) const LOGOUT: u8 = 0x06;
    /// Added for the answer to a request.
    pub(super) const ANSWER: u8 = 0x20;
    pub(super) const RESPONSE: u8 = COMMAND | ANSWER;
    pub(super) const DATA_IN: u8 = 0x25;
    pub(super) const NOP_IN: u8 = NOP_OUT | ANSWER;
    pub(super) const READY_TO_TRANSFER: u8 = 0x31;
}

/// A protocol data unit without additional headers.
#[derive(Clone, Debug)]
struct Unit {
    header: [u8; HEADER_SIZE],
    data: Vec<u8>,
}

impl Unit {
    fn new(opcode: u8, flags: u8) -> Self {
        let mut unit = Self {
            header: [0; HEADER_SIZE],
            data: Vec::new(),
        };
        unit.set(0, &[opcode, flags]);
        unit
    }

    /// The next unit; `None` if the other side has closed the connection.
    fn receive(stream: &mut impl Read) -> Result<Option<Self>> {
        let mut header = [0; HEADER_SIZE];
        let (first, rest) = header.split_at_mut(1);
        if stream.read(first)? == 0 {
            return Ok(None);
        }
        stream.read_exact(rest)?;
        let [opcode, _, _, _, additional, high, middle, low, ..] = header;
        ensure!(additional == 0, "additional headers: opcode {opcode:#x}");
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        ensure!(length <= SEGMENT_MAX, "a data segment of {length} bytes");
        let mut data = vec![0; length.next_multiple_of(4)];
        stream.read_exact(&mut data)?;
        data.truncate(length);
        Ok(Some(Self { header, data }))
    }

    fn send(&self, stream: &mut impl Write) -> Result<()> {
        ensure!(
            self.data.len() <= SEGMENT_MAX,
            "{} bytes in one unit",
            self.data.len()
        );
        let mut bytes = self.header.to_vec();
        let length = u32::try_from(self.data.len())?;
        bytes.splice(4..8, length.to_be_bytes());
        bytes.extend(&self.data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Ok(stream.write_all(&bytes)?)
    }

    fn opcode(&self) -> u8 {
        self.byte(0) & 0x3f
    }

    fn byte(&self, at: usize) -> u8 {
        self.header.get(at).copied().unwrap_or(0)
    }

    fn word(&self, at: usize) -> u32 {
        let bytes = self.header.get(at..at + 4);
        bytes.map_or(0, |bytes| {
            bytes
                .iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte))
        })
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.header.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn set_word(&mut self, at: usize, word: u32) {
        self.set(at, &word.to_be_bytes());
    }

    /// The initiator task tag, or the tag that stands in its place.
    fn tag(&self) -> u32 {
        self.word(16)
    }
}

/// `key=value` pairs of a login.
fn parse_keys(data: &[u8]) -> Result<Vec<(String, String)>> {
    let text = std::str::from_utf8(data).context("keys that are not UTF-8")?;
    let pairs = text.split('\0').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair
                .split_once('=')
                .with_context(|| format!("key {pair:?}"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn write_keys<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> Vec<u8> {
    let pairs = pairs
        .into_iter()
        .map(|(key, value)| format!("{key}={value}\0"));
    pairs.collect::<String>().into_bytes()
}

/// Single-level LUN, peripheral or flat (SAM-5, 4.7).
fn lun(bytes: &[u8]) -> u16 {
    match bytes {
        [high, low, ..] => u16::from_be_bytes([high & 0x3f, *low]),
        _ => 0,
    }
}
