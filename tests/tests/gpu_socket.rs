//! The display socket of a device that runs: what happens when its other end is slow, silent, mistaken or gone.
//!
//! What is seen there, pixel by pixel, is not asked here.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::in_process::{Host, Machine, Pending};
use vhost_device_gpu::config::Config;
use vhost_device_gpu::device::GpuDevice;
use vhost_device_gpu::wire::feature;

const CONTROL_RING: usize = 0;
const HEADER_BYTES: usize = 24;
const INFO_BYTES: usize = HEADER_BYTES + 16 * 24;
const EDID_BYTES: usize = HEADER_BYTES + 8 + 1024;

const GET_DISPLAY_INFO: u32 = 0x100;
const GET_EDID: u32 = 0x10a;
const OK_DISPLAY_INFO: u32 = 0x1101;
const INVALID_SCANOUT_ID: u32 = 0x1202;

/// Turns a hang into a failure.
const DEADLINE: Duration = Duration::from_mins(1);

/// Requests of the display protocol.
mod ask {
    pub(crate) const FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const DISPLAY_INFO: u32 = 3;
    pub(crate) const SCANOUT: u32 = 7;
    pub(crate) const UPDATE: u32 = 8;
    pub(crate) const EDID: u32 = 11;
}

/// The other end of the display socket.
struct Reader(UnixStream);

impl Reader {
    /// A new socket for the device.
    fn connect(machine: &mut Machine) -> Result<Self> {
        let (near, far) = UnixStream::pair()?;
        near.set_read_timeout(Some(DEADLINE))?;
        machine.frontend().set_display_socket(far)?;
        Ok(Self(near))
    }

    /// The next message: request and payload.
    fn next(&mut self) -> Result<(u32, Vec<u8>)> {
        let mut header = [[0; 4]; 3];
        self.0.read_exact(header.as_flattened_mut())?;
        let [request, flags, size] = header.map(u32::from_le_bytes);
        ensure!(flags == 0, "flags {flags}");
        let mut payload = vec![0; size as usize];
        self.0.read_exact(&mut payload)?;
        Ok((request, payload))
    }

    fn expect(&mut self, wanted: u32) -> Result<Vec<u8>> {
        let (request, payload) = self.next().with_context(|| format!("no {wanted}"))?;
        ensure!(request == wanted, "{request} instead of {wanted}");
        Ok(payload)
    }

    fn reply(&mut self, request: u32, payload: &[u8]) -> Result<()> {
        let size = u32::try_from(payload.len())?;
        let header = [request, 4, size].map(u32::to_le_bytes);
        self.0.write_all(header.as_flattened())?;
        Ok(self.0.write_all(payload)?)
    }

    /// The features are asked for, and said to be these.
    fn meet(&mut self, features: u64) -> Result<()> {
        self.expect(ask::FEATURES)?;
        self.reply(ask::FEATURES, &features.to_le_bytes())
    }
}

fn device(config: Config) -> Result<(Host<GpuDevice>, Machine)> {
    let host = Host::new(GpuDevice::new(config)?);
    let machine = host.machine()?;
    Ok((host, machine))
}

fn command(kind: u32, words: &[u32]) -> Vec<u8> {
    let header = [kind, 0, 0, 0, 0, 0];
    let all = header.iter().chain(words);
    all.flat_map(|word| word.to_le_bytes()).collect()
}

fn submit_info(machine: &mut Machine) -> Result<Pending> {
    machine.submit(CONTROL_RING, &command(GET_DISPLAY_INFO, &[]), INFO_BYTES)
}

/// The number of the answer, and the width of the first monitor.
fn finish_info(machine: &mut Machine, pending: Pending) -> Result<(u32, u32)> {
    let answer = machine.finish(CONTROL_RING, pending)?;
    ensure!(answer.len() == INFO_BYTES, "{} bytes", answer.len());
    let word = |at: usize| {
        let four = answer.get(at..).and_then(|rest| rest.first_chunk());
        four.copied().map_or(0, u32::from_le_bytes)
    };
    Ok((word(0), word(HEADER_BYTES + 8)))
}

