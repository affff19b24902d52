//! Whatever the SCSI device is doing when it is suspended, stopped or moved: does every command, every task management function and
//! every event reach its end, exactly once, and none while the device is silent?

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use common::protocol::Options;
use tests::guest::{Memory, Ring};
use tests::in_process::{DEADLINE, Host, Machine, Pending, Shape, add};
use tests::scsi_client::{
    BLOCK, CONTROL_RING, EVENT, EVENT_RING, EVENTS_MISSED, PARAMETER_CHANGE, REQUEST_RING,
    RESPONSE, TRANSPORT_RESET, UNIT_RESET, block, compare_and_write, flush, is_good, read, ready,
    response, sense, task, write,
};
use tests::scsi_suite::initiator::{Data, Sense};
use tests::scsi_suite::port::{Backend, Port};
use tests::stoppable_storage::StoppableStorage;
use vhost_device_scsi::config::{Config, Engine, UnitConfig};
use vhost_device_scsi::device::ScsiDevice;
use vhost_device_scsi::virtio::events::{FEATURE_CHANGE, FEATURE_HOTPLUG};

const BLOCKS: u32 = 2048;
const IMAGE_BYTES: u64 = BLOCKS as u64 * BLOCK as u64;

/// `response` of a command that a reset has ended.
const RESET: u8 = 4;

fn device(engine: Engine, images: &[&Path]) -> Result<ScsiDevice> {
    let units = (0..).zip(images);
    Ok(ScsiDevice::new(Config {
        request_rings: 2,
        engine,
        ..Config::new(
            units
                .map(|(lun, path)| UnitConfig::new(path, lun))
                .collect(),
        )
    })?)
}

fn image(folder: &Path, name: &str) -> Result<std::path::PathBuf> {
    let path = folder.join(name);
    std::fs::File::create_new(&path)?.set_len(IMAGE_BYTES)?;
    Ok(path)
}

/// Unit attentions of a unit that was switched on, or reset, are heard.
fn make_ready(machine: &mut Machine, lun: u16) -> Result<()> {
    for _ in 0..8 {
        if is_good(&machine.call(REQUEST_RING, &ready(lun), RESPONSE)?) {
            return Ok(());
        }
    }
    bail!("unit {lun} does not become ready")
}

/// A guest that wants to hear of events.
fn started(host: &Host<ScsiDevice>, ring_size: u16) -> Result<Machine> {
    let mut machine = host.machine_with(Shape {
        ring_size,
        ..Shape::default()
    })?;
    let features = machine.features() | FEATURE_HOTPLUG | FEATURE_CHANGE;
    machine.frontend().set_features(features)?;
    machine.start()?;
    make_ready(&mut machine, 0)?;
    Ok(machine)
}

/// Waits until everything on a ring has come back, and how: by head.
fn collect(ring: &mut Ring, memory: &Memory, pending: Vec<Pending>) -> Result<Vec<Vec<u8>>> {
    let mut answers = BTreeMap::new();
    let mut pending: BTreeMap<u16, (usize, Pending)> = pending
        .into_iter()
        .enumerate()
        .map(|(number, pending)| (pending.head(), (number, pending)))
        .collect();
    while !pending.is_empty() {
        for used in ring.wait(DEADLINE)? {
            let known = pending.remove(&used.head);
            let (number, of) = known.context("ended twice, or was never asked for")?;
            answers.insert(number, of.take(memory, used.written)?);
        }
    }
    Ok(answers.into_values().collect())
}

/// Time in which a request gets as far as it can, most of the time; the tests hold if it does not.
const AS_FAR_AS_IT_CAN: Duration = Duration::from_millis(20);

/// How a silence begins and ends.
#[derive(Clone, Copy, Debug)]
enum Silence {
    Suspended,
    Stopped,
    Moved,
}

const SILENCES: [Silence; 3] = [Silence::Suspended, Silence::Stopped, Silence::Moved];

