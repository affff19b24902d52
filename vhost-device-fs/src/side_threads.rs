//! Threads that carry out larger requests beside the thread of their ring.
//!
//! To copy a megabyte takes one processor far longer than to wake another one, which copies the next. And while the host's storage is at
//! work for one request, its ring's thread can serve others. Each thread finds one more request waiting when it is done with one, so that
//! it does not wait for a ring's thread that is busy itself. Knows no ring and no file, nor what a request is; whether a ring is drained is
//! told by the requests' own tokens.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::thread::{Builder, available_parallelism};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::fuse::Buffers;

/// Threads that copy, whatever the number of processors: a few fill the memory's bandwidth.
const COPIERS_MAX: usize = 3;
/// Threads that wait for storage, which takes no processor, and requests that wait for them. All of these are waited for when the device is
/// suspended, so they are few.
const WAITERS: usize = 4;
const WAITERS_ROOM: usize = 8;

/// Carries a request out, and gives it back to the guest.
pub(crate) type CarryOut<R> = dyn Fn(R, &mut Buffers) + Send + Sync;

/// See the [module](self). Its threads are started when they are first needed, and end after it was dropped.
#[derive(Debug)]
pub(crate) struct SideThreads<R> {
    name: &'static str,
    count: usize,
    /// Requests that nobody has begun.
    room: usize,
    queue: OnceLock<(Sender<R>, Receiver<R>)>,
}

impl<R: Send + 'static> SideThreads<R> {
    /// Threads for what takes a processor.
    pub(crate) fn that_copy() -> Self {
        // One processor is the ring's own.
        let processors = available_parallelism().map_or(1, usize::from);
        let count = (processors - 1).min(COPIERS_MAX);
        // One more for each, lest it waits for a ring's thread that is busy itself.
        Self::new("fs-copier", count, count)
    }

    /// Threads for what waits for storage.
    pub(crate) fn that_wait() -> Self {
        Self::new("fs-storage", WAITERS, WAITERS_ROOM)
    }

    fn new(name: &'static str, count: usize, room: usize) -> Self {
        Self {
            name,
            count,
            room,
            queue: OnceLock::new(),
        }
    }

    /// Has `request` carried out by another thread, unless all are busy and have more to do. `carry_out` makes what they run.
    pub(crate) fn take(
        &self,
        request: R,
        carry_out: impl Fn() -> Box<CarryOut<R>>,
    ) -> Result<(), R> {
        let queue = || self.start(carry_out);
        let (sender, _) = self.queue.get_or_init(queue);
        sender.try_send(request).map_err(TrySendError::into_inner)
    }

    /// A request that no thread has begun.
    pub(crate) fn take_back(&self) -> Option<R> {
        self.queue.get()?.1.try_recv().ok()
    }

    /// Starts the threads, which share a queue.
    fn start(&self, carry_out: impl Fn() -> Box<CarryOut<R>>) -> (Sender<R>, Receiver<R>) {
        let queue = bounded(self.room);
        for number in 0..self.count {
            let receiver: Receiver<R> = queue.1.clone();
            let carry_out = carry_out();
            let started = Builder::new()
                .name(format!("{}-{number}", self.name))
                .spawn(move || work(&receiver, &carry_out));
            if let Err(error) = started {
                log::warn!(
                    "host: larger requests are carried out by {number} threads of {}: {error}",
                    self.count
                );
                if number == 0 {
                    // Without threads nothing waits for any: a queue without room takes nothing.
                    return bounded(0);
                }
                break;
            }
        }
        queue
    }
}

