//! The guest memory behind a resource: pieces, of which some may be next to each other.
//!
//! Kept as guest physical addresses, for a state is loaded before there is any memory to look them up in. Nothing is mapped: each
//! access goes through the memory table of its time.

use crate::wire::BackingEntry;

/// Guest memory, as far as a core needs it; several threads may read it at once.
pub trait GuestBytes: Sync {
    /// Fills `into` from `address` on; false if not all of that is there.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;
    /// Whether there is memory at all these addresses.
    fn contains(&self, address: u64, len: u64) -> bool;
}

/// A piece and where it stands in the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// Offset of its first byte in the backing.
    start: u64,
    address: u64,
    len: u64,
}

/// Pieces of guest memory, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    pieces: Vec<Piece>,
    len: u64,
}

impl Backing {
    /// Joins entries that follow one another in guest memory. `None` if there is none, one has no bytes, or one goes beyond the last
    /// address.
    pub fn new(entries: impl IntoIterator<Item = (u64, u64)>) -> Option<Self> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut end = 0_u64;
        for (address, len) in entries {
            address.checked_add(len)?;
            if len == 0 {
                return None;
            }
            match pieces.last_mut() {
                Some(last) if last.address + last.len == address => last.len += len,
                _ => pieces.push(Piece {
                    start: end,
                    address,
                    len,
                }),
            }
            end = end.checked_add(len)?;
        }
        (!pieces.is_empty()).then_some(Self { pieces, len: end })
    }

    /// From a command of the guest, which may only name memory that there is.
    pub fn of_guest(entries: &[BackingEntry], guest: &impl GuestBytes) -> Option<Self> {
        let backing = Self::new(
            entries
                .iter()
                .map(|entry| (entry.address, entry.len.into())),
        )?;
        let exists = backing
            .pieces
            .iter()
            .all(|piece| guest.contains(piece.address, piece.len));
        exists.then_some(backing)
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a backing has bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Addresses and lengths of the pieces.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = (u64, u64)> {
        self.pieces.iter().map(|piece| (piece.address, piece.len))
    }

    /// Host memory that the description takes, in bytes.
    pub fn footprint(&self) -> u64 {
        (self.pieces.len() * size_of::<Piece>()) as u64
    }

    /// Fills `into` from `offset` on; false if not all of that is there, and then `into` holds anything.
    pub fn read(&self, guest: &impl GuestBytes, offset: u64, into: &mut [u8]) -> bool {
        let first = self
            .pieces
            .partition_point(|piece| piece.start + piece.len <= offset);
        let mut skipped = offset - self.pieces.get(first).map_or(offset, |piece| piece.start);
        let mut rest = into;
        for piece in self.pieces.iter().skip(first) {
            if rest.is_empty() {
                break;
            }
            let there = usize::try_from(piece.len - skipped).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(there.min(rest.len()));
            if !guest.read(piece.address + skipped, now) {
                return false;
            }
            rest = later;
            skipped = 0;
        }
        rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::two_d::tests::memory::TestMemory;

    #[test]
    fn pieces_are_one_after_the_other_and_joined_where_they_touch() {
        let backing = Backing::new([(10, 2), (12, 3), (30, 2), (1, 1)]).unwrap();
        let pieces: Vec<_> = backing.pieces().collect();
        assert_eq!(pieces, [(10, 5), (30, 2), (1, 1)]);
        assert_eq!(backing.len(), 8);
        let memory = TestMemory::counting(64);
        for offset in 0..8_u8 {
            for len in 0..=8 - usize::from(offset) {
                let mut bytes = vec![0; len];
                assert!(backing.read(&memory, offset.into(), &mut bytes));
                let all = [10, 11, 12, 13, 14, 30, 31, 1];
                assert_eq!(bytes, all[usize::from(offset)..][..len]);
            }
        }
        for (offset, len) in [(0, 9), (7, 2), (8, 1), (u64::MAX, 1)] {
            assert!(!backing.read(&memory, offset, &mut vec![0; len]));
        }
    }

    #[test]
    fn what_is_no_backing_is_none() {
        assert_eq!(Backing::new([]), None);
        assert_eq!(Backing::new([(1, 1), (5, 0)]), None);
        assert_eq!(Backing::new([(u64::MAX, 1)]), None);
        assert_eq!(Backing::new([(1, u64::MAX - 1), (0, 2)]), None);
        let memory = TestMemory::counting(16);
        let entry = |address, len| [BackingEntry { address, len }];
        assert!(Backing::of_guest(&entry(8, 8), &memory).is_some());
        assert!(Backing::of_guest(&entry(8, 9), &memory).is_none());
    }
}
