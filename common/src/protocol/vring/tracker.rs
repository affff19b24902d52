//! Which heads of a ring are in flight, here and in the region that outlives this process.
//!
//! The order of what is written is vhost-user.rst's, "Inflight I/O tracking": number, then mark when a head is popped; link and
//! last head, then the used ring, then no mark, then the used index when it is given back. Wherever the process is killed in
//! between, the next one knows which heads are in flight ([`Tracker::recover`]).
//!
//! Knows no guest memory: indices are handed in. Used under the ring's lock only.

use std::collections::VecDeque;

use super::super::inflight::Part;

/// The region says what cannot be. Whether a head is in flight is not known then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrackError {
    #[error("the region is for {room} descriptors, the ring has {size}")]
    Room { room: u16, size: u16 },
    #[error(
        "{published} requests were given back since its used index was noted, of a ring of {size}"
    )]
    Published { published: u16, size: u16 },
    #[error("the batch given back last goes from {head} in a circle, or beyond the ring of {size}")]
    Batch { head: u16, size: u16 },
    #[error("{marked} requests are in flight, and the guest waits for {outstanding} only")]
    TooMany { marked: usize, outstanding: u16 },
    #[error("descriptor {head} is in flight, on a ring of {size}")]
    Beyond { head: u16, size: u16 },
}

/// Where a ring stands in guest memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Indices {
    /// The used index.
    pub(crate) used: u16,
    /// The available index.
    pub(crate) available: u16,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    size: u16,
    /// A bit for each head: popped, and not given back. What this process knows; the region is the front-end's, too.
    out: Vec<u64>,
    region: Option<Part>,
    /// The number of the head popped next.
    number: u64,
    /// Heads that another process popped and did not give back, in its order.
    owed: VecDeque<u16>,
    /// How many of those were popped.
    owed_popped: u16,
}

impl Tracker {
    /// A ring of `size` descriptors is started; nothing is in flight.
    pub(crate) fn start(&mut self, size: u16) {
        self.size = size;
        self.out.clear();
        self.out.resize(usize::from(size).div_ceil(64), 0);
        self.region = None;
        self.number = 0;
        self.owed.clear();
        self.owed_popped = 0;
    }

    /// What [was started](Self::start) is written down in `part` from now on, and perhaps was before. Returns where to go on in the
    /// available ring, if that knows better than the front-end.
    pub(crate) fn recover(
        &mut self,
        indices: Indices,
        part: Part,
    ) -> Result<Option<u16>, TrackError> {
        let (size, Indices { used, available }) = (self.size, indices);
        let room = part.ring_size();
        if room < size && marked(&part).is_empty() {
            // QEMU says one size when it asks for the region, and firmware may set up a larger ring.
            log::warn!(
                "front-end: the region for requests in flight has room for {room} descriptors, and a ring has {size}: what is in flight on it would not survive a crash"
            );
            return Ok(None);
        }
        if room < size {
            return Err(TrackError::Room { room, size });
        }
        if part.is_new() {
            part.begin(used);
            self.region = Some(part);
            return Ok(None);
        }
        let mut marked = marked(&part);
        if !marked.is_empty() {
            repair(&part, size, used)?;
            marked.retain(|(_, head)| part.is_marked(*head));
        }
        if let Some((_, head)) = marked.iter().find(|(_, head)| *head >= size) {
            return Err(TrackError::Beyond { head: *head, size });
        }
        let outstanding = available.wrapping_sub(used);
        let count = u16::try_from(marked.len()).unwrap_or(u16::MAX);
        if count > outstanding {
            return Err(TrackError::TooMany {
                marked: marked.len(),
                outstanding,
            });
        }
        part.set_used(used);
        marked.sort_unstable();
        self.number = marked.last().map_or(0, |(last, _)| last.wrapping_add(1));
        for (_, head) in marked {
            self.set_out(head);
            self.owed.push_back(head);
        }
        self.region = Some(part);
        // What was popped is what was given back and what is in flight.
        Ok(Some(used.wrapping_add(count)))
    }

