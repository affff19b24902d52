//! One connection of a display, from its first message to its end: what is asked and shown, and whether it may be.

use std::io::{self, Read, Write};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::messages::{self, FEATURE_DMABUF2, FEATURE_EDID, Message, Question};
use super::super::picture::Picture;
use super::super::wire::{Rect, SCANOUTS_MAX};
use super::{Connection, Cursor, Head, Manners, Mood, Seen, Shared, State};

/// Protocol features, as QEMU offers them.
const OFFERED: u64 = FEATURE_EDID | FEATURE_DMABUF2;

/// How soon a display notices that it is to behave in another way.
const LOOK_AGAIN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};

/// What a connection has agreed on and seen.
#[derive(Default)]
struct Session {
    features: u64,
    /// Heads of which the size was told on this connection.
    told: [bool; SCANOUTS_MAX],
    held: Vec<Question>,
}

/// Reads one connection to its end.
pub(super) fn listen(shared: &Shared, connection: &Connection, generation: u64) {
    let mut session = Session::default();
    let mut pending = Vec::new();
    let mut chunk = vec![0; 256 << 10];
    loop {
        {
            let mut state = shared.state();
            if state.generation != generation {
                return;
            }
            if state.manners.is(Mood::HoldsReading) {
                drop(state);
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            if !state.manners.is(Mood::HoldsAnswers) && !session.held.is_empty() {
                let questions = std::mem::take(&mut session.held);
                state.seen.unanswered = 0;
                let manners = state.manners.clone();
                drop(state);
                for question in questions {
                    answer(connection, question, &manners);
                }
                shared.changed.notify_all();
            }
        }
        // What the display is told to do is looked at between two reads.
        let mut side = [PollFd::new(&connection.socket, PollFlags::IN)];
        if poll(&mut side, Some(&LOOK_AGAIN)) == Ok(0) {
            continue;
        }
        // Nobody may take the socket for empty between the read and what follows it.
        connection.busy.store(true, Ordering::SeqCst);
        let count = match (&connection.socket).read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.busy.store(false, Ordering::SeqCst);
                continue;
            }
            // Reset by the device, with something of ours unread.
            Err(_) => 0,
        };
        pending.extend_from_slice(chunk.get(..count).unwrap_or_default());
        let mut state = shared.state();
        if state.generation == generation {
            let taken = hear(&mut state, &mut session, &mut pending, count, connection);
            if let Err(error) = taken {
                state.fault.get_or_insert(format!("{error:#}"));
            }
        }
        drop(state);
        connection.busy.store(false, Ordering::SeqCst);
        shared.changed.notify_all();
        if count == 0 {
            return;
        }
    }
}

fn hear(
    state: &mut State,
    session: &mut Session,
    pending: &mut Vec<u8>,
    count: usize,
    connection: &Connection,
) -> Result<()> {
    if count == 0 {
        state.seen.left = true;
        ensure!(pending.is_empty(), "it leaves in the middle of a message");
        return Ok(());
    }
    ensure!(
        !state.manners.is(Mood::ExpectsSilence),
        "{count} bytes come from a device that is suspended: {:x?}",
        pending.get(..12.min(pending.len()))
    );
    state.seen.bytes += count as u64;
    let mut rest = pending.as_slice();
    while let Some(message) = messages::take(&mut rest)? {
        if let Message::Ask(question) = message {
            ask(state, session, question, connection)?;
        } else {
            show(&mut state.seen, session, message)?;
        }
    }
    let taken = pending.len() - rest.len();
    pending.drain(..taken);
    Ok(())
}

