//! What a worker does with requests: takes them from a ring, has them done, gives them back.
//!
//! A request is *available*, then *begun* (in the batch, and may be put back), then *in flight* (a [`Job`], which nobody can take
//! back), then done. Suspension closes the gate: nothing is taken any more, what is only begun is put back, what is in flight is
//! waited for.
//!
//! Knows jobs and who does them; knows neither SCSI nor files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use common::device::Guest;
use common::request::Request;
use common::ring::{Completions, Ring};

use super::job::{Command, Finished, Job, Outcome, Work};
use super::pool::Pool;
use super::uring::Uring;
use super::worker::Mailbox;
use super::{inline, perform};
use crate::config::Engine;
use crate::scsi::{Completion, Failure};
use crate::target::{Table, Target};
use crate::virtio::commands::{self, Step};
use crate::virtio::sweep::{Effect, Notice, Sweep};
use crate::virtio::wire::{Answer, Incoming, malformed};

/// Requests that are begun before the first of them is submitted, at most. The guest is told after as many: so it prepares the next
/// ones while we work on the others, instead of in turns with us.
const BATCH_MAX: usize = 16;

/// A request that has been looked at and not been started.
struct Begun {
    request: Request,
    command: Command,
    sweeps: Vec<Arc<Sweep>>,
}

/// A job in the pool: what a sweep must mark.
struct Pooled {
    lun: u16,
    id: u64,
    sweeps: Vec<Arc<Sweep>>,
}

/// Whom a worker works with.
pub(super) struct Others<'a> {
    pub(super) pool: &'a Pool,
    pub(super) guest: &'a Guest,
    pub(super) mailbox: &'a Arc<Mailbox>,
}

/// See the [module](self).
pub(crate) struct Service {
    engine: Engine,
    uring: Option<Uring>,
    completions: Completions,
    batch: Vec<Begun>,
    pooled: Vec<Option<Pooled>>,
    /// Sweeps whose victims have been given back, and not been announced.
    ending: Vec<Arc<Sweep>>,
    table: Arc<Table>,
    generation: u64,
}

impl Service {
    pub(crate) fn new(engine: Engine, target: &Target) -> Self {
        Self {
            engine,
            uring: None,
            completions: Completions::default(),
            batch: Vec::with_capacity(BATCH_MAX),
            pooled: Vec::new(),
            ending: Vec::new(),
            generation: target.generation(),
            table: target.table(),
        }
    }

    /// The worker's thread comes. It may be another one than the last time: each connection has its own.
    pub(super) fn attend(&mut self, target: &Target, guest: &Guest, ring: usize) {
        let generation = target.generation();
        if self.generation != generation {
            self.generation = generation;
            self.table = target.table();
        }
        if self.uring.as_ref().is_some_and(|uring| !uring.is_ours()) {
            abandon(self.uring.take());
        }
        if self.uring.is_none() && self.engine != Engine::Threads {
            self.uring = guest.waker(ring).and_then(|waker| {
                Uring::new(waker)
                    .inspect_err(|error| {
                        log::warn!("host: no io_uring ({error}); threads do the I/O");
                    })
                    .ok()
            });
            if self.uring.is_none() {
                self.engine = Engine::Threads;
            }
        }
        if let Some(uring) = &mut self.uring {
            uring.signal_completions(false);
        }
    }

    /// The worker's thread goes. Returns whether there is something to do after all.
    pub(super) fn leave(&mut self) -> bool {
        self.uring.as_mut().is_some_and(|uring| {
            uring.signal_completions(true);
            uring.is_ready()
        })
    }