fn info(width: u32) -> Vec<u8> {
    let mut info = vec![0; INFO_BYTES];
    let words = [0, 0, width, 100, 1, 0_u32];
    let monitor = info.iter_mut().skip(HEADER_BYTES);
    for (byte, value) in monitor.zip(words.into_iter().flat_map(u32::to_le_bytes)) {
        *byte = value;
    }
    info
}

/// Shows a resource of this size, with or without backing.
fn show(machine: &mut Machine, side: u32) -> Result<()> {
    let whole = [0, 0, side, side];
    let commands = [
        command(0x101, &[1, 1, side, side]),
        command(0x103, &[&whole[..], &[0, 1]].concat()),
    ];
    for request in commands {
        let answer = machine.call(CONTROL_RING, &request, HEADER_BYTES)?;
        ensure!(answer.starts_with(&0x1100_u32.to_le_bytes()), "refused");
    }
    Ok(())
}

/// A question that is open when the device stops is still on its ring, and is asked again on the next socket.
#[test]
fn a_question_in_flight_is_asked_again_on_the_next_socket() -> Result<()> {
    let (host, mut machine) = device(Config::default())?;
    let mut first = Reader::connect(&mut machine)?;
    machine.start()?;
    first.meet(1)?;
    first.expect(ask::SET_FEATURES)?;
    let pending = submit_info(&mut machine)?;
    first.expect(ask::DISPLAY_INFO)?;
    drop(first); // QEMU closes it before it stops the rings
    machine.stop()?;
    ensure!(machine.bases == [0, 0], "popped: {:?}", machine.bases);

    let destination = Host::new(GpuDevice::new(Config::default())?);
    let state = machine.save()?;
    let mut machine = machine.move_to(&destination, false)?;
    machine.frontend().load(&mut state.as_slice())?;
    machine.make_ready()?;
    let mut second = Reader::connect(&mut machine)?;
    machine.start()?;
    second.meet(1)?;
    // In any order with what is agreed on.
    while second.next()?.0 != ask::DISPLAY_INFO {}
    second.reply(ask::DISPLAY_INFO, &info(77))?;
    let answer = finish_info(&mut machine, pending)?;
    assert_eq!(answer, (OK_DISPLAY_INFO, 77));
    machine.leave()??;
    drop(host);
    Ok(())
}

/// QEMU does not answer `GET_EDID` for a scanout that it does not have.
#[test]
fn the_edid_of_a_scanout_that_there_is_not_is_not_waited_for() -> Result<()> {
    let (_host, mut machine) = device(Config::default())?;
    let features = machine.features() | feature::EDID;
    machine.frontend().set_features(features)?;
    let mut reader = Reader::connect(&mut machine)?;
    machine.start()?;
    reader.meet(1)?;
    reader.expect(ask::SET_FEATURES)?;
    let pending = machine.submit(CONTROL_RING, &command(GET_EDID, &[3, 0]), EDID_BYTES)?;
    reader.expect(ask::EDID)?;
    reader.meet(1)?; // the question that is always answered
    let answer = machine.finish(CONTROL_RING, pending)?;
    assert!(answer.starts_with(&INVALID_SCANOUT_ID.to_le_bytes()));
    machine.leave()??;
    Ok(())
}

