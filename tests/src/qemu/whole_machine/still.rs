//! The same machine with a screen that stands still: nothing is drawn but what the caller asks for.
//!
//! Its other programs are those of [`Work`].

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use common::state::DeviceKind;

use super::WholeMachine;
use super::work::{TURN_SCREEN_ON, Work};
use crate::qemu::vm::DEADLINE;

/// How often the screen is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Fills the screen with noise. It ends with an error, since the screen has an end.
const DRAW: &str = "cat /dev/urandom >/dev/fb0 2>/dev/null; true";

impl WholeMachine {
    /// Waits for the guest, starts its programs, and draws; what is on its screen then.
    pub fn start_work(&mut self) -> Result<Vec<u8>> {
        self.other_work().start_programs(self)?;
        let blank = self.screen()?;
        self.vm.run(TURN_SCREEN_ON)?;
        self.draw(&blank)
    }

    /// Lets the guest draw something new, and waits until it is on the screen and does not change any more.
    pub fn draw(&mut self, old: &[u8]) -> Result<Vec<u8>> {
        self.vm.run(DRAW)?;
        let end = Instant::now() + DEADLINE;
        let mut last = Vec::new();
        loop {
            let now = self.screen()?;
            if now != old && now == last {
                return Ok(now);
            }
            let report = || self.vm.report();
            ensure!(Instant::now() < end, "no new picture\n{}", report());
            last = now;
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// An error unless the programs move on, have found no fault, and the screen shows `picture`.
    pub fn check(&mut self, picture: &[u8]) -> Result<()> {
        self.other_work().check(self)?;
        let end = Instant::now() + DEADLINE;
        while self.screen()? != picture {
            let report = || self.vm.report();
            ensure!(Instant::now() < end, "another picture\n{}", report());
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Ends the programs, which must have found no fault, and everything else.
    pub fn end(self, share: &Path) -> Result<()> {
        self.other_work().end(self, share)
    }

    /// The work on all devices but the screen.
    fn other_work(&self) -> Work {
        Work::of(
            self.kinds()
                .filter(|kind| *kind != DeviceKind::Gpu)
                .collect(),
        )
    }
}
