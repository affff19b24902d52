//! Random commands, to a driver and to the model, and what is seen compared with what has to be seen.
//!
//! A script depends on its seed only: what happens to the device meanwhile changes nothing of what its guest does.

mod backing;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use common::frontend::Frontend;

use super::display::{Display, Seen};
use super::driver::Driver;
use super::model::{Model, Resource};
use super::picture::Picture;
use super::wire::{self, CURSOR_SIZE, Format, Position, Rect, answer};
use crate::guest::Manner;
use crate::random::Random;
use backing::Backing;

/// Resources that a guest has, at most.
const RESOURCES_MAX: usize = 8;

/// The smallest scanout that QEMU accepts.
const SCANOUT_MIN: u32 = 16;

/// See the [module](self).
#[derive(Debug)]
pub struct Script {
    random: Random,
    /// The guest.
    pub driver: Driver,
    display: Display,
    /// What has to be seen.
    pub model: Model,
    backings: BTreeMap<u32, Backing>,
    heads: u32,
    /// Nobody looks at the display meanwhile.
    blind: bool,
    steps: u64,
}

impl Script {
    /// A guest that has just booted, with a monitor on each of `heads` heads.
    pub fn new(seed: u64, heads: u32, frontend: Frontend) -> Result<Self> {
        let display = Display::new(&vec![(640, 480); heads as usize]);
        Ok(Self {
            random: Random::new(seed),
            driver: Driver::start(frontend, Some(&display))?,
            display,
            model: Model::default(),
            backings: BTreeMap::new(),
            heads,
            blind: false,
            steps: 0,
        })
    }