fn ask(
    state: &mut State,
    session: &mut Session,
    question: Question,
    connection: &Connection,
) -> Result<()> {
    state.seen.questions += 1;
    if let Question::Edid { scanout } = question {
        // QEMU does not answer at all.
        ensure!(
            (scanout as usize) < SCANOUTS_MAX,
            "GET_EDID of head {scanout}"
        );
        ensure!(
            session.features & FEATURE_EDID != 0,
            "GET_EDID without the protocol feature"
        );
    }
    // The first question is about features, and nothing else is asked before its answer. Later ones keep their order.
    let first = question == Question::ProtocolFeatures;
    if !session.held.is_empty() || state.manners.is(Mood::HoldsAnswers) && !first {
        session.held.push(question);
        state.seen.unanswered += usize::from(!first);
    } else {
        answer(connection, question, &state.manners);
    }
    Ok(())
}

fn answer(connection: &Connection, question: Question, manners: &Manners) {
    let reply = match question {
        Question::ProtocolFeatures => messages::reply(1, &OFFERED.to_le_bytes()),
        Question::DisplayInfo => messages::reply(3, &messages::display_info(&manners.monitors)),
        // QEMU says nothing about a head that it does not have (vhost_user_gpu_get_edid).
        Question::Edid { scanout } if scanout as usize >= manners.monitors.len() => return,
        Question::Edid { scanout } => messages::reply(11, &messages::edid(scanout)),
    };
    // A device that does not want it any more has left.
    let _ = (&connection.socket).write_all(&reply);
}

fn show(seen: &mut Seen, session: &mut Session, message: Message) -> Result<()> {
    let (scanout, change) = match message {
        Message::Ask(_) => bail!("a question is no picture"),
        Message::SetProtocolFeatures(features) => {
            let unknown = features & !OFFERED;
            ensure!(unknown == 0, "features {unknown:#x} were not offered");
            session.features = features;
            return Ok(());
        }
        Message::CursorPosition {
            scanout,
            at,
            visible,
        } => (scanout, Change::Place { at, visible }),
        Message::CursorUpdate {
            scanout,
            at,
            hot,
            image,
        } => {
            let cursor = Cursor {
                visible: true,
                at,
                hot,
                image,
            };
            (scanout, Change::Cursor(cursor))
        }
        Message::Scanout {
            scanout,
            width,
            height,
        } => (scanout, Change::Size(width, height)),
        Message::Update {
            scanout,
            rect,
            pixels,
        } => (scanout, Change::Pixels(rect, pixels)),
    };
    let told = session.told.get_mut(scanout as usize);
    let head = seen.heads.get_mut(scanout as usize);
    let (Some(told), Some(head)) = (told, head) else {
        bail!("there is no head {scanout}");
    };
    change
        .apply(head, told)
        .with_context(|| format!("head {scanout}"))
}

/// What a message changes on a head.
enum Change {
    Place { at: (u32, u32), visible: bool },
    Cursor(Cursor),
    Size(u32, u32),
    Pixels(Rect, Vec<u8>),
}

impl Change {
    fn apply(self, head: &mut Head, told: &mut bool) -> Result<()> {
        match self {
            Self::Place { at, visible } => {
                head.cursor.at = at;
                head.cursor.visible = visible;
            }
            Self::Cursor(cursor) => head.cursor = cursor,
            Self::Size(width, height) => {
                *told = true;
                let size = Rect::of_size(width, height);
                let on = width > 0 && height > 0;
                let known = head.picture.take().filter(|known| known.area() == size);
                head.picture = on.then(|| known.unwrap_or_else(|| Picture::new(width, height)));
            }
            Self::Pixels(rect, pixels) => {
                // QEMU dies of either.
                ensure!(*told, "UPDATE before SCANOUT");
                let picture = head
                    .picture
                    .as_mut()
                    .context("UPDATE of a head that is off")?;
                let area = picture.area();
                let inside = u64::from(rect.x) + u64::from(rect.width) <= u64::from(area.width)
                    && u64::from(rect.y) + u64::from(rect.height) <= u64::from(area.height);
                ensure!(inside, "UPDATE of {rect:?} on {area:?}");
                picture.paint(rect, &pixels);
                head.updates += 1;
            }
        }
        Ok(())
    }
}
