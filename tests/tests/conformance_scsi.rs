//! The SCSI device passes the suite that every device must pass.
//!
//! What is particular to it (task management, events, reservations, commands of every kind) is asked by its own tests.

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tests::conformance::{self, Load, Subject};
use tests::in_process::{Host, Machine};
use tests::scsi_client::{
    BLOCK, REQUEST_RING, RESPONSE, block, is_good, read, ready, request, write,
};
use vhost_device_scsi::config::{Config, UnitConfig};
use vhost_device_scsi::device::ScsiDevice;

/// Blocks of the image; exercises write the first ones, loads the last ones.
const BLOCKS: u32 = 2048;

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

/// A command that must end with GOOD, and its data.
fn command(guest: &mut Machine, request: &[u8], data_len: usize) -> Result<Vec<u8>> {
    let answer = guest.call(REQUEST_RING, request, RESPONSE + data_len)?;
    ensure!(is_good(&answer), "not GOOD: {answer:x?}");
    Ok(answer.get(RESPONSE..).unwrap_or_default().to_vec())
}

/// MODE SENSE(6) of the caching and the control page without block descriptors: WCE and `D_SENSE`, as a number.
fn modes(guest: &mut Machine) -> Result<u64> {
    let mut number = 0;
    for (bit, page) in [(0, 0x08), (1, 0x0a)] {
        let sense = request(0, &[0x1a, 0x08, page, 0, 0xff, 0], &[]);
        let data = command(guest, &sense, 0xff)?;
        let flags = data.get(4 + 2).copied().unwrap_or(0);
        number |= u64::from(flags >> 2 & 1) << bit;
    }
    Ok(number)
}

/// MODE SELECT(6) of the same two bits.
fn set_modes(guest: &mut Machine, number: u64) -> Result<()> {
    for (bit, page, len) in [(0, 0x08, 20), (1, 0x0a, 12)] {
        let current = command(
            guest,
            &request(0, &[0x1a, 0x08, page, 0, 0xff, 0], &[]),
            0xff,
        )?;
        let mut list = vec![0; 4];
        list.extend(current.iter().skip(4).take(len));
        let flag = u8::from(number >> bit & 1 != 0) << 2;
        if let Some(flags) = list.get_mut(4 + 2) {
            *flags = *flags & !4 | flag;
        }
        let size = u8::try_from(list.len())?;
        command(guest, &request(0, &[0x15, 0x10, 0, 0, size, 0], &list), 0)?;
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
        let ready = ready(0);
        for _ in 0..8 {
            if is_good(&guest.call(REQUEST_RING, &ready, RESPONSE)?) {
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
        command(guest, &write(0, at, &block(number)), 0)?;
        for earlier in 0..=at {
            let data = command(guest, &read(0, earlier), BLOCK)?;
            ensure!(
                data == block(earlier.into()),
                "block {earlier} is not there"
            );
        }
        set_modes(guest, (number + 1) % 4)
    }

    fn loads(&self) -> Vec<Load> {
        let reads = (0..64).map(|block| read(0, block)).collect();
        let writes = (0..64)
            .map(|number| write(0, BLOCKS / 2 + number, &block(number.into())))
            .collect();
        vec![
            Load {
                ring: REQUEST_RING,
                requests: reads,
                reply_len: RESPONSE + BLOCK,
                is_answer: |answer| is_good(answer) && answer.len() == RESPONSE + BLOCK,
            },
            Load {
                ring: REQUEST_RING + 1,
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