/// Carries out what comes, until nobody can send any more. One that panics is as lost as it is on its ring's thread, and no other is.
fn work<R>(receiver: &Receiver<R>, carry_out: &CarryOut<R>) {
    let mut buffers = Buffers::default();
    for request in receiver {
        let carried = catch_unwind(AssertUnwindSafe(|| carry_out(request, &mut buffers)));
        if carried.is_err() {
            buffers = Buffers::default();
            log::error!(
                "the device panicked on a larger request, which is lost; please report this"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    /// Turns a hang into a failure.
    const DEADLINE: Duration = Duration::from_secs(30);

    /// What is carried out is told here; what is sent to `go` is waited for first.
    fn started(count: usize) -> (SideThreads<u32>, Sender<()>, Receiver<u32>) {
        let (go, gone) = bounded::<()>(100);
        let (tell, told) = bounded(100);
        let threads = SideThreads::new("test", count, count);
        let queue = threads.start(|| {
            let (gone, tell) = (gone.clone(), tell.clone());
            Box::new(move |request, _: &mut Buffers| {
                gone.recv_timeout(DEADLINE).unwrap();
                assert_ne!(request, 13, "the thirteenth panics");
                tell.send(request).unwrap();
            })
        });
        threads.queue.set(queue).unwrap();
        (threads, go, told)
    }

    fn take(threads: &SideThreads<u32>, request: u32) -> Result<(), u32> {
        threads.take(request, || unreachable!("they were started"))
    }

    /// Until a thread has taken what is queued.
    fn until_begun(threads: &SideThreads<u32>) {
        let (_, queue) = threads.queue.get().unwrap();
        let end = std::time::Instant::now() + DEADLINE;
        while !queue.is_empty() {
            assert!(std::time::Instant::now() < end, "no thread has begun it");
            std::thread::yield_now();
        }
    }

    #[test]
    fn each_is_carried_out_once_by_whoever_has_time() {
        let (threads, go, told) = started(1);
        assert_eq!(threads.take_back(), None);
        take(&threads, 1).unwrap();
        until_begun(&threads);
        take(&threads, 2).unwrap();
        assert_eq!(take(&threads, 3), Err(3), "busy, and one waits");
        assert_eq!(threads.take_back(), Some(2));
        assert_eq!(threads.take_back(), None, "the first is begun");
        take(&threads, 4).unwrap();
        go.send(()).unwrap();
        go.send(()).unwrap();
        let told = [told.recv_timeout(DEADLINE), told.recv_timeout(DEADLINE)];
        assert_eq!(told, [Ok(1), Ok(4)]);
    }

    #[test]
    fn without_threads_nothing_is_taken() {
        let (threads, ..) = started(0);
        assert_eq!(take(&threads, 1), Err(1));
        assert_eq!(threads.take_back(), None);
    }

    #[test]
    fn one_that_panics_takes_no_other_along() {
        let (threads, go, told) = started(1);
        for request in [13, 1, 13, 13, 2] {
            take(&threads, request).unwrap();
            go.send(()).unwrap();
            until_begun(&threads);
        }
        let told = [told.recv_timeout(DEADLINE), told.recv_timeout(DEADLINE)];
        assert_eq!(told, [Ok(1), Ok(2)]);
    }

    /// Whatever a request holds is let go when it panics: a token, for which a drain would wait.
    #[test]
    fn one_that_panics_is_dropped() {
        let (sender, receiver) = bounded(1);
        let held = Arc::new(Mutex::new(0));
        sender.send(Arc::clone(&held)).unwrap();
        drop(sender);
        work(&receiver, &|request: Arc<Mutex<u32>>, _: &mut Buffers| {
            *request.lock().unwrap() = 1;
            panic!("as a bug would");
        });
        assert_eq!((*held.lock().unwrap(), Arc::strong_count(&held)), (1, 1));
    }

    #[test]
    fn its_threads_end_after_it_was_dropped() {
        let (threads, go, told) = started(2);
        take(&threads, 1).unwrap();
        drop(threads);
        go.send(()).unwrap();
        assert_eq!(told.recv_timeout(DEADLINE), Ok(1), "what was taken is done");
        let ended = told.recv_timeout(DEADLINE);
        assert_eq!(
            ended,
            Err(crossbeam_channel::RecvTimeoutError::Disconnected)
        );
    }
}