    /// Gives back what is done. Returns whether anything was.
    pub(super) fn finish(&mut self, finished: Vec<Finished>, others: &Others<'_>) -> bool {
        let mut any = !finished.is_empty();
        for Finished {
            mut job,
            number,
            outcome,
        } in finished
        {
            let pooled = self.pooled.get_mut(number).and_then(Option::take);
            job.sweeps
                .extend(pooled.into_iter().flat_map(|pooled| pooled.sweeps));
            complete(&mut self.completions, &mut self.ending, job, outcome);
        }
        let Some(uring) = &mut self.uring else {
            return any;
        };
        let (completions, ending) = (&mut self.completions, &mut self.ending);
        let mut unfinished = Vec::new();
        let collected = uring.collect(|job, result| {
            any = true;
            if perform::is_whole(&job, result) {
                let outcome = Outcome::Operation(Ok(Completion::Done));
                complete(completions, ending, job, outcome);
            } else {
                unfinished.push(job);
            }
        });
        if let Err(error) = collected {
            log::error!("host: io_uring: {error}");
        }
        // An error, or less than was asked for: done once more, by a thread that finds out what is the matter, and where.
        for job in unfinished {
            self.pool(job, others);
        }
        any
    }

    /// Takes requests from the ring and begins them; marks what the sweeps concern. Returns whether there was anything.
    ///
    /// With sweeps, all that is on the ring is looked at, for it was there before them; otherwise a batch.
    pub(super) fn take(
        &mut self,
        ring: &mut Ring<'_>,
        target: &Target,
        notices: &[Notice],
    ) -> bool {
        self.mark(notices);
        let sizes = target.sizes();
        let mut taken = 0;
        let limit = if notices.is_empty() {
            BATCH_MAX
        } else {
            SWEPT_MAX
        };
        while taken < limit {
            ring.reuse(&mut self.completions);
            let popped = if notices.is_empty() {
                ring.pop()
            } else {
                ring.pop_closing()
            };
            let Some(request) = popped else {
                break;
            };
            taken += 1;
            let incoming = match Incoming::parse(&request, sizes) {
                Ok(incoming) => incoming,
                Err(error) => {
                    malformed(ring.index(), &error);
                    ring.complete(request, 0);
                    continue;
                }
            };
            self.begin(ring, target, request, &incoming, notices);
        }
        taken > 0 || !notices.is_empty()
    }

    fn begin(
        &mut self,
        ring: &mut Ring<'_>,
        target: &Target,
        request: Request,
        incoming: &Incoming,
        notices: &[Notice],
    ) {
        let sweeps = if notices.is_empty() {
            Vec::new()
        } else {
            commands::concerned(target, incoming, notices)
        };
        if let Some(response) = ended(&sweeps) {
            let written = Answer::only(response).write(&request, &incoming.frame);
            ring.complete(request, written);
            self.ending.extend(sweeps);
            return;
        }
        match commands::begin(target, &self.table, &request, incoming) {
            Step::Answered(written) => {
                ring.complete(request, written);
                self.ending.extend(sweeps);
            }
            Step::Command(command) => self.batch.push(Begun {
                request,
                command,
                sweeps,
            }),
        }
    }

    /// Has done what was begun, or puts it back if the ring is about to be stopped.
    pub(super) fn start(&mut self, ring: &mut Ring<'_>, swept: bool, others: &Others<'_>) {
        if !ring.is_open() && !swept {
            self.put_back(ring);
        }
        let alone = self.batch.len() == 1
            && self
                .uring
                .as_ref()
                .is_none_or(|uring| uring.in_flight() == 0);
        // Taken out and put back, so that its room is kept.
        let mut batch = std::mem::take(&mut self.batch);
        for begun in batch.drain(..) {
            self.start_one(ring, begun, alone, others);
        }
        self.batch = batch;
        if let Some(uring) = &mut self.uring
            && let Err(error) = uring.submit()
        {
            // It stays in the submission queue, and is tried again in the next round.
            log::error!("host: io_uring takes no submissions: {error}");
            others.guest.serve(ring.index());
        }
    }

    /// The newest first: only the request popped last can be put back.
    fn put_back(&mut self, ring: &mut Ring<'_>) {
        while let Some(begun) = self.batch.pop() {
            let Begun {
                request,
                command,
                sweeps,
            } = begun;
            if let Err(request) = ring.put_back(request) {
                self.batch.push(Begun {
                    request,
                    command,
                    sweeps,
                });
                return;
            }
        }
    }

