//! How fast a GPU is: transfers, flushes, and its state.
//!
//! Knows daemons only as somebody who speaks the protocol. Nothing here passes or fails.

use std::time::Instant;

use anyhow::{Context, Result};
use common::frontend::Frontend;

use super::display::Display;
use super::driver::Driver;
use super::wire::{self, Format, Rect, answer};
use crate::guest::Manner;
use crate::guest::machine::Migrated;

/// The resource on the screen.
const ID: u32 = 1;

/// Commands that are on the ring at once.
const BATCH: u32 = 8;

/// A guest whose only screen has a size, and shows one resource.
#[derive(Debug)]
pub struct Screen {
    driver: Driver,
    display: Display,
    all: Rect,
    backing: u64,
}

impl Screen {
    /// Behind `frontend`, with which nothing was said yet.
    pub fn new(frontend: Frontend, width: u32, height: u32) -> Result<Self> {
        let display = Display::new(&[(width, height)]);
        let mut driver = Driver::start(frontend, Some(&display))?;
        let size = width * height * 4;
        let backing = driver.memory().allocate(size.into())?;
        let all = Rect::of_size(width, height);
        driver.succeed(&wire::create_2d(ID, Format::BGRX.number, width, height))?;
        driver.succeed(&wire::attach_backing(ID, &[(backing, size)]))?;
        driver.succeed(&wire::set_scanout(0, ID, all))?;
        let mut screen = Self {
            driver,
            display,
            all,
            backing,
        };
        screen.draw(1)?;
        screen.seconds_per_transfer()?;
        screen.seconds_per_flush()?;
        Ok(screen)
    }

    /// The guest draws everything, which the device does not know yet.
    pub fn draw(&mut self, seed: u32) -> Result<()> {
        let pixels = (0..self.all.width * self.all.height).map(|number| number.wrapping_mul(seed));
        let bytes: Vec<u8> = pixels.flat_map(u32::to_le_bytes).collect();
        self.driver.memory().write(self.backing, &bytes)
    }

    /// Of everything, to the host.
    pub fn seconds_per_transfer(&mut self) -> Result<f64> {
        self.seconds_per(&wire::transfer(ID, self.all, 0))
    }

    /// Of everything, until the device says that it has done it.
    pub fn seconds_per_flush(&mut self) -> Result<f64> {
        self.seconds_per(&wire::flush(ID, self.all))
    }

    /// A transfer and a flush of everything, until it is seen.
    pub fn seconds_until_seen(&mut self) -> Result<f64> {
        let before = self.updates()?;
        let begin = Instant::now();
        self.driver.succeed(&wire::transfer(ID, self.all, 0))?;
        self.driver.succeed(&wire::flush(ID, self.all))?;
        self.display.wait("an update", |seen| {
            seen.heads.first().is_some_and(|head| head.updates > before)
        })?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// Moves to another daemon.
    pub fn migrate_to(&mut self, destination: Frontend) -> Result<Migrated> {
        self.driver.migrate_to(destination, Manner::QEMU)
    }

    fn updates(&self) -> Result<u64> {
        self.display.settle()?;
        let seen = self.display.seen()?;
        Ok(seen.heads.first().context("no head")?.updates)
    }

    fn seconds_per(&mut self, request: &[u8]) -> Result<f64> {
        let begin = Instant::now();
        let pending = (0..BATCH).map(|_| self.driver.submit(request));
        let pending = pending.collect::<Result<Vec<_>>>()?;
        for answer in self.driver.finish_all(pending)? {
            anyhow::ensure!(answer.kind == answer::OK_NODATA, "{:#x}", answer.kind);
        }
        Ok(begin.elapsed().as_secs_f64() / f64::from(BATCH))
    }
}