/// Silences the device; while it is silent nothing in guest memory changes. Then it goes on, perhaps as another one made by `next`.
fn silence(
    machine: Machine,
    host: Host<ScsiDevice>,
    how: Silence,
    next: &dyn Fn() -> Result<Host<ScsiDevice>>,
) -> Result<(Machine, Host<ScsiDevice>)> {
    silence_watched(machine, host, how, next, &|machine| {
        let before = machine.memory.snapshot()?;
        thread::sleep(Duration::from_millis(3));
        let changed = machine.memory.changed_pages(&before)?;
        ensure!(changed.is_empty(), "it wrote to {changed:x?} while silent");
        Ok(())
    })
}

/// [`silence`], with another way to see that the device is silent.
fn silence_watched(
    mut machine: Machine,
    host: Host<ScsiDevice>,
    how: Silence,
    next: &dyn Fn() -> Result<Host<ScsiDevice>>,
    watch: &dyn Fn(&Machine) -> Result<()>,
) -> Result<(Machine, Host<ScsiDevice>)> {
    match how {
        Silence::Suspended => machine.frontend().suspend()?,
        Silence::Stopped | Silence::Moved => machine.stop()?,
    }
    watch(&machine)?;
    if let Silence::Suspended = how {
        machine.frontend().resume()?;
        return Ok((machine, host));
    }
    if let Silence::Stopped = how {
        machine.start()?;
        return Ok((machine, host));
    }
    let state = machine.save()?;
    let destination = next()?;
    let mut machine = machine.move_to(&destination, false)?;
    machine.frontend().load(&mut state.as_slice())?;
    go_on(&mut machine)?;
    Ok((machine, destination))
}

/// A command in the middle of which the device is silenced, and how many bytes its answer has.
fn commands() -> Vec<(&'static str, Vec<u8>, usize)> {
    vec![
        ("READ", read(0, 1), RESPONSE + BLOCK),
        ("WRITE", write(0, 1, &block(1)), RESPONSE),
        ("SYNCHRONIZE CACHE", flush(0), RESPONSE),
        (
            "COMPARE AND WRITE",
            compare_and_write(0, 2, &[0; BLOCK], &block(2)),
            RESPONSE,
        ),
    ]
}

/// Each command is on the ring and not seen yet, at the storage, or done, when the device is silenced; the storage goes on only
/// when the front-end waits for that.
#[test]
fn a_command_ends_once_wherever_it_is() -> Result<()> {
    let storage = StoppableStorage::new()?;
    for engine in [Engine::IoUring, Engine::Threads] {
        for how in SILENCES {
            for (name, request, reply) in commands() {
                for at in ["available", "submitted", "done"] {
                    command_ends_once(&storage, engine, how, &request, reply, at)
                        .with_context(|| format!("{name} {at}, {engine:?}, {how:?}"))?;
                }
            }
        }
    }
    Ok(())
}

fn command_ends_once(
    storage: &StoppableStorage,
    engine: Engine,
    how: Silence,
    request: &[u8],
    reply: usize,
    at: &str,
) -> Result<()> {
    let path = storage.file("image", IMAGE_BYTES)?;
    let next = || Ok(Host::new(device(engine, &[&path])?));
    let host = next()?;
    let mut machine = started(&host, 64)?;
    // Something for SYNCHRONIZE CACHE to do.
    machine.call(REQUEST_RING, &write(0, 9, &block(9)), RESPONSE)?;
    let asked = machine.add(REQUEST_RING, request, reply)?;
    if at == "submitted" {
        storage.hang()?;
    }
    if at == "available" {
        machine.ring(REQUEST_RING)?.publish_silently()?;
    } else {
        machine.ring(REQUEST_RING)?.publish()?;
    }
    thread::sleep(AS_FAR_AS_IT_CAN);
    let (mut machine, host) = silence_while_released(storage, machine, host, how, &next)?;
    machine.ring(REQUEST_RING)?.kick()?;
    let answer = machine.finish(REQUEST_RING, asked)?;
    ensure!(is_good(&answer), "{answer:x?}");
    // Nothing comes twice.
    let again = machine.call(REQUEST_RING, &read(0, 9), RESPONSE + BLOCK)?;
    ensure!(is_good(&again) && again.ends_with(&block(9)), "{again:x?}");
    machine.leave()??;
    drop(host);
    Ok(())
}

