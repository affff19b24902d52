//! Random commands, right and wrong ones, with the buffers that they ask for.
//!
//! Knows what the fields of commands mean, as far as is needed to get past the first check now and then.

use tests::random::Random;
use tests::scsi_suite::initiator::Data;

/// Bytes of a logical block, and blocks of the medium.
pub(crate) const BLOCK: usize = 512;
pub(crate) const BLOCKS: usize = 512;
/// Most blocks that a buffer is made for: one command more than the medium has.
const BUFFER_BLOCKS: usize = BLOCKS + 1;

/// Longest buffer for an answer or a list, in bytes.
const ALLOCATION_MAX: usize = 64 << 10;

/// A command's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Moves {
    None,
    In(usize),
    Out(Vec<u8>),
}

impl Moves {
    pub(crate) fn data(&self) -> Data<'_> {
        match self {
            Self::None => Data::None,
            Self::In(length) => Data::In(*length),
            Self::Out(bytes) => Data::Out(bytes),
        }
    }
}

/// What both targets can do, the frequent ones more often.
const CODES: &[u8] = &[
    0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x16, 0x17, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2a, 0x2e, 0x2f,
    0x34, 0x35, 0x41, 0x42, 0x55, 0x56, 0x57, 0x5a, 0x5e, 0x5f, 0x5f, 0x88, 0x89, 0x8a, 0x8b, 0x8e,
    0x8f, 0x90, 0x91, 0x93, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa, 0xae, 0xaf, 0x28, 0x2a, 0x88, 0x8a, 0x8b,
    0x2f, 0x41, 0x93, 0x42, 0x89, 0x5f, 0x5e, 0x1d,
];

/// Length of a command in bytes, by its code's group (SPC-5, 4.2.5.1).
pub(crate) fn length(code: u8) -> usize {
    match code >> 5 {
        0 => 6,
        1 | 2 => 10,
        5 => 12,
        _ => 16,
    }
}

/// A field of a command as a number.
pub(crate) fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let field = bytes.get(at..at + length).unwrap_or_default();
    field
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn set(cdb: &mut [u8], at: usize, length: usize, value: u64) {
    let value = value.to_be_bytes();
    let places = cdb.iter_mut().skip(at).take(length);
    for (place, byte) in places.zip(value.iter().skip(8 - length)) {
        *place = *byte;
    }
}

/// First block and number of blocks of a command that has them.
pub(crate) fn range(cdb: &[u8]) -> (u64, u64) {
    let code = cdb.first().copied().unwrap_or(0);
    match code >> 5 {
        0 => {
            let blocks = match number(cdb, 4, 1) {
                0 => 256,
                blocks => blocks,
            };
            (number(cdb, 1, 3) & 0x1f_ffff, blocks)
        }
        1 | 2 => (number(cdb, 2, 4), number(cdb, 7, 2)),
        5 => (number(cdb, 2, 4), number(cdb, 6, 4)),
        _ if code == 0x89 => (number(cdb, 2, 8), number(cdb, 13, 1)),
        _ => (number(cdb, 2, 8), number(cdb, 10, 4)),
    }
}

/// A stream of commands.
pub(crate) struct Stream {
    pub(crate) random: Random,
}

impl Stream {
    /// The next one.
    pub(crate) fn next(&mut self) -> (Vec<u8>, Moves) {
        loop {
            let (cdb, moves) = self.any();
            // tgtd 1.0.85 dies of MODE SENSE with no room for an answer, and of WRITE SAME without a block.
            let ends_session =
                matches!(cdb.first(), Some(0x1a | 0x5a | 0x41 | 0x93)) && moves == Moves::None;
            if !ends_session {
                return (cdb, moves);
            }
        }
    }

    fn any(&mut self) -> (Vec<u8>, Moves) {
        let code = if self.random.one_in(60) {
            self.unknown_code()
        } else {
            self.random.one_of(CODES, 0)
        };
        let mut cdb = vec![0; length(code)];
        if let Some(first) = cdb.first_mut() {
            *first = code;
        }
        self.fill(&mut cdb);
        if self.random.one_in(12) {
            let place = 1 + self.random.below(cdb.len() - 1);
            let byte = self.random.byte();
            cdb.iter_mut()
                .skip(place)
                .take(1)
                .for_each(|old| *old = byte);
        }
        let moves = self.moves(&cdb);
        (cdb, moves)
    }

    /// Any, but those whose commands iSCSI carries in another way (variable length).
    fn unknown_code(&mut self) -> u8 {
        loop {
            let code = self.random.byte();
            if code >> 5 != 3 {
                return code;
            }
        }
    }

    fn block(&mut self) -> u64 {
        let end = BLOCKS as u64;
        match self.random.below(16) {
            0 => end,
            1 => end - 1,
            2 => end + 1,
            3 => self
                .random
                .one_of(&[u64::MAX, 1 << 63, 1 << 55, u32::MAX.into(), 1 << 32], 0),
            _ => self.random.below(BLOCKS) as u64,
        }
    }

