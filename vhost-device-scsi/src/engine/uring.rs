//! One `io_uring`, owned by one worker thread: reads and writes straight from and to guest memory.
//!
//! The one place that gives addresses of guest memory to a kernel that keeps them. Knows files, offsets and the caller's numbers for
//! what is in flight; knows no command.

#![expect(
    unsafe_code,
    reason = "the kernel reads and writes guest memory after the call that asked for it has returned"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::ThreadId;
use std::time::Duration;

use common::IoVectors;
use io_uring::{IoUring, opcode, squeue, types};

use super::job::{Job, Work};
use crate::scsi::Operation;

/// Submissions that are gathered, at most; the completion queue has room for as many as a worker's rings can have in flight.
const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 4096;

/// Buffers that the kernel takes in one submission (`IOV_MAX`).
const VECTORS_MAX: usize = 1024;
/// How long the end of what is in flight is waited for when a worker is gone, in milliseconds.
const PATIENCE_MS: u32 = 10_000;

/// A job that the kernel works on. It has the buffers and the file for as long as that takes.
#[derive(Default)]
struct Slot {
    job: Option<Job>,
    vectors: IoVectors,
}

/// An `io_uring`, and what it has in flight.
pub(super) struct Uring {
    ring: IoUring,
    owner: ThreadId,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Signalled by completions that come while the worker sleeps.
    _waker: OwnedFd,
}

impl Uring {
    /// One for the calling thread, which nobody else may use (`IORING_SETUP_SINGLE_ISSUER`). `waker` is signalled by completions.
    pub(super) fn new(waker: OwnedFd) -> io::Result<Self> {
        let ring = build()?;
        ring.submitter().register_eventfd(waker.as_raw_fd())?;
        Ok(Self {
            ring,
            owner: std::thread::current().id(),
            slots: Vec::new(),
            free: Vec::new(),
            _waker: waker,
        })
    }

    /// Whether the calling thread may use it.
    pub(super) fn is_ours(&self) -> bool {
        self.owner == std::thread::current().id()
    }