/// [`silence`], with storage that may hang and goes on a little later.
fn silence_while_released(
    storage: &StoppableStorage,
    machine: Machine,
    host: Host<ScsiDevice>,
    how: Silence,
    next: &dyn Fn() -> Result<Host<ScsiDevice>>,
) -> Result<(Machine, Host<ScsiDevice>)> {
    thread::scope(|scope| {
        let released = scope.spawn(|| {
            thread::sleep(AS_FAR_AS_IT_CAN);
            storage.release()
        });
        let silenced = silence(machine, host, how, next);
        released.join().expect("the thread that releases it")?;
        silenced
    })
}

/// A LOGICAL UNIT RESET whose victims are at the storage when the device is silenced: they end, then the function does, and only
/// then the device is silent.
#[test]
fn a_task_management_function_ends_after_its_victims() -> Result<()> {
    let storage = StoppableStorage::new()?;
    let mut waited = 0;
    for engine in [Engine::IoUring, Engine::Threads] {
        for how in SILENCES {
            let it_waited = reset_with_victims(&storage, engine, how)
                .with_context(|| format!("{engine:?}, {how:?}"))?;
            waited += u32::from(it_waited);
        }
    }
    ensure!(waited > 0, "no function had to wait for its victims");
    Ok(())
}

/// What has ended on a ring and was not taken off it.
fn ended(machine: &mut Machine, ring: usize) -> Result<u16> {
    let ring = machine.ring(ring)?;
    Ok(ring.used_index()?.wrapping_sub(ring.next_used()))
}

/// Returns whether the function has waited for its victims. On a busy machine it may be seen before them: then they end at once, and
/// it does.
fn reset_with_victims(storage: &StoppableStorage, engine: Engine, how: Silence) -> Result<bool> {
    let path = storage.file("image", IMAGE_BYTES)?;
    let next = || Ok(Host::new(device(engine, &[&path])?));
    let host = next()?;
    let mut machine = started(&host, 64)?;
    storage.hang()?;
    let victims: Vec<Pending> = (0..8)
        .map(|number| machine.submit(REQUEST_RING, &read(0, number), RESPONSE + BLOCK))
        .collect::<Result<_>>()?;
    thread::sleep(AS_FAR_AS_IT_CAN);
    let reset = machine.submit(CONTROL_RING, &task(UNIT_RESET, 0), 1)?;
    thread::sleep(AS_FAR_AS_IT_CAN);
    let waited = ended(&mut machine, CONTROL_RING)? == 0;
    let victims_ended = ended(&mut machine, REQUEST_RING)?;
    ensure!(
        waited || victims_ended == 8,
        "the function has ended, and {victims_ended} of its victims"
    );
    let (mut machine, host) = silence_while_released(storage, machine, host, how, &next)?;
    let answer = machine.finish(CONTROL_RING, reset).context("reset")?;
    ensure!(answer == [0], "{answer:x?}");
    let victims_ended = ended(&mut machine, REQUEST_RING)?;
    ensure!(
        victims_ended == 8,
        "the function has ended, and {victims_ended} of its victims"
    );
    let memory = Arc::clone(&machine.memory);
    let answers = collect(machine.ring(REQUEST_RING)?, &memory, victims).context("victims")?;
    for answer in answers {
        // Or it was done before the device has seen the function.
        let done = is_good(&answer) && answer.len() == RESPONSE + BLOCK;
        let head = answer.get(..RESPONSE).unwrap_or_default();
        ensure!(response(&answer) == Some(RESET) || done, "{head:x?}");
    }
    // The initiator hears of the reset, after a migration too.
    let answer = machine.call(REQUEST_RING, &ready(0), RESPONSE)?;
    ensure!(sense(&answer) == Some((6, 0x29, 3)), "{answer:x?}");
    machine.leave()??;
    drop(host);
    Ok(waited)
}