    fn count(&mut self) -> u64 {
        match self.random.below(16) {
            0 | 1 => 0,
            2 => self
                .random
                .one_of(&[u32::MAX.into(), 65_535, 1 << 31, BLOCKS as u64], 0),
            3 => self.random.below(BUFFER_BLOCKS) as u64,
            _ => 1 + self.random.below(8) as u64,
        }
    }

    fn allocation(&mut self) -> u64 {
        let few = self.random.below(64) as u64;
        self.random
            .one_of(&[0, 4, 8, 24, 36, 96, 255, few, few], 255)
    }

    /// Fields that make sense, as a rule.
    fn fill(&mut self, cdb: &mut [u8]) {
        let (block, count, allocation) = (self.block(), self.count(), self.allocation());
        let code = cdb.first().copied().unwrap_or(0);
        let flags = if self.random.one_in(8) {
            self.random.byte()
        } else {
            0
        };
        match code {
            0x08 | 0x0a => {
                set(cdb, 1, 3, block & 0x1f_ffff);
                set(cdb, 4, 1, count);
            }
            0x28 | 0x2a | 0x2e | 0x2f | 0x34 | 0x35 | 0x41 => {
                let unmap = code == 0x41 && self.random.one_in(4);
                set(cdb, 1, 1, if unmap { 8 } else { flags.into() });
                set(cdb, 2, 4, block);
                set(cdb, 7, 2, count);
            }
            0xa8 | 0xaa | 0xae | 0xaf => {
                set(cdb, 1, 1, flags.into());
                set(cdb, 2, 4, block);
                set(cdb, 6, 4, count);
            }
            0x88 | 0x8a | 0x8b | 0x8e | 0x8f | 0x90 | 0x91 | 0x93 => {
                set(cdb, 1, 1, flags.into());
                set(cdb, 2, 8, block);
                set(cdb, 10, 4, count);
            }
            0x89 => {
                set(cdb, 1, 1, flags.into());
                set(cdb, 2, 8, block);
                set(cdb, 13, 1, count);
            }
            0x9e => {
                let action = self
                    .random
                    .one_of(&[0x10, 0x12, 0x10, 0x12, flags & 0x1f], 0x10);
                set(cdb, 1, 1, action.into());
                set(cdb, 2, 8, if action == 0x10 { 0 } else { block });
                set(cdb, 10, 4, allocation);
            }
            _ => self.fill_other(cdb, allocation),
        }
    }

    fn fill_other(&mut self, cdb: &mut [u8], allocation: u64) {
        let code = cdb.first().copied().unwrap_or(0);
        match code {
            0x03 => {
                set(cdb, 1, 1, u64::from(self.random.one_in(4)));
                set(cdb, 4, 1, allocation);
            }
            0x12 => {
                let page = self
                    .random
                    .one_of(&[0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2, 0x99], 0);
                let vital = u8::from(page != 0 || self.random.one_in(2));
                set(cdb, 1, 1, vital.into());
                set(cdb, 2, 1, page);
                set(cdb, 3, 2, allocation);
            }
            0x1a | 0x5a => {
                let page = self
                    .random
                    .one_of(&[0x08, 0x0a, 0x3f, 0x02, 0x1c, 0x3e], 0x3f);
                let control = self.random.one_of(&[0, 0, 0, 0x40, 0x80, 0xc0], 0);
                set(cdb, 1, 1, if self.random.one_in(2) { 8 } else { 0 });
                set(cdb, 2, 1, page | control);
                let at = if code == 0x1a { 4 } else { 7 };
                set(cdb, at, if code == 0x1a { 1 } else { 2 }, allocation);
            }
            0x1e => set(cdb, 4, 1, self.random.below(4) as u64),
            // Stopped, nothing is interesting any more: rarely.
            0x1b => set(cdb, 4, 1, u64::from(!self.random.one_in(8))),
            0x15 => {
                set(cdb, 1, 1, 0x10);
                set(cdb, 4, 1, self.random.one_of(&[0, 4, 12, 16, 24], 16));
            }
            0x55 => {
                set(cdb, 1, 1, 0x10);
                set(cdb, 7, 2, self.random.one_of(&[0, 8, 16, 20, 28], 20));
            }
            0x42 => set(
                cdb,
                7,
                2,
                self.random.one_of(&[0, 8, 24, 24, 40, 7, 20], 24),
            ),
            0x5e => {
                set(cdb, 1, 1, self.random.below(5) as u64);
                set(cdb, 7, 2, allocation);
            }
            0x5f => {
                let kind = self.random.one_of(&[1, 3, 5, 6, 7, 8, 2, 4], 1);
                set(
                    cdb,
                    1,
                    1,
                    self.random.one_of(&[0, 0, 1, 1, 2, 3, 4, 5, 6, 6, 7], 0),
                );
                set(cdb, 2, 1, kind);
                set(
                    cdb,
                    5,
                    4,
                    self.random.one_of(&[24, 24, 24, 24, 24, 0, 23, 32], 24),
                );
            }
            0xa0 => set(cdb, 6, 4, allocation.max(8)),
            0xa3 => {
                set(cdb, 1, 1, 0x0c);
                set(cdb, 2, 1, self.random.below(4) as u64);
                set(cdb, 3, 1, self.random.one_of(CODES, 0).into());
                set(cdb, 6, 4, allocation);
            }
            _ => {}
        }
    }