    fn start_one(&mut self, ring: &mut Ring<'_>, begun: Begun, alone: bool, others: &Others<'_>) {
        let Begun {
            request,
            command,
            sweeps,
        } = begun;
        if let Work::Operation(operation) = &command.work
            && sweeps.is_empty()
            && inline::at_once(&request, &command, operation, alone)
        {
            let written = commands::good(&request, &command.frame, operation);
            ring.complete(request, written);
            return;
        }
        let job = Job {
            ring: ring.index(),
            request: ring.detach(request),
            command,
            sweeps,
        };
        let mut job = Some(job);
        if let Some(uring) = &mut self.uring {
            uring.start(&mut job);
        }
        if let Some(job) = job {
            self.pool(job, others);
        }
    }

    /// Has a job done by a thread that may wait.
    fn pool(&mut self, mut job: Job, others: &Others<'_>) {
        let pooled = Some(Pooled {
            lun: job.command.lun,
            id: job.command.id,
            sweeps: std::mem::take(&mut job.sweeps),
        });
        let free = self.pooled.iter().position(Option::is_none);
        let number = free.unwrap_or(self.pooled.len());
        match self.pooled.get_mut(number) {
            Some(place) => *place = pooled,
            None => self.pooled.push(pooled),
        }
        let (guest, mailbox) = (others.guest.clone(), Arc::clone(others.mailbox));
        let work = move || {
            let outcome =
                catch_unwind(AssertUnwindSafe(|| perform::perform(&job))).unwrap_or_else(|_| {
                    log::error!("a thread panicked over a command; please report this");
                    Outcome::Operation(Err(Failure::Aborted))
                });
            let ring = job.ring;
            mailbox.finish(Finished {
                job,
                number,
                outcome,
            });
            guest.serve(ring);
        };
        if let Err(work) = others.pool.run(Box::new(work)) {
            // More is asked for than the threads can take: the guest has to wait.
            work();
        }
    }

    /// Tells the guest what is done; sweeps whose victims these were may end.
    pub(super) fn announce(&mut self, ring: &mut Ring<'_>) {
        ring.flush();
        self.completions.announce();
        self.ending.clear();
    }

    /// Marks what is in flight.
    fn mark(&mut self, notices: &[Notice]) {
        for Notice { sweep, .. } in notices {
            if let Some(uring) = &mut self.uring {
                for job in uring.jobs_mut() {
                    if sweep.scope.contains(job.command.lun, job.command.id) && sweep.find() {
                        job.sweeps.push(Arc::clone(sweep));
                    }
                }
            }
            for pooled in self.pooled.iter_mut().flatten() {
                if sweep.scope.contains(pooled.lun, pooled.id) && sweep.find() {
                    pooled.sweeps.push(Arc::clone(sweep));
                }
            }
        }
    }
}

/// More than any ring can hold.
const SWEPT_MAX: usize = 32768;

/// How a command ends that sweeps concern, if they end it.
fn ended(sweeps: &[Arc<Sweep>]) -> Option<crate::virtio::wire::Response> {
    sweeps.iter().find_map(|sweep| match sweep.effect {
        Effect::End(response) => Some(response),
        Effect::Await | Effect::Notice => None,
    })
}

fn complete(
    completions: &mut Completions,
    ending: &mut Vec<Arc<Sweep>>,
    job: Job,
    outcome: Outcome,
) {
    let Job {
        ring: _,
        request,
        command,
        sweeps,
    } = job;
    let outcome = ended(&sweeps).map_or(outcome, Outcome::Response);
    let written = commands::end(&command, request.request(), outcome);
    completions.complete(request, written);
    ending.extend(sweeps);
}

/// Leaves what a worker of a connection that is gone has in flight to a thread that waits for it.
fn abandon(uring: Option<Uring>) {
    let spawned = std::thread::Builder::new()
        .name("scsi-abandoned".into())
        .spawn(move || drop(uring));
    if let Err(error) = spawned {
        log::error!("host: no thread to wait for what a guest left behind: {error}");
    }
}