/// Full rings, and a silence that comes some microseconds later each time: what was only begun is given back, so that a ring's
/// base is exactly what has ended.
#[test]
fn what_was_begun_and_not_started_is_taken_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = image(folder.path(), "image")?;
    let next = || Ok(Host::new(device(Engine::Auto, &[&path])?));
    let mut host = next()?;
    let mut machine = started(&host, 256)?;
    let memory = Arc::clone(&machine.memory);
    let used_index = machine.ring(REQUEST_RING)?.setup(0).address.log + 2;
    for round in 0..300_u32 {
        let how = match round % 20 {
            0 => Silence::Moved,
            _ if round % 2 == 1 => Silence::Suspended,
            _ => Silence::Stopped,
        };
        let asked: Vec<Pending> = (0..60)
            .map(|number| match number % 4 {
                0 => machine.add(REQUEST_RING, &flush(0), RESPONSE),
                1 => machine.add(REQUEST_RING, &write(0, number, &block(7)), RESPONSE),
                _ => machine.add(REQUEST_RING, &read(0, number), RESPONSE + BLOCK),
            })
            .collect::<Result<_>>()?;
        machine.ring(REQUEST_RING)?.publish()?;
        thread::sleep(Duration::from_micros(u64::from(round * 3)));
        let silenced = silence_watched(machine, host, how, &next, &|machine| {
            let ended = machine.memory.load::<u16>(used_index)?;
            let base = machine.bases.get(REQUEST_RING).context("no such ring")?;
            let stopped = !matches!(how, Silence::Suspended);
            ensure!(
                !stopped || *base == u32::from(ended),
                "{base}, {ended} ended"
            );
            Ok(())
        });
        (machine, host) = silenced.with_context(|| format!("round {round}, {how:?}"))?;
        let answers = collect(machine.ring(REQUEST_RING)?, &memory, asked)?;
        ensure!(
            answers.iter().all(|answer| is_good(answer)),
            "round {round}"
        );
    }
    machine.leave()??;
    Ok(())
}

/// Random reads and writes, checked against what was written, through 1,000 suspensions and stops, and a migration now and then.
#[test]
fn data_is_right_through_a_thousand_suspensions() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = image(folder.path(), "image")?;
    let next = || Ok(Host::new(device(Engine::Auto, &[&path])?));
    let mut host = next()?;
    let mut machine = started(&host, 64)?;
    let stop = AtomicBool::new(false);
    let mut guests: Vec<Guest> = [REQUEST_RING, REQUEST_RING + 1]
        .into_iter()
        .map(|ring| Guest::take(&mut machine, ring))
        .collect::<Result<_>>()?;
    // The guests go on writing to their memory, but nothing of theirs ends.
    let used: Vec<u64> = guests
        .iter()
        .map(|guest| guest.ring.setup(0).address.log + 2)
        .collect();
    let watch = |machine: &Machine| -> Result<()> {
        let indices = || -> Result<Vec<u16>> {
            let index = |address: &u64| machine.memory.load(*address);
            used.iter().map(index).collect()
        };
        let before = indices()?;
        thread::sleep(Duration::from_micros(200));
        ensure!(indices()? == before, "something ended while silent");
        Ok(())
    };
    let (cycled, counts) = thread::scope(|scope| {
        let threads: Vec<_> = guests
            .iter_mut()
            .map(|guest| scope.spawn(|| guest.work(&stop)))
            .collect();
        let cycled = (0..1_000_u64).try_fold((machine, host), |(machine, host), cycle| {
            let how = match cycle % 25 {
                0 => Silence::Moved,
                _ if cycle % 2 == 1 => Silence::Suspended,
                _ => Silence::Stopped,
            };
            thread::sleep(Duration::from_micros(cycle * 7 % 900));
            silence_watched(machine, host, how, &next, &watch)
                .with_context(|| format!("cycle {cycle}, {how:?}"))
        });
        // Whatever it came to, the guests have to end.
        stop.store(true, Ordering::Relaxed);
        let counts: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().expect("a guest's thread"))
            .collect();
        (cycled, counts)
    });
    (machine, host) = cycled?;
    let counts: Vec<u64> = counts.into_iter().collect::<Result<_>>()?;
    println!("{counts:?} requests");
    ensure!(counts.iter().all(|count| *count > 1_000), "{counts:?}");
    machine.leave()??;
    drop(host);
    Ok(())
}

