//! Threads that carry out long requests beside the thread of their ring: to copy a megabyte takes one processor far longer than to wake
//! another one, which copies the next.
//!
//! Each thread finds one more request waiting when it is done with one, so that it does not wait for a ring's thread that is busy itself;
//! whoever has nothing else to do takes that one back. Knows no ring and no file; whether a ring is drained is told by the requests' own
//! tokens.

use std::sync::OnceLock;
use std::thread::{Builder, available_parallelism};

use common::ring::DetachedRequest;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::fuse::Buffers;

/// Threads, whatever the number of processors: a few fill the memory's bandwidth.
const THREADS_MAX: usize = 3;

/// Carries a request out, and gives it back to the guest.
pub(crate) type CarryOut = dyn Fn(DetachedRequest, &mut Buffers) + Send + Sync;

/// See the [module](self). Its threads are started when they are first needed, and end after it was dropped.
#[derive(Debug, Default)]
pub(crate) struct Copiers(OnceLock<(Sender<DetachedRequest>, Receiver<DetachedRequest>)>);

impl Copiers {
    /// Has `request` carried out by another thread, unless all are busy and have one more to do. `carry_out` makes what they run.
    pub(crate) fn take(
        &self,
        request: DetachedRequest,
        carry_out: impl Fn() -> Box<CarryOut>,
    ) -> Result<(), DetachedRequest> {
        let (sender, _) = self.0.get_or_init(|| {
            // One processor is the ring's own.
            let processors = available_parallelism().map_or(1, usize::from);
            start((processors - 1).min(THREADS_MAX), carry_out)
        });
        sender.try_send(request).map_err(TrySendError::into_inner)
    }

    /// A request that no thread has begun.
    pub(crate) fn take_back(&self) -> Option<DetachedRequest> {
        self.0.get()?.1.try_recv().ok()
    }
}

/// Starts `count` threads, which share a queue.
fn start(
    count: usize,
    carry_out: impl Fn() -> Box<CarryOut>,
) -> (Sender<DetachedRequest>, Receiver<DetachedRequest>) {
    // Without threads nothing waits for any: a queue without room takes nothing.
    let (sender, receiver) = bounded(count);
    for number in 0..count {
        let receiver: Receiver<DetachedRequest> = receiver.clone();
        let carry_out = carry_out();
        let started = Builder::new()
            .name(format!("fs-copier-{number}"))
            .spawn(move || {
                let mut buffers = Buffers::default();
                receiver
                    .into_iter()
                    .for_each(|request| carry_out(request, &mut buffers));
            });
        if let Err(error) = started {
            // What is queued is taken back.
            log::warn!("host: long requests are carried out by fewer threads: {error}");
            break;
        }
    }
    (sender, receiver)
}
