//! What the guest asks and only the front-end knows: `GET_DISPLAY_INFO` and `GET_EDID`.
//!
//! The command stays on its ring until there is an answer, so that a suspension finds nothing popped: after it the command is
//! popped again, and asked again on the new socket. One question at a time, for the ring is served in order. QEMU does not
//! answer `GET_EDID` for a scanout that it does not have (`vhost_user_gpu_get_edid`), so a question that is always answered
//! follows each; and since it logs an error each time, such a scanout is asked for once on each socket. Knows no socket and no ring.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::protocol::{FEATURE_EDID, Request, begin};
use crate::edid;
use crate::wire::{DisplayInfo, EDID_BYTES_MAX, Edid, Header, Mode, Rect, SCANOUTS_MAX};

/// How long a front-end may take for an answer; then the guest gets what is known.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions that a front-end may owe an answer to.
const OWED_MAX: usize = 16;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Which scanouts there are.
    DisplayInfo,
    /// What the monitor at a scanout says about itself.
    Edid(usize),
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The scanouts.
    DisplayInfo(Box<DisplayInfo>),
    /// What the monitor says.
    Edid(Edid),
    /// The front-end has no such scanout.
    NoSuchScanout,
}

/// A reply that answers nothing that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "front-end: a reply to request {request} of the display socket, with {len} bytes, that was not asked for"
)]
pub(crate) struct UnexpectedReply {
    /// Number of the request.
    request: u32,
    /// Length of the reply in bytes.
    len: usize,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Not sent yet.
    Wanted,
    Asked,
    Answered(Reply),
}

#[derive(Clone, Debug)]
struct Current {
    question: Question,
    serial: u64,
    stage: Stage,
    deadline: Instant,
}

/// A message that the front-end has to answer.
#[derive(Clone, Copy, Debug)]
struct Owed {
    request: Request,
    /// Of the question; `None` for one of our own.
    serial: Option<u64>,
    /// Which scanout's EDID.
    scanout: usize,
}

/// What the front-end of this socket understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Features {
    Unknown,
    Asked,
    /// Known, and to be accepted.
    Known(u64),
    Accepted(u64),
}

/// Questions and what is known.
#[derive(Debug)]
pub(crate) struct Questions {
    current: Option<Current>,
    serial: u64,
    owed: VecDeque<Owed>,
    features: Features,
    /// Scanouts that the front-end of this socket does not have.
    absent: [bool; SCANOUTS_MAX],
    /// Nobody answers: what is known is all there is.
    alone: bool,
    /// The scanouts as last seen.
    pub(crate) info: Option<Box<DisplayInfo>>,
    /// EDIDs as last seen.
    pub(crate) edids: [Option<Edid>; SCANOUTS_MAX],
}

/// What there is without a front-end that says something else: one scanout, as in QEMU by default.
fn default_info() -> Box<DisplayInfo> {
    let mut info = Box::new(DisplayInfo::default());
    if let Some(first) = info.first_mut() {
        *first = Mode {
            rect: Rect::of_size(1280, 800),
            enabled: true,
            flags: 0,
        };
    }
    info
}

impl Questions {
    /// Nothing is asked, nothing is known. `alone` if there will never be a front-end.
    pub(crate) fn new(alone: bool) -> Self {
        Self {
            current: None,
            serial: 0,
            owed: VecDeque::new(),
            features: Features::Unknown,
            absent: [false; SCANOUTS_MAX],
            alone,
            info: None,
            edids: Default::default(),
        }
    }

    /// The reply to a question, if it is there; if not, it will be.
    pub(crate) fn ask(&mut self, question: Question, now: Instant) -> Option<Reply> {
        if self.alone {
            self.current = None;
            return Some(self.known(question));
        }
        if matches!(question, Question::Edid(scanout) if self.absent.get(scanout) == Some(&true)) {
            self.current = None;
            return Some(Reply::NoSuchScanout);
        }
        let asked = self.current.take_if(|current| current.question == question);
        match asked {
            Some(Current {
                stage: Stage::Answered(reply),
                ..
            }) => Some(reply),
            Some(current) => {
                self.current = Some(current);
                None
            }
            None => {
                self.serial += 1;
                self.current = Some(Current {
                    question,
                    serial: self.serial,
                    stage: Stage::Wanted,
                    deadline: now + PATIENCE,
                });
                None
            }
        }
    }