/// A guest's thread, on one ring, with half of the blocks.
struct Guest {
    ring: Ring,
    memory: Arc<Memory>,
    first_block: u32,
    written: Vec<u64>,
}

const BLOCKS_OF_A_GUEST: u32 = BLOCKS / 2;

impl Guest {
    fn take(machine: &mut Machine, ring: usize) -> Result<Self> {
        let wanted = u32::try_from(ring)?;
        let position = machine.rings.iter().position(|ring| ring.index() == wanted);
        Ok(Self {
            ring: machine.rings.remove(position.context("no such ring")?),
            memory: Arc::clone(&machine.memory),
            first_block: BLOCKS_OF_A_GUEST * u32::try_from(ring - REQUEST_RING)?,
            written: vec![0; usize::try_from(BLOCKS_OF_A_GUEST)?],
        })
    }

    /// Batches of reads and writes of different blocks, each read checked.
    fn work(&mut self, stop: &AtomicBool) -> Result<u64> {
        let mut random = 0x5eed_u64 + u64::from(self.first_block);
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let start = usize::try_from(random >> 40)? % (self.written.len() - 16);
            let mut asked = Vec::new();
            let mut expected = Vec::new();
            for place in start..start + 1 + usize::try_from(random >> 60)? {
                let at = self.first_block + u32::try_from(place)?;
                let known = self.written.get_mut(place).context("no such block")?;
                if random >> (place % 32) & 1 == 0 {
                    count += 1;
                    *known = count;
                    let request = write(0, at, &block(count));
                    asked.push(add(&self.memory, &mut self.ring, &request, RESPONSE)?);
                    expected.push(None);
                } else {
                    let reply = RESPONSE + BLOCK;
                    asked.push(add(&self.memory, &mut self.ring, &read(0, at), reply)?);
                    expected.push(Some(*known));
                }
            }
            self.ring.publish()?;
            let answers = collect(&mut self.ring, &self.memory, asked)?;
            for (answer, expected) in answers.iter().zip(expected) {
                ensure!(is_good(answer), "{answer:x?}");
                let data = answer.get(RESPONSE..).unwrap_or_default();
                let right = match expected {
                    None => data.is_empty(),
                    Some(0) => data == [0; BLOCK],
                    Some(number) => data == block(number),
                };
                ensure!(
                    right,
                    "another block than {expected:?}: {:x?}",
                    data.get(..8)
                );
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Storage that hangs, with a command at it, or when what was written is to become durable: SUSPEND is refused after its
/// deadline, and the device goes on.
#[test]
fn storage_that_hangs_makes_suspend_a_refusal() -> Result<()> {
    let storage = StoppableStorage::new()?;
    let folder = tempfile::tempdir()?;
    let good = image(folder.path(), "good")?;
    for engine in [Engine::IoUring, Engine::Threads] {
        suspend_is_refused(&storage, &good, engine).with_context(|| format!("{engine:?}"))?;
    }
    Ok(())
}

fn suspend_is_refused(storage: &StoppableStorage, good: &Path, engine: Engine) -> Result<()> {
    const LIMIT: Duration = Duration::from_millis(300);
    let path = storage.file("image", IMAGE_BYTES)?;
    let units = vec![UnitConfig::new(good, 0), UnitConfig::new(&path, 1)];
    let scsi = ScsiDevice::new(Config {
        engine,
        request_rings: 2,
        workers: 2,
        sync_limit: LIMIT,
        ..Config::new(units)
    })?;
    let options = Options {
        suspend_limit: LIMIT,
        ..Options::default()
    };
    let host = Host::with_options(scsi, options);
    let mut machine = started(&host, 64)?;
    make_ready(&mut machine, 1)?;
    let refused = |machine: &mut Machine, why: &str| -> Result<()> {
        // A busy machine may not have got as far as the storage, and then there is nothing to wait for.
        let mut tries = 0;
        while machine.frontend().suspend().is_ok() {
            tries += 1;
            ensure!(tries < 1_000, "suspended: {why}");
            machine.frontend().resume()?;
            thread::sleep(AS_FAR_AS_IT_CAN);
        }
        let other = machine.call(REQUEST_RING, &read(0, 5), RESPONSE + BLOCK)?;
        ensure!(is_good(&other), "the other unit does not go on: {other:x?}");
        Ok(())
    };

    storage.hang()?;
    let hangs = machine.submit(REQUEST_RING + 1, &read(1, 5), RESPONSE + BLOCK)?;
    thread::sleep(AS_FAR_AS_IT_CAN);
    refused(&mut machine, "a read hangs")?;
    storage.release()?;
    let answer = machine.finish(REQUEST_RING + 1, hangs)?;
    ensure!(is_good(&answer), "{answer:x?}");

    let answer = machine.call(REQUEST_RING, &write(1, 6, &block(6)), RESPONSE)?;
    ensure!(is_good(&answer), "{answer:x?}");
    storage.hang()?;
    for _ in 0..3 {
        refused(&mut machine, "a sync hangs")?;
    }
    storage.release()?;
    // On a busy machine it may take longer than the limit, and then once more.
    while machine.frontend().suspend().is_err() {
        thread::sleep(AS_FAR_AS_IT_CAN);
    }
    machine.frontend().resume()?;
    let answer = machine.call(REQUEST_RING, &read(1, 6), RESPONSE + BLOCK)?;
    ensure!(answer.ends_with(&block(6)), "{answer:x?}");
    machine.leave()??;
    Ok(())
}

/// `event`, unit and reason.
fn event(bytes: &[u8]) -> Option<(u32, u16, u32)> {
    let (kind, rest) = bytes.split_first_chunk()?;
    let (lun, reason) = rest.split_first_chunk::<8>()?;
    let [_, _, high, low, ..] = *lun;
    Some((
        u32::from_le_bytes(*kind),
        u16::from_be_bytes([high & 0x3f, low]),
        u32::from_le_bytes(reason.try_into().ok()?),
    ))
}

/// Features, memory and rings for a guest that has been [moved](Machine::move_to).
fn go_on(machine: &mut Machine) -> Result<()> {
    machine.make_ready()?;
    let features = machine.features() | FEATURE_HOTPLUG | FEATURE_CHANGE;
    machine.frontend().set_features(features)?;
    machine.start()
}

/// What happens to units while the device is silent waits, through a migration too, and reaches the guest once, in order.
#[test]
fn events_wait_while_the_device_is_silent() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = image(folder.path(), "image")?;
    let more = image(folder.path(), "more")?;
    let resized = image(folder.path(), "resized")?;
    let units = || -> Result<_> { Ok(Host::new(device(Engine::Auto, &[&path, &resized])?)) };
    for move_on in [false, true] {
        let mut host = units()?;
        let mut machine = started(&host, 64)?;
        make_ready(&mut machine, 1)?;
        let buffers: Vec<Pending> = (0..4)
            .map(|_| machine.submit(EVENT_RING, &[], EVENT))
            .collect::<Result<_>>()?;
        machine.stop()?;
        let operator = host.device().administration();
        let failed = anyhow::Error::from_boxed;
        operator.add(UnitConfig::new(&more, 300)).map_err(failed)?;
        operator.resize(1, Some(100)).map_err(failed)?;
        operator.remove(300).map_err(failed)?;
        drop(operator);
        thread::sleep(AS_FAR_AS_IT_CAN);
        let events = machine.ring(EVENT_RING)?.collect()?;
        ensure!(events.is_empty(), "an event while stopped");
        let capacity = (PARAMETER_CHANGE, 1, 0x092a);
        let mut expected = vec![
            (TRANSPORT_RESET, 300, 1),
            capacity,
            (TRANSPORT_RESET, 300, 2),
        ];
        if move_on {
            let state = machine.save()?;
            host = units()?;
            machine = machine.move_to(&host, false)?;
            machine.frontend().load(&mut state.as_slice())?;
            go_on(&mut machine)?;
            // The file is larger than the guest was told.
            expected.push(capacity);
        } else {
            machine.start()?;
        }
        let memory = Arc::clone(&machine.memory);
        let used = buffers.into_iter().take(expected.len()).collect();
        let events = collect(machine.ring(EVENT_RING)?, &memory, used)?;
        let events: Vec<_> = events.iter().filter_map(|bytes| event(bytes)).collect();
        ensure!(events == expected, "{events:x?}");
        let answer = machine.call(REQUEST_RING, &ready(1), RESPONSE)?;
        let first = sense(&answer).context("no sense data")?;
        ensure!(
            [(6, 0x3f, 0x0e), (6, 0x2a, 9)].contains(&first),
            "{first:x?}"
        );
        machine.leave()??;
        drop(host);
    }
    Ok(())
}

/// Where there are more events than are remembered, the guest hears that some were missed.
#[test]
fn events_that_nobody_fetches_are_missed_and_the_guest_hears_that() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = image(folder.path(), "image")?;
    let other = image(folder.path(), "other")?;
    let next = || Ok(Host::new(device(Engine::Auto, &[&path, &other])?));
    let host = next()?;
    let machine = started(&host, 64)?;
    let operator = host.device().administration();
    for number in 0..3_000_u16 {
        let blocks = Some(1 + u64::from(number / 2 % 2));
        operator
            .resize(number % 2, blocks)
            .map_err(anyhow::Error::from_boxed)?;
    }
    ensure!(operator.show().events_missed, "nothing was lost");
    drop(operator);
    let (mut machine, host) = silence(machine, host, Silence::Moved, &next)?;
    let asked = machine.submit(EVENT_RING, &[], EVENT)?;
    let bytes = machine.finish(EVENT_RING, asked)?;
    let (kind, _, _) = event(&bytes).context("no event")?;
    ensure!(kind & EVENTS_MISSED != 0, "{kind:x}");
    machine.leave()??;
    drop(host);
    Ok(())
}

/// Firmware starts the first request ring and no other: task management and events are not there, and nothing waits for them.
#[test]
fn firmware_that_starts_one_ring_is_served_and_moved() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = image(folder.path(), "image")?;
    let next = || -> Result<_> { Ok(Host::new(device(Engine::Auto, &[&path])?)) };
    let mut host = next()?;
    let mut machine = host.machine()?;
    for number in 0..3 {
        machine.start_ring(REQUEST_RING)?;
        make_ready(&mut machine, 0)?;
        let answer = machine.call(REQUEST_RING, &write(0, 3, &block(number)), RESPONSE)?;
        ensure!(is_good(&answer), "{answer:x?}");
        host.device()
            .administration()
            .resize(0, Some(100 + number))
            .map_err(anyhow::Error::from_boxed)?;
        machine.stop_ring(REQUEST_RING)?;
        let state = machine.save()?;
        let destination = next()?;
        machine = machine.move_to(&destination, false)?;
        machine.frontend().load(&mut state.as_slice())?;
        machine.make_ready()?;
        host = destination;
    }
    machine.start_ring(REQUEST_RING)?;
    make_ready(&mut machine, 0)?;
    let answer = machine.call(REQUEST_RING, &read(0, 3), RESPONSE + BLOCK)?;
    ensure!(answer.ends_with(&block(2)), "{answer:x?}");
    machine.leave()??;
    drop(host);
    Ok(())
}