/// Whatever comes instead of a reply, the device gives the socket up and lives; the next socket is as good as new.
#[test]
fn a_reader_that_is_mistaken_is_given_up() -> Result<()> {
    let (_host, mut machine) = device(Config::default())?;
    machine.start()?;
    let question = [1_u32, 0, 8, 0, 0].map(u32::to_le_bytes);
    let huge = [1_u32, 4, u32::MAX].map(u32::to_le_bytes);
    let unasked = [8_u32, 4, 0].map(u32::to_le_bytes);
    for bytes in [
        question.as_flattened(),
        huge.as_flattened(),
        unasked.as_flattened(),
    ] {
        let mut reader = Reader::connect(&mut machine)?;
        reader.expect(ask::FEATURES)?;
        reader.0.write_all(bytes)?;
        let mut rest = Vec::new();
        // Closed, or reset with bytes of ours unread.
        let _closed = reader.0.read_to_end(&mut rest);
        ensure!(rest.is_empty(), "it said more");
    }
    let mut reader = Reader::connect(&mut machine)?;
    reader.meet(0)?;
    reader.expect(ask::SET_FEATURES)?;
    let pending = submit_info(&mut machine)?;
    reader.expect(ask::DISPLAY_INFO)?;
    reader.reply(ask::DISPLAY_INFO, &info(5))?;
    assert_eq!(finish_info(&mut machine, pending)?, (OK_DISPLAY_INFO, 5));
    machine.leave()??;
    Ok(())
}

/// A guest behind a front-end that says nothing boots nevertheless.
#[test]
fn a_reader_that_never_answers_is_not_waited_for_for_ever() -> Result<()> {
    let (_host, mut machine) = device(Config::default())?;
    let _reader = Reader::connect(&mut machine)?;
    machine.start()?;
    let pending = submit_info(&mut machine)?;
    let answer = finish_info(&mut machine, pending)?;
    assert_eq!(answer, (OK_DISPLAY_INFO, 1280));
    machine.leave()??;
    Ok(())
}

/// Nor is one waited for that there never was: the first question takes its time, the others do not.
#[test]
fn without_a_socket_and_headless_the_guest_is_told_what_is_known() -> Result<()> {
    let headless = Config {
        headless: true,
        ..Config::default()
    };
    for config in [headless, Config::default()] {
        let (_host, mut machine) = device(config)?;
        machine.start()?;
        for _ in 0..50 {
            let pending = submit_info(&mut machine)?;
            let answer = finish_info(&mut machine, pending)?;
            assert_eq!(answer, (OK_DISPLAY_INFO, 1280));
        }
        machine.leave()??;
    }
    Ok(())
}

/// A reader that takes nothing holds up neither a command nor a suspension. The message that it is in the middle of goes on after
/// RESUME; what follows is everything, from the beginning.
#[test]
fn a_suspension_in_the_middle_of_a_message_tears_nothing() -> Result<()> {
    let (_host, mut machine) = device(Config::default())?;
    let mut reader = Reader::connect(&mut machine)?;
    machine.start()?;
    reader.meet(1)?;
    reader.expect(ask::SET_FEATURES)?;
    show(&mut machine, 1024)?; // 4 MiB, far more than a socket holds
    reader.expect(ask::SCANOUT)?;
    let mut beginning = vec![0; 1000];
    reader.0.read_exact(&mut beginning)?;
    machine.frontend().suspend()?;
    machine.frontend().resume()?;
    let mut rest = vec![0; 12 + 20 + 1024 * 1024 * 4 - beginning.len()];
    reader.0.read_exact(&mut rest)?;
    ensure!(beginning.starts_with(&ask::UPDATE.to_le_bytes()));
    for wanted in [ask::SCANOUT, ask::UPDATE] {
        reader.expect(wanted)?;
    }
    machine.leave()??;
    Ok(())
}

/// QEMU does not ask this back-end which features it has: these were seen of QEMU 10.0.2 with a Linux guest. It reads 16 bytes of the
/// config space, and 20 since 11.1.
#[test]
fn what_qemu_does_unasked_is_borne() -> Result<()> {
    let (_host, mut machine) = device(Config::default())?;
    machine.frontend().set_features(0x101_7000_0002)?;
    for bytes in [16, 20, 64] {
        let space = machine.frontend().config(0, bytes)?;
        let (known, rest) = space.split_at(16);
        assert_eq!(known, [0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0]);
        assert!(rest.iter().all(|byte| *byte == 0));
    }
    machine.frontend().set_config(4, &[1, 0, 0, 0])?;
    let mut reader = Reader::connect(&mut machine)?;
    machine.start()?;
    reader.meet(1)?;
    reader.expect(ask::SET_FEATURES)?;
    machine.leave()??;
    Ok(())
}
