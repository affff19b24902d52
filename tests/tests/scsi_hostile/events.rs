//! Event buffers that are too small, and more events and unit attentions than anybody listens to.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use tests::daemon_runner::DEADLINE;
use tests::guest::chain::Table;

use crate::rig::{EVENTS, LUNS, Rig};

/// Bytes of an event, and the flag that says that others were lost (virtio 1.3, 5.6.6.3).
const EVENT: usize = 16;
const MISSED: u32 = 1 << 31;
const PARAMETER_CHANGE: u32 = 3;
/// Events that wait, at most; then the guest is told that it missed some.
const WAITING_MAX: usize = 1024;

/// The operator's socket.
pub(crate) struct Operator(BufReader<UnixStream>);

impl Operator {
    /// Starts a rig that has one.
    pub(crate) fn with_rig() -> Result<(Rig, Self)> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("control");
        let rig = Rig::start(&["--control-socket", socket.to_str().context("a path")?])?;
        let stream = UnixStream::connect(&socket)?;
        Ok((rig, Self(BufReader::new(stream))))
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        let line = format!("{{\"version\":1,\"command\":{command}}}\n");
        self.0.get_mut().write_all(line.as_bytes())?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        ensure!(!answer.contains("refused"), "{command}: {answer}");
        Ok(answer)
    }

    /// Another size for a unit, which is an event.
    pub(crate) fn resize(&mut self, lun: u16, blocks: usize) -> Result<()> {
        let command = format!("{{\"resize\":{{\"lun\":{lun},\"blocks\":{blocks}}}}}");
        self.ask(&command).map(drop)
    }

    /// Sizes as they were, of which the rig knows.
    pub(crate) fn restore(&mut self) -> Result<()> {
        for lun in LUNS {
            self.ask(&format!("{{\"resize\":{{\"lun\":{lun}}}}}"))?;
        }
        Ok(())
    }
}

/// Gives the device an event buffer of these readable and writable sizes and returns when it came back: what is in it.
fn event(rig: &mut Rig, readable: &[&[u8]], room: usize) -> Result<(u32, Vec<u8>)> {
    let writable: &[usize] = if room == 0 { &[] } else { &[room] };
    rig.exchange(EVENTS, readable, writable)
}

fn kind(event: &[u8]) -> Result<u32> {
    Ok(u32::from_le_bytes(
        *event.first_chunk().context("an event")?,
    ))
}

#[test]
fn events_for_which_a_buffer_is_too_small_are_missed_and_the_next_one_says_so() -> Result<()> {
    let (mut rig, mut operator) = Operator::with_rig()?;
    let nothing = [0_u8; EVENT];
    let too_small: [(&[&[u8]], usize); 5] = [
        (&[], 1),
        (&[], EVENT - 1),
        (&[&nothing], 0),
        (&[&nothing], 4),
        (&[], 2),
    ];
    for (number, (readable, room)) in too_small.into_iter().enumerate() {
        operator.resize(0, 1000 + number)?;
        let (written, _) = event(&mut rig, readable, room)?;
        ensure!(written == 0, "{room} bytes of room");
        // Without another event: that one was lost is news enough.
        let (written, told) = event(&mut rig, &[], EVENT)?;
        ensure!(
            written as usize == EVENT && kind(&told)? & MISSED != 0,
            "{told:?}"
        );
        operator.resize(0, 2000 + number)?;
        let (_, told) = event(&mut rig, &[], EVENT + 100)?;
        ensure!(kind(&told)? == PARAMETER_CHANGE, "{told:?}");
    }
    operator.restore()?;
    rig.survived()
}

#[test]
fn a_flood_of_events_is_bounded_and_the_guest_is_told_of_it() -> Result<()> {
    let (mut rig, mut operator) = Operator::with_rig()?;
    for number in 0..1500 {
        for lun in LUNS {
            operator.resize(lun, 1000 + number)?;
        }
    }
    let shown = operator.ask("\"show\"")?;
    ensure!(
        shown.contains(&format!("\"events_waiting\":{WAITING_MAX}")),
        "{shown}"
    );
    ensure!(shown.contains("\"events_missed\":true"), "{shown}");
    // However often a size changed: one unit attention for each unit.
    ensure!(shown.matches("2a/09").count() == LUNS.len(), "{shown}");

    let (mut events, mut missed) = (0, 0);
    while events < WAITING_MAX {
        let room = vec![EVENT; 100];
        let mut chains = Vec::new();
        for size in room.into_iter().take(WAITING_MAX - events) {
            let buffers = rig.buffers(&[], &[size])?;
            rig.machine.ring(EVENTS)?.add(&buffers, Table::Direct)?;
            chains.push(buffers);
        }
        let ring = rig.machine.ring(EVENTS)?;
        ring.publish()?;
        while ring.in_flight() > 0 {
            ring.wait(DEADLINE)?;
        }
        for buffers in chains {
            let [buffer] = buffers[..] else { continue };
            let told = rig.memory.read_vec(buffer.address, EVENT)?;
            ensure!(kind(&told)? & !MISSED == PARAMETER_CHANGE, "{told:?}");
            missed += usize::from(kind(&told)? & MISSED != 0);
            events += 1;
            rig.release(&buffers);
        }
    }
    ensure!(missed == 1, "told {missed} times that something was missed");
    let shown = operator.ask("\"show\"")?;
    ensure!(
        shown.contains("\"events_waiting\":0,\"events_missed\":false"),
        "{shown}"
    );
    operator.restore()?;
    rig.survived()
}