/// As many units as there are numbers, and one state for all of them.
#[test]
fn the_greatest_number_of_units_moves() -> Result<()> {
    const LAST: u16 = 16_383;
    let folder = tempfile::tempdir()?;
    let path = image(folder.path(), "image")?;
    let unit = format!("path={},lock=off", path.display());
    let units = (0..=LAST).flat_map(|_| ["--lun".to_owned(), unit.clone()]);
    let mut port = Port::new(Backend::new()?.with(units))?;
    port.initiator.clear_attentions(LAST)?;
    port.migrate()?;
    let seen = port.initiator.clear_attentions(LAST)?;
    ensure!(seen.is_empty(), "unit {LAST} was ready: {seen:?}");
    let seen = port.initiator.clear_attentions(LAST - 1)?;
    ensure!(seen == [Sense(6, 0x29, 0)], "{seen:?}");
    // REPORT LUNS, all of them.
    let length = 8 + 8 * (usize::from(LAST) + 1);
    let mut cdb = vec![0xa0, 0, 0, 0, 0, 0];
    cdb.extend(u32::try_from(length)?.to_be_bytes());
    cdb.extend([0, 0]);
    let outcome = port.initiator.command(0, &cdb, Data::In(length))?;
    ensure!(outcome.residual == 0 && outcome.data.ends_with(&[0x7f, 0xff, 0, 0, 0, 0, 0, 0]));
    Ok(())
}

