//! Does a guest notice that its SCSI daemon was killed? It sees unit attentions, and commands of which nobody can know whether they
//! were done; but each command and each task management function ends once, and the disk holds what it must.
//!
//! The daemon is the real one, killed by SIGKILL at random moments under load and started again on its socket. The front-end
//! keeps the region for requests in flight, as QEMU does (hw/scsi/vhost-user-scsi.c).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::daemon_runner::Daemon;
use tests::scsi_suite::load::{BLOCK_BYTES, Load, Tally};
use tests::scsi_suite::port::Backend;

const CRASHES: u32 = 60;
const BLOCKS: usize = 256;

struct Rig {
    daemon: Daemon,
    load: Load,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new(arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("image");
        std::fs::File::create(&image)?.set_len((BLOCKS * BLOCK_BYTES) as u64)?;
        let lun = format!("path={}", image.display());
        let backend = Backend::new()?
            .with(["--lun", &lun])
            .with(arguments.iter().copied());
        let daemon = backend.start()?;
        let seed = std::process::id().into();
        println!("seed {seed}");
        Ok(Self {
            load: Load::boot(daemon.connect()?, BLOCKS, seed)?,
            daemon,
            _folder: folder,
        })
    }

    fn crash(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.daemon.restart()?;
        self.load.reconnect(self.daemon.connect()?)
    }

    fn explain(&self) -> String {
        format!(
            "the daemon's log:\n{}",
            self.daemon.log().unwrap_or_default()
        )
    }
}

fn crash_and_verify(rig: &mut Rig) -> Result<Tally> {
    for round in 0..CRASHES {
        let micros = rig.load.random() % 20_000;
        rig.load.run_for(Duration::from_micros(micros))?;
        rig.crash()?;
        if round % 4 == 3 {
            rig.load.settle()?;
        }
    }
    rig.load.verify()?;
    // All is done, and the next one would go on where this one stopped.
    let bases = rig.load.machine().stop()?;
    let used = rig.load.machine().rings().iter();
    let used = used.map(|ring| Ok(ring.used_index()?.into()));
    ensure!(bases == used.collect::<Result<Vec<u32>>>()?, "{bases:?}");
    Ok(rig.load.tally())
}

fn survives(arguments: &[&str]) -> Result<()> {
    let mut rig = Rig::new(arguments)?;
    let tally = crash_and_verify(&mut rig).with_context(|| rig.explain())?;
    println!("{arguments:?}: {tally:?}");
    assert!(tally.interrupted > u64::from(CRASHES), "{tally:?}");
    assert!(tally.unknown > 0 && tally.tasks > 0, "{tally:?}");
    Ok(())
}

#[test]
fn commands_survive_crashes_of_an_io_uring_daemon() -> Result<()> {
    survives(&["--engine", "auto"])
}

#[test]
fn commands_survive_crashes_of_a_daemon_with_threads() -> Result<()> {
    survives(&["--engine", "threads", "--threads", "2"])
}
