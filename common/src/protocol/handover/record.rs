//! What a front-end has said and a new daemon must be told again: kept while the relay forwards it.
//!
//! Only what was accepted is in it: the stock daemon ends a connection with the message that it refuses, and what can be refused
//! otherwise is noted when its answer is known. Knows which messages last, which take the place of an earlier one, and in which order all of them can be said to a
//! daemon that has heard nothing. Does not know how they get there.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::super::codec::Message;
use super::super::messages::{
    DEVICE_STATE_ERROR_MASK, MEMORY_REGIONS_MAX, MemoryRegion, Request, RingState, decode_u64,
    encode_u64, feature, flag,
};
use super::PARCEL_FILES_MAX;

/// What was said once, in the order in which it is said again. Memory and all that needs it come after the features.
const ONCE: [Request; 6] = [
    Request::SET_PROTOCOL_FEATURES,
    Request::SET_OWNER,
    Request::SET_FEATURES,
    Request::SET_LOG_BASE,
    Request::SET_LOG_FD,
    Request::SET_INFLIGHT_FD,
];

/// What was said of each ring, likewise: the kick starts it.
const OF_RING: [Request; 7] = [
    Request::SET_VRING_NUM,
    Request::SET_VRING_BASE,
    Request::SET_VRING_ADDR,
    Request::SET_VRING_ERR,
    Request::SET_VRING_CALL,
    Request::SET_VRING_KICK,
    Request::SET_VRING_ENABLE,
];

/// What the end of a ring ends, in the stock daemon, too.
const OF_STARTED_RING: [Request; 4] = [
    Request::SET_VRING_BASE,
    Request::SET_VRING_ADDR,
    Request::SET_VRING_CALL,
    Request::SET_VRING_KICK,
];

/// Rings that a kick can name (vhost-user.rst: bits 0 to 7). The stock daemon has no others.
const RINGS_MAX: u32 = 1 << 8;

/// Whether a record may have this message.
pub(super) fn lasts(request: Request) -> bool {
    ONCE.contains(&request)
        || OF_RING.contains(&request)
        || matches!(request, Request::SET_MEM_TABLE | Request::ADD_MEM_REG)
}

/// One message of a record.
#[derive(Debug)]
pub(crate) struct Said<'a> {
    pub(crate) request: Request,
    pub(crate) body: Vec<u8>,
    pub(crate) files: Vec<BorrowedFd<'a>>,
}

/// What one front-end has said.
#[derive(Debug)]
pub(crate) struct Record {
    once: BTreeMap<u32, Message>,
    /// One more than can be left, if they were too many since the last table: then it cannot be left, whatever goes.
    memory: Vec<(MemoryRegion, OwnedFd)>,
    /// By ring and place in [`OF_RING`].
    rings: BTreeMap<(u32, usize), Message>,
    suspended: bool,
    transferring: bool,
}

impl Record {
    /// Nothing was said.
    pub(crate) const fn new() -> Self {
        Self {
            once: BTreeMap::new(),
            memory: Vec::new(),
            rings: BTreeMap::new(),
            suspended: false,
            transferring: false,
        }
    }

    /// The front-end has suspended the device itself.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// SUSPEND or RESUME has succeeded.
    pub(crate) fn set_suspended(&mut self, suspended: bool) {
        self.suspended = suspended;
    }

    /// A state is on its way, and its transfer cannot be handed over.
    pub(crate) fn is_transferring(&self) -> bool {
        self.transferring
    }

    /// The rings that are started.
    pub(crate) fn started(&self) -> Vec<u32> {
        let kick = place(Request::SET_VRING_KICK);
        let rings = self.rings.keys();
        rings
            .filter(|(_, at)| Some(*at) == kick)
            .map(|(ring, _)| *ring)
            .collect()
    }

    /// Keeps of `message`, which was forwarded, what lasts. What it takes the place of is forgotten.
    pub(crate) fn note(&mut self, mut message: Message) {
        message.flags = flag::VERSION;
        match message.request {
            request if ONCE.contains(&request) => {
                self.once.insert(request.0, message);
            }
            Request::RESET_OWNER => {
                for request in ONCE.iter().take(3) {
                    self.once.remove(&request.0);
                }
            }
            Request::RESET_DEVICE => {
                self.once.remove(&Request::SET_FEATURES.0);
                let enabled = place(Request::SET_VRING_ENABLE);
                self.rings.retain(|(_, at), _| Some(*at) != enabled);
                self.suspended = false;
            }
            Request::SET_MEM_TABLE => {
                let layouts = MemoryRegion::decode_table(&message.body).unwrap_or_default();
                self.memory = layouts.into_iter().zip(message.files).collect();
            }
            Request::ADD_MEM_REG | Request::REM_MEM_REG if self.memory.len() > PARCEL_FILES_MAX => {
            }
            Request::ADD_MEM_REG => {
                let layout = MemoryRegion::decode_single(&message.body);
                self.memory.extend(layout.into_iter().zip(message.files));
            }
            Request::REM_MEM_REG => {
                if let Some(gone) = MemoryRegion::decode_single(&message.body) {
                    self.memory
                        .retain(|(layout, _)| layout.guest_address != gone.guest_address);
                }
            }
            _ => self.note_ring(message),
        }
    }

