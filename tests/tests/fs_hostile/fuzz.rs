//! Requests of which each may be anything, tens of thousands of them.
//!
//! Knows the shape of requests just well enough to get past the first check now and then. One seed is always the
//! same; another one is made of the time, and told if the test fails.

use std::fs;

use anyhow::{Context, Result, ensure};
use tests::fuse_client::ROOT;
use tests::random::Random;
use vhost_device_fs::fuse::abi::{Opcode, OutHeader};
use vhost_device_fs::fuse::wire::Wire;

use crate::rig::{Rig, outcome, request, request_of_length};

const REQUESTS: usize = 25_000;

const NAMES: &[&str] = &[
    "a",
    "b",
    "c",
    "d",
    "link",
    "fifo",
    "",
    ".",
    "..",
    "/",
    "../outside/secret",
    "a/b",
    "user.x",
    "security.capability",
    "system.posix_acl_access",
    "/etc/passwd",
];

/// Numbers that mean something somewhere: flags, modes, sizes, ends of ranges.
const WORDS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    8,
    0o644,
    0o40_755,
    0o100_644,
    0o10_644,
    0o1_000,
    0o2_000,
    0o20_200_000,
    4_096,
    65_536,
    1 << 31,
    u32::MAX as u64,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// A guest's request, and the numbers it was told so far.
struct Guest {
    random: Random,
    nodeids: Vec<u64>,
    handles: Vec<u64>,
}

impl Guest {
    fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        for _ in 0..self.random.below(12) {
            let word = match self.random.below(6) {
                0 => self.random.number(),
                1 | 2 => self.random.one_of(&self.handles, 0),
                3 => self.random.one_of(&self.nodeids, ROOT),
                _ => self.random.one_of(WORDS, 0),
            };
            let bytes = word.to_le_bytes();
            // Half of the fields have 32 bits.
            let size = self.random.one_of(&[4, 8], 8);
            body.extend_from_slice(bytes.get(..size).unwrap_or_default());
        }
        for _ in 0..self.random.below(3) {
            body.extend_from_slice(self.random.one_of(NAMES, "a").as_bytes());
            if self.random.below(10) != 0 {
                body.push(0);
            }
        }
        if self.random.below(20) == 0 {
            let size = self.random.below(100_000);
            body.extend((0..size).map(|at| at.to_le_bytes()[0]));
        }
        body
    }

    fn sizes(&mut self, total: usize) -> Vec<usize> {
        (0..self.random.below(6))
            .map(|_| 1 + self.random.below(total.max(1)))
            .collect()
    }

    fn request(&mut self) -> (u32, Vec<u8>) {
        let opcode = match self.random.below(40) {
            0 => u32::try_from(self.random.number() >> 32).unwrap_or(0),
            // What changes the tables, more often than the rest.
            1..4 => Opcode::Lookup.number(),
            4..6 => Opcode::Create.number(),
            6..8 => Opcode::Open.number(),
            8 => Opcode::OpenDir.number(),
            _ => self.random.one_of(Opcode::ALL, Opcode::Lookup).number(),
        };
        let nodeid = match self.random.below(10) {
            0 => self.random.one_of(WORDS, 0),
            1..5 => ROOT,
            _ => self.random.one_of(&self.nodeids, ROOT),
        };
        let body = self.body();
        let bytes = if self.random.below(10) == 0 {
            let len = self.random.one_of(WORDS, 0).min(u32::MAX.into());
            request_of_length(u32::try_from(len).unwrap_or(0), opcode, nodeid, &body)
        } else {
            request(opcode, nodeid, &body)
        };
        (opcode, bytes)
    }

    /// Remembers what a reply may have told: at the front of most replies is a nodeid or a handle.
    fn learn(&mut self, opcode: u32, reply: &[u8]) {
        let Some(mut rest) = reply.get(OutHeader::SIZE..) else {
            return;
        };
        let Some(number) = u64::take(&mut rest) else {
            return;
        };
        let known = match Opcode::from_number(opcode) {
            Some(Opcode::Open | Opcode::OpenDir) => &mut self.handles,
            Some(Opcode::Lookup | Opcode::Create | Opcode::MkDir | Opcode::MkNod) => {
                &mut self.nodeids
            }
            _ => return,
        };
        if known.len() == 32 {
            known.remove(0);
        }
        known.push(number);
    }
}

fn attack(rig: &mut Rig, seed: u64) -> Result<()> {
    let mut guest = Guest {
        random: Random::new(seed),
        nodeids: Vec::new(),
        handles: Vec::new(),
    };
    let mut served = 0;
    for number in 0..REQUESTS {
        let (opcode, bytes) = guest.request();
        let readable = guest.sizes(bytes.len());
        let mut writable = vec![OutHeader::SIZE, 4096];
        if guest.random.below(3) == 0 {
            writable = guest.sizes(300);
        }
        let reply = rig
            .exchange(&bytes, &readable, &writable)
            .with_context(|| format!("request {number}, opcode {opcode}"))?;
        let room: usize = writable.iter().sum();
        if !reply.is_empty() {
            let errno =
                outcome(&reply).with_context(|| format!("request {number}, opcode {opcode}"))?;
            served += usize::from(errno == 0);
            guest.learn(opcode, &reply);
        } else if room >= OutHeader::SIZE {
            let silent = [Opcode::Forget, Opcode::BatchForget].map(Opcode::number);
            ensure!(
                silent.contains(&opcode),
                "request {number}, opcode {opcode}"
            );
        }
        if opcode == Opcode::Destroy.number() || opcode == Opcode::Init.number() {
            // Many of those that come would only be told that there is no session.
            rig.client.init(u64::MAX)?;
        }
    }
    ensure!(served > REQUESTS / 50, "{served} requests were served");
    Ok(())
}

#[test]
fn whatever_the_guest_sends() -> Result<()> {
    for seed in [1, Random::seed_of_the_time()] {
        let mut rig = Rig::start(
            &["--xattr", "--security-label", "--rlimit-nofile", "600"],
            |share| {
                fs::write(share.join("a"), "text")?;
                fs::create_dir(share.join("d"))?;
                std::os::unix::fs::symlink("../outside", share.join("link"))?;
                Ok(std::os::unix::fs::symlink("/etc/passwd", share.join("b"))?)
            },
        )?;
        // Or the wild sizes fill the disk.
        let limit = rustix::process::Rlimit {
            current: Some(4 << 20),
            maximum: Some(4 << 20),
        };
        let process = Some(rig.daemon.id());
        rustix::process::prlimit(process, rustix::process::Resource::Fsize, limit)?;
        let before = rig.daemon.resident_kib()?;
        attack(&mut rig, seed)
            .and_then(|()| {
                let grown = rig.daemon.resident_kib()?.saturating_sub(before);
                println!("seed {seed}: {grown} KiB more are resident");
                ensure!(grown < 128 << 10, "{grown} KiB more are resident");
                rig.client.init(u64::MAX)?;
                rig.survived()
            })
            .with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}