    /// Commands of `count` random steps.
    pub fn steps(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            let step = self.steps;
            self.steps += 1;
            self.step().with_context(|| format!("step {step}"))?;
        }
        Ok(())
    }

    /// Compares everything that is seen. A number for each head, which is the same if the head looks the same.
    pub fn checkpoint(&mut self) -> Result<Vec<u64>> {
        self.look()?;
        let memory = self.driver.memory();
        for backing in self.backings.values() {
            backing.check(&memory)?;
        }
        (0..self.heads).map(|head| self.hash(head)).collect()
    }

    /// Nobody looks from now on, or somebody does again.
    pub fn set_blind(&mut self, blind: bool) {
        self.blind = blind;
        self.display.hold_reading(blind);
    }

    /// Explicitly suspended, silent, and resumed.
    pub fn suspend(&mut self) -> Result<()> {
        self.driver.suspend()?;
        self.driver.resume()?;
        self.repainted()
    }

    /// `stop` and `cont`; the VMM's console keeps its picture, or has forgotten it.
    pub fn stop_and_start(&mut self, forget: bool) -> Result<()> {
        self.display.forget_at_close(forget);
        self.driver.stop_and_start()?;
        self.repainted()
    }

    /// The state of the device.
    pub fn snapshot(&mut self) -> Result<Vec<u8>> {
        let state = self.driver.snapshot()?;
        self.repainted()?;
        Ok(state)
    }

    /// Goes on in another daemon and with another console.
    pub fn migrate_to(&mut self, destination: Frontend, manner: Manner) -> Result<()> {
        self.display.forget_at_close(true);
        self.driver.migrate_to(destination, manner)?;
        self.repainted()
    }

    /// The guest reboots: nothing is left, and the console that keeps its picture is told so.
    pub fn reset(&mut self) -> Result<()> {
        self.display.forget_at_close(false);
        self.driver.reset()?;
        self.model.reset();
        let memory = self.driver.memory();
        for backing in std::mem::take(&mut self.backings).into_values() {
            backing.release(&memory);
        }
        Ok(())
    }

    /// The device shows everything, without being asked for anything.
    fn repainted(&mut self) -> Result<()> {
        if self.blind {
            return Ok(());
        }
        self.look().context("without a command since the start")
    }

    /// Compares what is seen with what has to be seen, pixel by pixel, and the cursors.
    fn look(&self) -> Result<()> {
        for head in 0..self.heads {
            match self.model.picture(head) {
                Some(picture) => self.display.expect(head as usize, picture)?,
                None => self.display.expect_dark(head as usize)?,
            }
        }
        for (&head, cursor) in self.model.cursors() {
            let is_right = |seen: &Seen| {
                let shown = seen.heads.get(head as usize).map(|head| &head.cursor);
                shown.is_some_and(|shown| shown == cursor || !shown.visible && !cursor.visible)
            };
            let waited = self.display.wait("a cursor", is_right);
            waited.with_context(|| format!("cursor {head} is not seen as {cursor:?}"))?;
        }
        Ok(())
    }

    fn hash(&self, head: u32) -> Result<u64> {
        let seen = self.display.seen()?;
        let head = seen.heads.get(head as usize).context("no such head")?;
        let cursor = u64::from(head.cursor.visible)
            * (u64::from(head.cursor.at.0) << 32 | u64::from(head.cursor.at.1));
        Ok(head.picture.as_ref().map_or(0, Picture::hash) ^ cursor)
    }

    fn step(&mut self) -> Result<()> {
        let kind = self.random.below(100);
        match kind {
            0..10 => self.create(),
            10..36 => self.draw_and_transfer(),
            36..40 => self.draw().map(drop),
            40..60 => self.flush(),
            60..70 => self.set_scanout(),
            70..72 => self.disable(),
            72..76 => self.unref(),
            76..80 => self.attach_another(),
            80..94 => self.move_cursor(),
            _ => self.mistake(),
        }
    }

    /// Sends a command that must succeed, sometimes with a fence.
    fn succeed(&mut self, request: Vec<u8>) -> Result<()> {
        let fence = (self.random.below(4) == 0).then(|| (self.random.number(), 3));
        let request = fence.map_or(request.clone(), |(fence, context)| {
            wire::fenced(request, fence, context)
        });
        let answer = self.driver.expect(answer::OK_NODATA, &request)?;
        ensure!(
            answer.fence == fence,
            "the fence {fence:x?} comes back as {:x?}",
            answer.fence
        );
        Ok(())
    }

    fn any_resource(&mut self) -> Option<u32> {
        self.random.choose(&self.model.ids()).copied()
    }

    fn create(&mut self) -> Result<()> {
        let ids = self.model.ids();
        let id = self.random.between(1, 40);
        if ids.len() >= RESOURCES_MAX || ids.contains(&id) {
            return Ok(());
        }
        let (width, height) = match self.random.below(3) {
            0 => (CURSOR_SIZE, CURSOR_SIZE),
            _ => (
                self.random.between(SCANOUT_MIN, 150),
                self.random.between(SCANOUT_MIN, 110),
            ),
        };
        let format = *self.random.choose(&Format::ALL).context("no format")?;
        self.succeed(wire::create_2d(id, format.number, width, height))?;
        self.model.create(id, format, width, height);
        self.attach(id)
    }

    fn attach(&mut self, id: u32) -> Result<()> {
        let resource = self.model.resource(id)?;
        let words = resource.width * resource.height;
        let bytes = (0..words)
            .flat_map(|_| self.random.word().to_le_bytes())
            .collect();
        let backing = Backing::allocate(&self.driver.memory(), &mut self.random, bytes)?;
        self.succeed(wire::attach_backing(id, &backing.pieces))?;
        self.backings.insert(id, backing);
        Ok(())
    }

    /// The guest draws into a part of a backing, and tells nobody.
    fn draw(&mut self) -> Result<Option<(u32, Rect)>> {
        let Some(id) = self.any_resource() else {
            return Ok(None);
        };
        let area = self.model.resource(id)?.area();
        let rect = self.part(area, 1);
        let backing = self.backings.get_mut(&id).context("no backing")?;
        let length = 4 * rect.width as usize;
        let memory = self.driver.memory();
        for y in rect.y..rect.y + rect.height {
            let start = 4 * (y as usize * area.width as usize + rect.x as usize);
            let row = backing.bytes.get_mut(start..start + length);
            for pixel in row.context("outside of a backing")?.chunks_mut(4) {
                pixel.copy_from_slice(&self.random.word().to_le_bytes());
            }
            backing.write(&memory, start, length)?;
        }
        Ok(Some((id, rect)))
    }

    fn draw_and_transfer(&mut self) -> Result<()> {
        let Some((id, mut rect)) = self.draw()? else {
            return Ok(());
        };
        let area = self.model.resource(id)?.area();
        let offset_of =
            |rect: Rect| 4 * (u64::from(rect.y) * u64::from(area.width) + u64::from(rect.x));
        let offset = offset_of(rect);
        if self.random.below(4) == 0 {
            // The same pixels to another place.
            rect.x = self.random.between(0, area.width - rect.width);
            rect.y = self.random.between(0, area.height - rect.height);
        }
        self.succeed(wire::transfer(id, rect, offset))?;
        let backing = self.backings.get(&id).context("no backing")?;
        self.model.transfer(id, rect, offset, &backing.bytes)
    }

    fn flush(&mut self) -> Result<()> {
        let Some(id) = self.any_resource() else {
            return Ok(());
        };
        let area = self.model.resource(id)?.area();
        let rect = self.part(area, 1);
        self.succeed(wire::flush(id, rect))?;
        self.model.flush(id, rect)?;
        if self.blind {
            return Ok(());
        }
        let waited = self.look();
        waited.with_context(|| format!("after a flush of {rect:?} of resource {id}"))
    }

    fn set_scanout(&mut self) -> Result<()> {
        let Some(id) = self.any_resource() else {
            return Ok(());
        };
        let head = self.random.between(0, self.heads - 1);
        let area = self.model.resource(id)?.area();
        let rect = self.part(area, SCANOUT_MIN);
        self.succeed(wire::set_scanout(head, id, rect))?;
        self.model.set_scanout(head, id, rect)
    }

    fn disable(&mut self) -> Result<()> {
        let head = self.random.between(0, self.heads - 1);
        self.succeed(wire::set_scanout(head, 0, Rect::default()))?;
        self.model.set_scanout(head, 0, Rect::default())
    }

    fn unref(&mut self) -> Result<()> {
        let Some(id) = self.any_resource() else {
            return Ok(());
        };
        self.succeed(wire::unref(id))?;
        self.model.unref(id);
        let backing = self.backings.remove(&id).context("no backing")?;
        backing.release(&self.driver.memory());
        Ok(())
    }

    /// Other guest memory for the same resource: the host's copy stays.
    fn attach_another(&mut self) -> Result<()> {
        let Some(id) = self.any_resource() else {
            return Ok(());
        };
        self.succeed(wire::detach_backing(id))?;
        let backing = self.backings.remove(&id).context("no backing")?;
        backing.release(&self.driver.memory());
        self.attach(id)
    }

    fn move_cursor(&mut self) -> Result<()> {
        let at = Position {
            scanout: self.random.between(0, self.heads - 1),
            x: self.random.between(0, 700),
            y: self.random.between(0, 500),
        };
        let images: Vec<u32> = self
            .model
            .ids()
            .into_iter()
            .filter(|id| {
                let resource = self.model.resource(*id);
                resource.is_ok_and(|resource| {
                    resource.area() == Rect::of_size(CURSOR_SIZE, CURSOR_SIZE)
                        && resource.format == Format::BGRA
                })
            })
            .collect();
        let known = self.model.cursors().get(&at.scanout);
        let has_image = known.is_some_and(|cursor| !cursor.image.is_empty());
        match self.random.choose(&images).copied() {
            Some(id) if self.random.below(2) == 0 => {
                let hot = (self.random.between(0, 63), self.random.between(0, 63));
                self.driver.cursor(&wire::update_cursor(at, id, hot))?;
                self.model.update_cursor(at, id, hot)?;
            }
            _ if has_image => {
                // Linux names the resource of the cursor; which one it is does not matter.
                let id = u32::from(self.random.below(5) > 0);
                self.driver.cursor(&wire::move_cursor(at, id))?;
                self.model.move_cursor(at, id);
            }
            _ => {}
        }
        Ok(())
    }

    /// A command that makes no sense, of which nothing may be seen.
    fn mistake(&mut self) -> Result<()> {
        let id = self.any_resource().unwrap_or(99);
        let known = self.model.resource(id).map(Resource::area);
        let area = known.unwrap_or(Rect::of_size(1, 1));
        let beyond = Rect::new(1, 0, area.width, area.height);
        let mistakes = [
            wire::create_2d(id, 99, 1, 1),
            wire::create_2d(0, 1, 16, 16),
            wire::unref(98),
            wire::set_scanout(16, id, area),
            wire::set_scanout(0, id, beyond),
            wire::set_scanout(0, id, Rect::of_size(SCANOUT_MIN - 1, SCANOUT_MIN)),
            wire::flush(id, beyond),
            wire::transfer(id, beyond, 0),
            wire::transfer(id, area, 4),
            wire::attach_backing(98, &[(4096, 4096)]),
            wire::request(wire::command::CTX_CREATE, &[0; 18]),
        ];
        let request = self.random.choose(&mistakes).context("no mistake")?;
        let answer = self.driver.ask(request)?;
        ensure!(
            (answer::ERR_UNSPEC..=answer::ERR_INVALID_PARAMETER).contains(&answer.kind),
            "a mistake is answered by {:#x}: {request:x?}",
            answer.kind
        );
        Ok(())
    }

    /// A part of `area`, at least so wide and high.
    fn part(&mut self, area: Rect, least: u32) -> Rect {
        let width = self.random.between(least, area.width);
        let height = self.random.between(least, area.height);
        let x = self.random.between(0, area.width - width);
        let y = self.random.between(0, area.height - height);
        Rect::new(x, y, width, height)
    }
}