    /// Jobs in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The jobs in flight.
    pub(super) fn jobs_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.slots.iter_mut().filter_map(|slot| slot.job.as_mut())
    }

    /// Takes a job on, to be begun by [`submit`](Self::submit); leaves it where it is if it is nothing for us.
    pub(super) fn start(&mut self, place: &mut Option<Job>) {
        if self.free.is_empty() {
            self.free.push(self.slots.len());
            self.slots.push(Slot::default());
        }
        let Some(&number) = self.free.last() else {
            return;
        };
        let (Some(slot), Some(job)) = (self.slots.get_mut(number), place.as_ref()) else {
            return;
        };
        let Some(entry) = entry(job, &mut slot.vectors) else {
            return;
        };
        let entry = entry.user_data(number as u64);
        // SAFETY: the entry points to the slot's vectors, which nobody touches while it is taken, and these, or it, to the guest memory
        // of the job, which keeps it mapped, as it keeps the unit's file open; the slot keeps the job until its completion was seen, and
        // `Drop` waits for that, too. Slots move when there are more of them; what the vectors point to does not.
        let pushed = unsafe { self.ring.submission().push(&entry) }.is_ok() || {
            // Full: what is there begins first.
            self.submit().is_ok()
                // SAFETY: as above.
                && unsafe { self.ring.submission().push(&entry) }.is_ok()
        };
        if pushed && let Some(slot) = self.slots.get_mut(number) {
            slot.job = place.take();
            self.free.pop();
        }
    }

    /// Begins what was added, and lets what is done complete.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            match self.ring.submitter().submit() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether there is something to [collect](Self::collect), or work of the kernel's that waits for us.
    pub(super) fn is_ready(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.kernel_waits()
    }

    /// Gives every job that is done, and its result (bytes, or a negative error number), to `each`.
    pub(super) fn collect(&mut self, mut each: impl FnMut(Job, i32)) -> io::Result<()> {
        if self.kernel_waits() {
            self.run_deferred()?;
        }
        loop {
            let Some(entry) = self.ring.completion().next() else {
                return Ok(());
            };
            let number = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            if let Some(job) = self.slots.get_mut(number).and_then(|slot| slot.job.take()) {
                self.free.push(number);
                each(job, entry.result());
            }
        }
    }

    /// Whether the kernel has something for us that comes only when it is entered: deferred work, or completions for which there
    /// was no room.
    fn kernel_waits(&mut self) -> bool {
        let submission = self.ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// Lets the kernel finish completions that it has deferred until we enter it.
    fn run_deferred(&mut self) -> io::Result<()> {
        const GET_EVENTS: u32 = 1; // IORING_ENTER_GETEVENTS
        // SAFETY: no argument that the kernel would read or write.
        let entered = unsafe {
            self.ring
                .submitter()
                .enter::<libc::sigset_t>(0, 0, GET_EVENTS, None)
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether completions signal the worker: only while it sleeps, since it looks anyway before.
    pub(super) fn signal_completions(&mut self, signal: bool) {
        let completions = self.ring.completion();
        if signal {
            completions.enable_eventfd();
        } else {
            completions.disable_eventfd();
        }
    }
}

impl Drop for Uring {
    /// The kernel must be done with guest memory before that may be unmapped.
    fn drop(&mut self) {
        for _ in 0..PATIENCE_MS {
            let _in_flight_is_what_counts = self.collect(|_, _| ());
            if self.in_flight() == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        log::error!(
            "host: {} transfers do not end; the memory of their guest stays mapped",
            self.in_flight()
        );
        std::mem::forget(std::mem::take(&mut self.slots));
    }
}

/// The submission for a job, with its buffers in `vectors`; `None` if that is not for us.
fn entry(job: &Job, vectors: &mut IoVectors) -> Option<squeue::Entry> {
    let Work::Operation(operation) = &job.command.work else {
        return None;
    };
    let frame = &job.command.frame;
    let file = types::Fd(job.command.unit.backing().fd().as_raw_fd());
    match operation {
        Operation::Read(extent) => {
            let mut writer = job.request().writer();
            writer.skip(frame.in_at).ok()?;
            writer.vectors(usize::try_from(extent.len).ok()?, vectors);
            Some(match buffers(vectors)? {
                // Of one buffer the kernel makes less ado.
                Buffers::One(buffer, len) => opcode::Read::new(file, buffer, len)
                    .offset(extent.at)
                    .build(),
                Buffers::Many(buffers, count) => opcode::Readv::new(file, buffers, count)
                    .offset(extent.at)
                    .build(),
            })
        }
        Operation::Write { extent, durable } => {
            let mut reader = job.request().reader();
            reader.skip(frame.out_at).ok()?;
            reader.vectors(usize::try_from(extent.len).ok()?, vectors);
            let flags = if *durable { libc::RWF_DSYNC } else { 0 };
            Some(match buffers(vectors)? {
                Buffers::One(buffer, len) => opcode::Write::new(file, buffer, len)
                    .offset(extent.at)
                    .rw_flags(flags)
                    .build(),
                Buffers::Many(buffers, count) => opcode::Writev::new(file, buffers, count)
                    .offset(extent.at)
                    .rw_flags(flags)
                    .build(),
            })
        }
        Operation::Flush => Some(
            opcode::Fsync::new(file)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
        ),
        Operation::Verify(_)
        | Operation::Compare { .. }
        | Operation::WriteAndVerify { .. }
        | Operation::CompareAndWrite { .. }
        | Operation::OrWrite { .. }
        | Operation::WriteSame { .. }
        | Operation::Unmap(_)
        | Operation::Allocation(_) => None,
    }
}

/// Guest memory as a submission takes it.
enum Buffers {
    One(*mut u8, u32),
    Many(*const libc::iovec, u32),
}

fn buffers(vectors: &IoVectors) -> Option<Buffers> {
    let buffers = vectors.as_slice();
    if let [only] = buffers {
        let len = u32::try_from(only.iov_len).ok()?;
        return Some(Buffers::One(only.iov_base.cast(), len));
    }
    let count = u32::try_from(buffers.len()).ok()?;
    (buffers.len() <= VECTORS_MAX).then_some(Buffers::Many(buffers.as_ptr(), count))
}

/// The best that the kernel has: flags of Linux 6.1, 5.19, and of before.
fn build() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(COMPLETIONS);
    let mut best = builder.clone();
    best.setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    let mut good = builder.clone();
    good.setup_coop_taskrun().setup_taskrun_flag();
    best.build(SUBMISSIONS)
        .or_else(|_| good.build(SUBMISSIONS))
        .or_else(|_| builder.build(SUBMISSIONS))
}

/// Whether there can be one at all: containers often forbid it.
pub(super) fn probe() -> io::Result<()> {
    build().map(drop)
}