    /// A head of another process to be popped again: before all others. Also returns how many were before it.
    pub(crate) fn pop_owed(&mut self) -> Option<(u16, u16)> {
        let head = self.owed.pop_front()?;
        self.owed_popped = self.owed_popped.wrapping_add(1);
        Some((head, self.owed_popped.wrapping_sub(1)))
    }

    /// Whether there are more of them.
    pub(crate) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Takes back what [`pop_owed`](Self::pop_owed) returned, if it was the last. It stays marked: its place in the available ring
    /// is lost.
    pub(crate) fn owe(&mut self, head: u16, before: u16) -> bool {
        let last = self.owed_popped == before.wrapping_add(1);
        if last {
            self.owed_popped = before;
            self.owed.push_front(head);
        }
        last
    }

    /// `head` is popped; false if there is no such head, or if it is in flight.
    pub(crate) fn pop(&mut self, head: u16) -> bool {
        if head >= self.size || self.is_out(head) {
            return false;
        }
        self.set_out(head);
        if let Some(region) = &self.region {
            region.set_number(head, self.number);
            self.number = self.number.wrapping_add(1);
            region.mark(head);
        }
        true
    }

    /// `head` was popped, and is on the available ring again.
    pub(crate) fn put_back(&mut self, head: u16) {
        self.clear_out(head);
        if let Some(region) = &self.region {
            region.unmark(head);
        }
    }

    /// `head` stays with the guest, which waits for it, and nobody works on it until it is [taken up](Self::take_up). In the
    /// region it keeps its mark: another process has to know of it.
    pub(crate) fn leave(&mut self, head: u16) {
        self.clear_out(head);
    }

    /// `head` was left, here or by another back-end; false if it cannot have been, for the guest does not wait for as many
    /// heads (`outstanding`), or if it is in flight.
    pub(crate) fn take_up(&mut self, head: u16, outstanding: u16) -> bool {
        let out: u32 = self.out.iter().map(|word| word.count_ones()).sum();
        out < u32::from(outstanding) && self.pop(head)
    }

    /// `head` is about to be put on the used ring.
    pub(crate) fn giving_back(&self, head: u16) {
        if let Some(region) = &self.region {
            region.set_previous(head, region.last_head());
            region.set_last_head(head);
        }
    }

    /// `head` is on the used ring, whose index is `used` now.
    pub(crate) fn gave_back(&mut self, head: u16, used: u16) {
        self.clear_out(head);
        if let Some(region) = &self.region {
            region.unmark(head);
            region.set_used(used);
        }
    }

    fn is_out(&self, head: u16) -> bool {
        let (word, bit) = place(head);
        self.out.get(word).is_some_and(|word| word & bit != 0)
    }

    fn set_out(&mut self, head: u16) {
        let (word, bit) = place(head);
        if let Some(word) = self.out.get_mut(word) {
            *word |= bit;
        }
    }

    fn clear_out(&mut self, head: u16) {
        let (word, bit) = place(head);
        if let Some(word) = self.out.get_mut(word) {
            *word &= !bit;
        }
    }
}

fn place(head: u16) -> (usize, u64) {
    (usize::from(head / 64), 1 << (head % 64))
}

/// Heads with a mark, and their numbers.
fn marked(part: &Part) -> Vec<(u64, u16)> {
    (0..part.ring_size())
        .filter(|head| part.is_marked(*head))
        .map(|head| (part.number(head), head))
        .collect()
}

/// The last batch is on the used ring, but was not noted whole: its marks go. Nothing is changed on an error.
fn repair(part: &Part, size: u16, used: u16) -> Result<(), TrackError> {
    let published = used.wrapping_sub(part.used());
    if published > size {
        return Err(TrackError::Published { published, size });
    }
    let mut batch = Vec::new();
    let mut head = part.last_head();
    let mut seen = vec![false; usize::from(size)];
    for _ in 0..published {
        match seen.get_mut(usize::from(head)) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(TrackError::Batch { head, size }),
        }
        batch.push(head);
        head = part.previous(head);
    }
    for head in batch {
        part.unmark(head);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
