//! The locks of one owner on one file, as the host's kernel keeps them: ranges that do not overlap. Knows no file.

/// A lock on bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first byte.
    pub(crate) start: u64,
    /// The last byte.
    pub(crate) end: u64,
    /// Whether nobody else may have one.
    pub(crate) exclusive: bool,
}

/// Sorted; neighbours that touch differ.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges(Vec<Range>);

impl Ranges {
    /// From `start` to `end` the owner has this now: an exclusive lock, a shared one, or none.
    pub(crate) fn set(&mut self, start: u64, end: u64, exclusive: Option<bool>) {
        let mut kept: Vec<Range> = Vec::with_capacity(self.0.len() + 2);
        for range in self.0.drain(..) {
            if range.end < start || range.start > end {
                kept.push(range);
                continue;
            }
            if let Some(before) = start.checked_sub(1).filter(|_| range.start < start) {
                kept.push(Range {
                    end: before,
                    ..range
                });
            }
            if let Some(after) = end.checked_add(1).filter(|_| range.end > end) {
                kept.push(Range {
                    start: after,
                    ..range
                });
            }
        }
        if let Some(exclusive) = exclusive {
            kept.push(Range {
                start,
                end,
                exclusive,
            });
        }
        kept.sort_unstable_by_key(|range| range.start);
        kept.dedup_by(|next, range| {
            let touch = range.end.checked_add(1) == Some(next.start);
            let same = touch && range.exclusive == next.exclusive;
            if same {
                range.end = next.end;
            }
            same
        });
        self.0 = kept;
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Range] {
        &self.0
    }

    /// A lock that would be in the way of another owner's.
    pub(crate) fn in_the_way_of(&self, wanted: Range) -> Option<Range> {
        let overlaps = |range: &&Range| range.start <= wanted.end && wanted.start <= range.end;
        let conflicts = |range: &&Range| range.exclusive || wanted.exclusive;
        self.0.iter().filter(overlaps).find(conflicts).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES: usize = 24;

    proptest! {
        /// Byte by byte it is what was set last.
        #[test]
        fn ranges_are_a_short_form_of_bytes(
            steps in proptest::collection::vec((0..BYTES, 0..BYTES, proptest::option::of(any::<bool>())), 1..30)
        ) {
            let mut ranges = Ranges::default();
            let mut bytes = [None; BYTES];
            for (one, other, exclusive) in steps {
                let (start, end) = (one.min(other), one.max(other));
                ranges.set(start as u64, end as u64, exclusive);
                bytes[start..=end].fill(exclusive);
                let mut found = [None; BYTES];
                for range in ranges.all() {
                    let place = usize::try_from(range.start).unwrap()..=usize::try_from(range.end).unwrap();
                    found[place].fill(Some(range.exclusive));
                }
                prop_assert_eq!(found, bytes);
                for pair in ranges.all().windows(2) {
                    prop_assert!(pair[0].end + 1 < pair[1].start || pair[0].exclusive != pair[1].exclusive);
                }
            }
        }
    }

    #[test]
    fn the_ends_of_a_file_are_no_special_case() {
        let mut ranges = Ranges::default();
        ranges.set(0, u64::MAX, Some(true));
        ranges.set(0, 0, None);
        ranges.set(u64::MAX, u64::MAX, Some(false));
        let kept = Range {
            start: 1,
            end: u64::MAX - 1,
            exclusive: true,
        };
        assert_eq!(ranges.all().first(), Some(&kept));
        let wanted = Range {
            start: 0,
            end: 1,
            exclusive: false,
        };
        assert_eq!(ranges.in_the_way_of(wanted), Some(kept));
        assert_eq!(ranges.in_the_way_of(Range { end: 0, ..wanted }), None);
        ranges.set(0, u64::MAX, None);
        assert!(ranges.all().is_empty());
    }
}