    /// Buffers as the command wants them.
    fn moves(&mut self, cdb: &[u8]) -> Moves {
        let code = cdb.first().copied().unwrap_or(0);
        let flags = cdb.get(1).copied().unwrap_or(0);
        let (_, blocks) = range(cdb);
        // More than the medium has is refused, whatever the buffer.
        let blocks = usize::try_from(blocks).unwrap_or(1);
        let blocks = if blocks > BUFFER_BLOCKS { 1 } else { blocks };
        let allocated = |at, length| {
            let length = usize::try_from(number(cdb, at, length))
                .unwrap_or(4096)
                .min(4096);
            if length == 0 {
                Moves::None
            } else {
                Moves::In(length)
            }
        };
        let out = |stream: &mut Self, length: usize| match length {
            0 => Moves::None,
            _ => Moves::Out(stream.random.bytes(length)),
        };
        match code {
            0x08 | 0x28 | 0x88 | 0xa8 if blocks > 0 => Moves::In(blocks * BLOCK),
            0x0a | 0x2a | 0x8a | 0xaa | 0x2e | 0x8e | 0xae | 0x8b => out(self, blocks * BLOCK),
            0x2f | 0x8f | 0xaf => match flags >> 1 & 3 {
                1 => out(self, blocks * BLOCK),
                3 => out(self, blocks.min(1) * BLOCK),
                _ => Moves::None,
            },
            0x41 => self.same(),
            0x93 if flags & 1 == 0 => self.same(),
            0x89 => out(self, 2 * blocks * BLOCK),
            0x03 | 0x1a => allocated(4, 1),
            0x12 => allocated(3, 2),
            0x25 => Moves::In(8),
            0x5a | 0x5e => allocated(7, 2),
            0x9e => allocated(10, 4),
            0xa0 | 0xa3 => allocated(6, 4),
            0x15 => self.modes(usize::from(cdb.get(4).copied().unwrap_or(0)), 4),
            0x55 => self.modes(usize::try_from(number(cdb, 7, 2)).unwrap_or(0), 8),
            0x42 => self.descriptors(usize::try_from(number(cdb, 7, 2)).unwrap_or(0)),
            0x5f => self.reservation(usize::try_from(number(cdb, 5, 4)).unwrap_or(0)),
            _ => Moves::None,
        }
    }

    /// The block of WRITE SAME.
    fn same(&mut self) -> Moves {
        if self.random.one_in(3) {
            return Moves::Out(vec![0; BLOCK]);
        }
        Moves::Out(self.random.bytes(BLOCK))
    }

    /// The list of UNMAP, whose lengths lie now and then.
    fn descriptors(&mut self, length: usize) -> Moves {
        if length == 0 {
            return Moves::None;
        }
        let mut list = vec![0; length];
        let told = length as u64;
        set(&mut list, 0, 2, told.saturating_sub(2));
        set(&mut list, 2, 2, told.saturating_sub(8));
        for at in (8..length).step_by(16) {
            let (block, count) = (self.block(), self.count());
            set(&mut list, at, 8, block);
            set(&mut list, at + 8, 4, count);
        }
        self.lie(&mut list);
        Moves::Out(list)
    }

    /// The list of MODE SELECT: the control page or the caching page, as they are or changed.
    fn modes(&mut self, length: usize, header: usize) -> Moves {
        if length == 0 {
            return Moves::None;
        }
        let mut page = vec![0x0a, 0x0a, 0x00, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
        if self.random.one_in(4) {
            page = vec![0x08, 0x12, 0x04];
            page.resize(20, 0);
        }
        let mut list = vec![0; header];
        list.extend(page);
        list.resize(length, 0);
        self.lie(&mut list);
        Moves::Out(list)
    }

    /// The list of PERSISTENT RESERVE OUT: few keys, so that some are right.
    fn reservation(&mut self, length: usize) -> Moves {
        if length == 0 {
            return Moves::None;
        }
        let mut list = vec![0; length.min(ALLOCATION_MAX)];
        for at in [0, 8] {
            let key = self.random.one_of(&[0, 1, 1, 2], 0);
            set(&mut list, at, 8, key);
        }
        if self.random.one_in(10) {
            self.lie(&mut list);
        }
        Moves::Out(list)
    }

    /// Changes a byte, not always.
    fn lie(&mut self, list: &mut [u8]) {
        if self.random.one_in(4) {
            let place = self.random.below(list.len());
            let byte = self.random.byte();
            list.iter_mut()
                .skip(place)
                .take(1)
                .for_each(|old| *old = byte);
        }
    }
}
