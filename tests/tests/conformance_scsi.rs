//! The SCSI device passes the suite that every device must pass.
//!
//! What is particular to it (task management, events, reservations, commands of every kind) is asked by its own tests.

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tests::conformance::{self, Load, Subject};
use tests::in_process::{Host, Machine};
use vhost_device_scsi::config::{Config, UnitConfig};
use vhost_device_scsi::device::ScsiDevice;

/// The first request ring: 0 is for task management, 1 for events.
const RING: usize = 2;
const BLOCK: usize = 512;
/// Blocks of the image; exercises write the first ones, loads the last ones.
const BLOCKS: u32 = 2048;

/// Bytes of a response without data, with the `sense_size` that devices start with (virtio 1.3, 5.6.6.1).
const RESPONSE: usize = 108;
const STATUS_AT: usize = 10;

struct Scsi(TempDir);

impl Scsi {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let image = std::fs::File::create(folder.path().join("image"))?;
        image.set_len(u64::from(BLOCKS) * BLOCK as u64)?;
        Ok(Self(folder))
    }

    fn config(&self) -> Config {
        Config {
            request_rings: 2,
            ..Config::new(vec![UnitConfig::new(self.0.path().join("image"), 0)])
        }
    }
}

/// The bytes of a request to unit 0.
fn request(cdb: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0x40, 0, 0, 0, 0, 0];
    bytes.resize(19, 0);
    bytes.extend(cdb);
    bytes.resize(51, 0);
    bytes.extend(data);
    bytes
}

fn transfer(code: u8, block: u32) -> Vec<u8> {
    let mut cdb = vec![code, 0];
    cdb.extend(block.to_be_bytes());
    cdb.extend([0, 0, 1, 0]);
    cdb
}

fn read(block: u32) -> Vec<u8> {
    request(&transfer(0x28, block), &[])
}

fn write(block: u32, data: &[u8; BLOCK]) -> Vec<u8> {
    request(&transfer(0x2a, block), data)
}

/// GOOD, and nothing wrong on the way.
fn is_good(answer: &[u8]) -> bool {
    answer.len() >= RESPONSE && answer.get(STATUS_AT..RESPONSE_PREFIX) == Some(&[0, 0])
}

const RESPONSE_PREFIX: usize = 12;

/// A command that must end with GOOD, and its data.
fn command(guest: &mut Machine, request: &[u8], data_len: usize) -> Result<Vec<u8>> {
    let answer = guest.call(RING, request, RESPONSE + data_len)?;
    ensure!(is_good(&answer), "not GOOD: {answer:x?}");
    Ok(answer.get(RESPONSE..).unwrap_or_default().to_vec())
}

/// A block that nobody else has written.
fn block(number: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for (place, byte) in block.iter_mut().zip(number.to_le_bytes().iter().cycle()) {
        *place = byte.wrapping_add(1);
    }
    block
}

/// MODE SENSE(6) of the caching and the control page without block descriptors: WCE and `D_SENSE`, as a number.
fn modes(guest: &mut Machine) -> Result<u64> {
    let mut number = 0;
    for (bit, page) in [(0, 0x08), (1, 0x0a)] {
        let sense = request(&[0x1a, 0x08, page, 0, 0xff, 0], &[]);
        let data = command(guest, &sense, 0xff)?;
        let flags = data.get(4 + 2).copied().unwrap_or(0);
        number |= u64::from(flags >> 2 & 1) << bit;
    }
    Ok(number)
}

/// MODE SELECT(6) of the same two bits.
fn set_modes(guest: &mut Machine, number: u64) -> Result<()> {
    for (bit, page, len) in [(0, 0x08, 20), (1, 0x0a, 12)] {
        let current = command(guest, &request(&[0x1a, 0x08, page, 0, 0xff, 0], &[]), 0xff)?;
        let mut list = vec![0; 4];
        list.extend(current.iter().skip(4).take(len));
        let flag = u8::from(number >> bit & 1 != 0) << 2;
        if let Some(flags) = list.get_mut(4 + 2) {
            *flags = *flags & !4 | flag;
        }
        let size = u8::try_from(list.len())?;
        command(guest, &request(&[0x15, 0x10, 0, 0, size, 0], &list), 0)?;
    }
    Ok(())
}

impl Subject for Scsi {
    type Device = ScsiDevice;

    fn create(&self) -> Result<ScsiDevice> {
        Ok(ScsiDevice::new(self.config())?)
    }

    /// Hears the unit attentions of a unit that was switched on.
    fn prepare(&self, guest: &mut Machine) -> Result<()> {
        let ready = request(&[0; 6], &[]);
        for _ in 0..8 {
            if is_good(&guest.call(RING, &ready, RESPONSE)?) {
                return Ok(());
            }
        }
        anyhow::bail!("the unit does not become ready")
    }

    /// Counts with two bits of the mode pages, which are the device's state, and writes the numbers to the disk, which is not. There is no
    /// unit attention that was not there before.
    fn exercise(&self, guest: &mut Machine, number: u64) -> Result<()> {
        if number > 0 {
            let found = modes(guest)?;
            ensure!(found == number % 4, "the mode pages say {found}");
        }
        let at = u32::try_from(number)? % (BLOCKS / 2);
        command(guest, &write(at, &block(number)), 0)?;
        for earlier in 0..=at {
            let data = command(guest, &read(earlier), BLOCK)?;
            ensure!(
                data == block(earlier.into()),
                "block {earlier} is not there"
            );
        }
        set_modes(guest, (number + 1) % 4)
    }

    fn loads(&self) -> Vec<Load> {
        let reads = (0..64).map(read).collect();
        let writes = (0..64)
            .map(|number| write(BLOCKS / 2 + number, &block(number.into())))
            .collect();
        vec![
            Load {
                ring: RING,
                requests: reads,
                reply_len: RESPONSE + BLOCK,
                is_answer: |answer| is_good(answer) && answer.len() == RESPONSE + BLOCK,
            },
            Load {
                ring: RING + 1,
                requests: writes,
                reply_len: RESPONSE,
                is_answer: is_good,
            },
        ]
    }

    /// A state of a disk with another name.
    fn refused_states(&self, _good: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut config = self.config();
        for unit in &mut config.units {
            "another disk".clone_into(&mut unit.serial);
            unit.lock = false;
        }
        let host = Host::new(ScsiDevice::new(config)?);
        let mut machine = host.machine_with(self.shape())?;
        let state = machine.save()?;
        machine.leave()??;
        Ok(vec![state])
    }
}

#[test]
fn the_scsi_device_conforms() -> Result<()> {
    conformance::run(&Scsi::new()?)
}