    /// What is to be told without a front-end.
    fn known(&self, question: Question) -> Reply {
        let info = self.info.clone().unwrap_or_else(default_info);
        match question {
            Question::DisplayInfo => Reply::DisplayInfo(info),
            Question::Edid(scanout) => {
                let seen = self.edids.get(scanout).cloned().flatten();
                let rect = info
                    .get(scanout)
                    .map_or_else(Rect::default, |mode| mode.rect);
                Reply::Edid(
                    seen.unwrap_or_else(|| edid::generate(scanout, rect.width, rect.height)),
                )
            }
        }
    }

    /// Nothing is asked any more: the command will be popped again.
    pub(crate) fn forget(&mut self) {
        self.current = None;
    }

    /// There is another socket, or none.
    pub(crate) fn reconnect(&mut self) {
        self.owed.clear();
        self.features = Features::Unknown;
        self.absent = [false; SCANOUTS_MAX];
        if let Some(current) = &mut self.current
            && let Stage::Asked = current.stage
        {
            current.stage = Stage::Wanted;
        }
    }

    /// Somebody may answer again.
    pub(crate) fn trust(&mut self) {
        self.alone = false;
    }

    /// When the wait for an answer ends.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let current = self.current.as_ref()?;
        match current.stage {
            Stage::Wanted | Stage::Asked => Some(current.deadline),
            Stage::Answered(_) => None,
        }
    }

    /// Answers a question with what is known if its time is over; true if so. Without a socket, nobody is waited for again.
    pub(crate) fn expire(&mut self, now: Instant, has_socket: bool) -> bool {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return false;
        }
        log::warn!(
            "front-end: no answer on the display socket within {} s; the guest is told what is known",
            PATIENCE.as_secs()
        );
        self.alone = !has_socket;
        self.answer_with_known();
        true
    }

    fn answer_with_known(&mut self) {
        let Some(question) = self.current.as_ref().map(|current| current.question) else {
            return;
        };
        let reply = self.known(question);
        if let Some(current) = &mut self.current {
            current.stage = Stage::Answered(reply);
        }
    }

    /// Puts the next message into `out`. `Composed::Answered` if there is a reply without one.
    pub(crate) fn compose(&mut self, out: &mut Vec<u8>) -> Composed {
        match self.features {
            Features::Unknown => {
                begin(out, Request::GetProtocolFeatures, &[], 0);
                self.owe(Request::GetProtocolFeatures, None, 0);
                self.features = Features::Asked;
                return Composed::Message;
            }
            Features::Known(features) => {
                let accepted = features & FEATURE_EDID;
                let low = u32::try_from(accepted).unwrap_or(0);
                begin(out, Request::SetProtocolFeatures, &[low, 0], 0);
                self.features = Features::Accepted(accepted);
                return Composed::Message;
            }
            Features::Asked | Features::Accepted(_) => {}
        }
        let Some(current) = &mut self.current else {
            return Composed::Nothing;
        };
        if !matches!(current.stage, Stage::Wanted) || self.owed.len() >= OWED_MAX {
            return Composed::Nothing;
        }
        let serial = Some(current.serial);
        match (current.question, self.features) {
            (Question::DisplayInfo, _) => {
                begin(out, Request::GetDisplayInfo, &[], 0);
                current.stage = Stage::Asked;
                self.owe(Request::GetDisplayInfo, serial, 0);
            }
            (Question::Edid(scanout), Features::Accepted(FEATURE_EDID)) => {
                begin(
                    out,
                    Request::GetEdid,
                    &[u32::try_from(scanout).unwrap_or(0)],
                    0,
                );
                // Always answered, and in order.
                let mut question = Vec::new();
                begin(&mut question, Request::GetProtocolFeatures, &[], 0);
                out.append(&mut question);
                current.stage = Stage::Asked;
                self.owe(Request::GetEdid, serial, scanout);
                self.owe(Request::GetProtocolFeatures, None, 0);
            }
            (Question::Edid(_), Features::Accepted(_)) => {
                self.answer_with_known();
                return Composed::Answered;
            }
            (Question::Edid(_), _) => return Composed::Nothing,
        }
        Composed::Message
    }

    fn owe(&mut self, request: Request, serial: Option<u64>, scanout: usize) {
        self.owed.push_back(Owed {
            request,
            serial,
            scanout,
        });
    }

    /// Takes a reply; true if it answers what the guest asked.
    pub(crate) fn take_reply(
        &mut self,
        request: u32,
        payload: &[u8],
    ) -> Result<bool, UnexpectedReply> {
        let unexpected = UnexpectedReply {
            request,
            len: payload.len(),
        };
        let known = Request::answered(request).ok_or(unexpected)?;
        let mut answered = false;
        while let Some(owed) = self.owed.pop_front() {
            if owed.request == known {
                let reply = self.understand(owed, payload).ok_or(unexpected)?;
                return Ok(match reply {
                    Understood::Reply(reply) => self.settle(owed, reply),
                    Understood::OurOwn => answered,
                });
            }
            // Only that goes unanswered.
            if owed.request != Request::GetEdid {
                break;
            }
            if let Some(absent) = self.absent.get_mut(owed.scanout) {
                *absent = true;
            }
            answered |= self.settle(owed, Reply::NoSuchScanout);
        }
        Err(unexpected)
    }

    /// What a reply says; `None` if it makes no sense.
    fn understand(&mut self, owed: Owed, payload: &[u8]) -> Option<Understood> {
        if owed.request == Request::GetDisplayInfo {
            let modes = payload.get(Header::BYTES..)?.as_chunks().0;
            let mut info = Box::new(DisplayInfo::default());
            if modes.len() < info.len() {
                return None;
            }
            for (mode, bytes) in info.iter_mut().zip(modes) {
                *mode = Mode::from_bytes(bytes);
            }
            self.info = Some(info.clone());
            return Some(Understood::Reply(Reply::DisplayInfo(info)));
        }
        if owed.request == Request::GetEdid {
            let (size, edid) = payload.get(Header::BYTES..)?.split_at_checked(8)?;
            let (size, _padding) = size.split_first_chunk()?;
            let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
            let edid = edid
                .get(..size)
                .filter(|_| size <= EDID_BYTES_MAX)?
                .to_vec();
            if let Some(seen) = self.edids.get_mut(owed.scanout) {
                *seen = Some(edid.clone());
            }
            return Some(Understood::Reply(Reply::Edid(edid)));
        }
        let features = u64::from_le_bytes(payload.try_into().ok()?);
        if self.features == Features::Asked {
            self.features = Features::Known(features);
        }
        Some(Understood::OurOwn)
    }

    /// Gives a reply to whoever asked; true if that is the guest, now.
    fn settle(&mut self, owed: Owed, reply: Reply) -> bool {
        match &mut self.current {
            Some(current)
                if Some(current.serial) == owed.serial && matches!(current.stage, Stage::Asked) =>
            {
                current.stage = Stage::Answered(reply);
                true
            }
            _ => false,
        }
    }
}

/// What a reply says.
enum Understood {
    /// Something that the guest asked.
    Reply(Reply),
    /// Something that only we wanted to know.
    OurOwn,
}

/// What came of composing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Composed {
    /// There is nothing to ask.
    Nothing,
    /// A message.
    Message,
    /// The guest has its answer without one.
    Answered,
}

#[cfg(test)]
mod tests;
