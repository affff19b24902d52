//! Threads for what may wait.
//!
//! Knows no command: a job is a closure, which sees to it itself that nothing is lost when it panics.

use std::io;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// Something to do.
pub type Task = Box<dyn FnOnce() + Send>;

/// Tasks that wait for a thread, at most. More of them wait in the rings of the guest.
const WAITING_MAX: usize = 1024;

/// A thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("thread {number} of {wanted}")]
pub struct PoolError {
    /// Which one.
    number: usize,
    /// How many there should be.
    wanted: usize,
    /// Why.
    #[source]
    source: io::Error,
}

/// See the [module](self). Its threads end when it is dropped and nothing is left to do.
pub struct Pool(Sender<Task>);

impl Pool {
    /// A pool of `wanted` threads.
    pub fn new(wanted: usize) -> Result<Self, PoolError> {
        let (sender, receiver) = bounded(WAITING_MAX);
        for number in 0..wanted {
            let receiver: Receiver<Task> = receiver.clone();
            std::thread::Builder::new()
                .name(format!("scsi-pool-{number}"))
                .spawn(move || receiver.into_iter().for_each(|task| task()))
                .map_err(|source| PoolError {
                    number,
                    wanted,
                    source,
                })?;
        }
        Ok(Self(sender))
    }

    /// Has `task` done; gives it back if too many are waiting.
    pub fn run(&self, task: Task) -> Result<(), Task> {
        self.0.try_send(task).map_err(|refused| match refused {
            TrySendError::Full(task) | TrySendError::Disconnected(task) => task,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn tasks_are_done_and_what_is_too_much_comes_back() {
        let pool = Pool::new(1).unwrap();
        let (release, held) = channel::<()>();
        let (done, results) = channel();
        // The one thread waits for us.
        let begun = done.clone();
        assert!(
            pool.run(Box::new(move || {
                begun.send(0).unwrap();
                held.recv().unwrap_err();
            }))
            .is_ok()
        );
        assert_eq!(results.recv(), Ok(0));
        for number in 1..=WAITING_MAX {
            let done = done.clone();
            assert!(
                pool.run(Box::new(move || done.send(number).unwrap()))
                    .is_ok()
            );
        }
        let refused = pool.run(Box::new(move || done.send(usize::MAX).unwrap()));
        let Err(task) = refused else {
            panic!("it was taken");
        };
        drop(release);
        task();
        let mut numbers: Vec<_> = results.iter().collect();
        numbers.sort_unstable();
        assert_eq!(numbers.len(), WAITING_MAX + 1);
        assert_eq!(numbers.last(), Some(&usize::MAX));
    }
}