/// A guest has used one of two rings, and comes to a back-end that was given no state: it is told, whichever ring is started first.
#[test]
fn a_guest_that_comes_without_its_state_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = image(folder.path(), "image")?;
    let next = || -> Result<_> { Ok(Host::new(device(Engine::Auto, &[&path])?)) };
    let used = REQUEST_RING + 1;
    let host = next()?;
    let mut machine = host.machine()?;
    machine.start()?;
    let heard = machine.call(used, &ready(0), RESPONSE)?;
    ensure!(sense(&heard) == Some((6, 0x29, 0)), "{heard:x?}");
    // What stops and starts where it was is known.
    machine.stop()?;
    machine.start()?;
    ensure!(is_good(&machine.call(used, &ready(0), RESPONSE)?));
    machine.stop()?;
    let destination = next()?;
    let mut machine = machine.move_to(&destination, true)?;
    machine.start()?;
    for expected in [(6, 0x29, 0), (6, 0x2a, 4)] {
        let answer = machine.call(used, &ready(0), RESPONSE)?;
        ensure!(sense(&answer) == Some(expected), "{answer:x?}");
    }
    ensure!(is_good(&machine.call(used, &ready(0), RESPONSE)?));
    let shown = destination.device().administration().show();
    ensure!(shown.events_missed, "the guest does not look for units");
    machine.leave()??;
    Ok(())
}

