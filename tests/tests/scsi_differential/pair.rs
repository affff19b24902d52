//! Both targets on equal images, given the same commands. Knows what differs, not why.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tests::qemu::provision::scsi_tools;
use tests::random::Random;
use tests::scsi_suite::initiator::{CHECK_CONDITION, Data, GOOD, Outcome, Sense};
use tests::scsi_suite::iscsi::client::Client;
use tests::scsi_suite::port::{Backend, Port};
use tests::scsi_suite::tgtd::{LUN, Tgtd};

use crate::commands::{BLOCK, BLOCKS, Moves};

/// The end of a command, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) response: u8,
    pub(crate) status: u8,
    pub(crate) sense: Option<Sense>,
    pub(crate) data: Vec<u8>,
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> Self {
        let failed = outcome.status == CHECK_CONDITION;
        Self {
            response: outcome.response,
            status: outcome.status,
            sense: outcome.sense().filter(|_| failed),
            data: match outcome.status {
                GOOD => outcome.transferred().to_vec(),
                _ => Vec::new(),
            },
        }
    }
}

/// What both made of a command.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) cdb: Vec<u8>,
    pub(crate) moves: Moves,
    pub(crate) ours: End,
    pub(crate) theirs: End,
    /// Whether the images are equal afterwards.
    pub(crate) same_image: bool,
}

impl Case {
    pub(crate) fn differs(&self) -> bool {
        self.ours != self.theirs || !self.same_image
    }

    /// In words that are not too long.
    pub(crate) fn report(&self) -> String {
        let text = format!("{self:02x?}");
        text.chars().take(2000).collect()
    }

    pub(crate) fn code(&self) -> u8 {
        self.byte(0)
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.cdb.get(at).copied().unwrap_or(0)
    }
}

/// See the [module](self).
pub(crate) struct Pair {
    pub(crate) ours: Port,
    theirs: Client,
    images: [PathBuf; 2],
    /// How many changes of reservations ours has done more than tgtd, which can only come of a known difference.
    generations_ahead: u32,
    tgtd: Tgtd,
    _folder: TempDir,
}

impl Pair {
    /// Both have heard that the power is on, and hold the same random blocks.
    pub(crate) fn start(random: &mut Random) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let images = ["ours", "theirs"].map(|name| folder.path().join(name));
        let content = random.bytes(BLOCKS * BLOCK);
        for image in &images {
            fs::write(image, &content)?;
        }
        let [ours, theirs] = &images;
        let tgtd = Tgtd::start(&scsi_tools()?, theirs)?;
        let unit = format!("path={},lun={LUN}", ours.display());
        let mut pair = Self {
            ours: Port::new(Backend::new()?.with(["--lun", &unit]))?,
            theirs: tgtd.connect()?,
            images,
            generations_ahead: 0,
            tgtd,
            _folder: folder,
        };
        pair.ours.initiator.clear_attentions(LUN.into())?;
        for _ in 0..10 {
            if pair.theirs.command(LUN, &[0; 6], Data::None)?.status == GOOD {
                return Ok(pair);
            }
        }
        anyhow::bail!("tgtd's unit does not become ready")
    }

    /// The same command to both.
    pub(crate) fn command(&mut self, cdb: Vec<u8>, moves: Moves) -> Result<Case> {
        let ours = self.ours.initiator.command(LUN.into(), &cdb, moves.data());
        let ours = ours.with_context(|| format!("ours: {cdb:02x?}"))?.into();
        let theirs = self.theirs.command(LUN, &cdb, moves.data());
        let mut theirs: End = theirs
            .with_context(|| format!("tgtd: {cdb:02x?}\n{}", self.tgtd.report()))?
            .into();
        if let [0x5e, 0 | 1 | 3, ..] = cdb[..]
            && let Some(generation) = theirs.data.first_chunk_mut()
        {
            let as_ours = u32::from_be_bytes(*generation).wrapping_add(self.generations_ahead);
            *generation = as_ours.to_be_bytes();
        }
        Ok(Case {
            same_image: self.same_image()?,
            cdb,
            moves,
            ours,
            theirs,
        })
    }

    fn same_image(&self) -> Result<bool> {
        let [ours, theirs] = &self.images;
        Ok(fs::read(ours)? == fs::read(theirs)?)
    }

    /// After a difference that is known, both are made equal again: nothing is reserved, stopped or protected, and the blocks are ours.
    pub(crate) fn align(&mut self) -> Result<()> {
        let (zero, one) = ([0; 8], 1_u64.to_be_bytes());
        let zero_key = [zero, one, zero].concat();
        let own_key = [one, zero, zero].concat();
        let protect_off = [
            0, 0, 0, 0, 0x0a, 0x0a, 0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0,
        ];
        let steps: [(&[u8], Data<'_>); 6] = [
            (&[0x1b, 0, 0, 0, 1, 0], Data::None),
            (&[0x17, 0, 0, 0, 0, 0], Data::None),
            (&[0x1e, 0, 0, 0, 0, 0], Data::None),
            (&[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], Data::Out(&zero_key)),
            (&[0x5f, 3, 0, 0, 0, 0, 0, 0, 24, 0], Data::Out(&own_key)),
            (&[0x15, 0x10, 0, 0, 16, 0], Data::Out(&protect_off)),
        ];
        for (cdb, data) in steps {
            self.ours.initiator.command(LUN.into(), cdb, data)?;
            self.theirs.command(LUN, cdb, data)?;
        }
        self.ours.initiator.clear_attentions(LUN.into())?;
        let read_keys = [0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0];
        let ours = &mut self.ours.initiator;
        let ours = ours.command(LUN.into(), &read_keys, Data::In(8))?;
        let theirs = self.theirs.command(LUN, &read_keys, Data::In(8))?;
        let generation = |outcome: &Outcome| {
            let bytes = outcome.data.first_chunk().copied();
            bytes.map(u32::from_be_bytes).context("no generation")
        };
        self.generations_ahead = generation(&ours)?.wrapping_sub(generation(&theirs)?);
        let [ours, theirs] = &self.images;
        fs::write(theirs, fs::read(ours)?)?;
        ensure!(self.same_image()?);
        Ok(())
    }
}