    /// Keeps of `reply`, which is to a message that may be refused while the connection goes on, whether it was.
    pub(crate) fn note_reply(&mut self, reply: &Message) {
        match reply.request {
            // One that is refused may leave another one under way.
            Request::SET_DEVICE_STATE_FD => {
                let accepted = |value| value & DEVICE_STATE_ERROR_MASK == 0;
                self.transferring |= reply.value().is_some_and(accepted);
            }
            Request::CHECK_DEVICE_STATE => self.transferring = false,
            _ => {}
        }
    }

    fn note_ring(&mut self, message: Message) {
        let Some(ring) = ring(&message).filter(|ring| *ring < RINGS_MAX) else {
            return;
        };
        if message.request == Request::GET_VRING_BASE {
            for at in OF_STARTED_RING.into_iter().filter_map(place) {
                self.rings.remove(&(ring, at));
            }
        } else if let Some(at) = place(message.request) {
            // Not every front-end asks what became of a transfer.
            self.transferring &= message.request != Request::SET_VRING_KICK;
            self.rings.insert((ring, at), message);
        }
    }

    /// Where a ring is to be continued.
    pub(crate) fn set_base(&mut self, base: RingState) {
        self.note(Message::new(Request::SET_VRING_BASE, base.encode()));
    }

    /// All of it, to be said in this order.
    pub(crate) fn messages(&self) -> Vec<Said<'_>> {
        let [
            protocol_features,
            owner,
            features,
            log,
            log_event,
            in_flight,
        ] = ONCE.map(|request| self.once.get(&request.0).map(said));
        // The log comes before the first write that is to be in it, and after the memory that it is of.
        let logging = features.as_ref().and_then(|said| decode_u64(&said.body));
        let unlogged = logging.map(|features| Said {
            request: Request::SET_FEATURES,
            body: encode_u64(features & !feature::LOG_ALL),
            files: Vec::new(),
        });
        let logged = features.filter(|_| logging.is_some_and(|all| all & feature::LOG_ALL != 0));
        [protocol_features, owner, unlogged]
            .into_iter()
            .flatten()
            .chain(self.memory_messages())
            .chain([log, log_event, logged, in_flight].into_iter().flatten())
            .chain(self.ring_messages())
            .collect()
    }

    /// What there is to say of the rings.
    pub(crate) fn ring_messages(&self) -> impl Iterator<Item = Said<'_>> {
        self.rings.values().map(said)
    }

    fn memory_messages(&self) -> impl Iterator<Item = Said<'_>> {
        let (table, others) = self
            .memory
            .split_at(self.memory.len().min(MEMORY_REGIONS_MAX));
        let layouts: Vec<_> = table.iter().map(|(layout, _)| *layout).collect();
        let table = (!table.is_empty()).then(|| Said {
            request: Request::SET_MEM_TABLE,
            body: MemoryRegion::encode_table(&layouts),
            files: table.iter().map(|(_, file)| file.as_fd()).collect(),
        });
        let others = others.iter().map(|(layout, file)| Said {
            request: Request::ADD_MEM_REG,
            body: layout.encode_single(),
            files: vec![file.as_fd()],
        });
        table.into_iter().chain(others)
    }
}

fn said(message: &Message) -> Said<'_> {
    Said {
        request: message.request,
        body: message.body.clone(),
        files: message.files.iter().map(AsFd::as_fd).collect(),
    }
}

fn place(request: Request) -> Option<usize> {
    OF_RING.iter().position(|one| *one == request)
}

/// Which ring a message is about.
#[expect(
    clippy::host_endian_bytes,
    reason = "vhost-user numbers are in the byte order of the machine that both ends run on"
)]
fn ring(message: &Message) -> Option<u32> {
    let first = message.body.first_chunk::<4>()?;
    let number = u32::from_ne_bytes(*first);
    Some(match message.request {
        // Bits 0 to 7 of a number of 64.
        Request::SET_VRING_KICK | Request::SET_VRING_CALL | Request::SET_VRING_ERR => {
            u32::try_from(message.value()? & 0xff).ok()?
        }
        _ => number,
    })
}