/// A unit is removed while commands of it hang at its storage and the device waits for them: it is given up only after them.
#[test]
fn a_unit_that_is_removed_in_a_drain_is_given_up_after_its_commands() -> Result<()> {
    let storage = StoppableStorage::new()?;
    let folder = tempfile::tempdir()?;
    let (good, path) = (
        image(folder.path(), "good")?,
        storage.file("image", IMAGE_BYTES)?,
    );
    let host = Host::new(device(Engine::Threads, &[&good, &path])?);
    let mut machine = started(&host, 64)?;
    make_ready(&mut machine, 1)?;
    storage.hang()?;
    let write = machine.submit(REQUEST_RING, &write(1, 5, &block(5)), RESPONSE)?;
    thread::sleep(AS_FAR_AS_IT_CAN);
    let operator = host.device().administration();
    let events = || operator.show().events_waiting;
    thread::scope(|scope| -> Result<()> {
        let suspended = scope.spawn(|| machine.frontend().suspend());
        thread::sleep(AS_FAR_AS_IT_CAN);
        operator.remove(1).map_err(anyhow::Error::from_boxed)?;
        thread::sleep(AS_FAR_AS_IT_CAN);
        let early = events();
        storage.release()?;
        suspended.join().expect("the front-end")?;
        ensure!(
            early == 0,
            "the guest is told before the last command has ended"
        );
        Ok(())
    })?;
    let began = std::time::Instant::now();
    while events() == 0 {
        ensure!(began.elapsed() < DEADLINE, "the guest is never told");
        thread::sleep(AS_FAR_AS_IT_CAN);
    }
    machine.frontend().resume()?;
    let answer = machine.finish(REQUEST_RING, write)?;
    ensure!(is_good(&answer), "{answer:x?}");
    let written = std::fs::read(storage.beneath("image"))?;
    ensure!(written.get(5 * BLOCK..6 * BLOCK) == Some(&block(5)[..]));
    machine.leave()??;
    Ok(())
}
