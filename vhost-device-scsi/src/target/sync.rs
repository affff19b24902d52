//! Makes what was written durable, and waits for that no longer than was agreed: storage that hangs must not hang whoever asks us to
//! suspend.
//!
//! Knows units and time. A `fdatasync` that takes too long goes on in a thread of its own, and there is never more than one such
//! thread: who asks again waits for it first.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Table, TargetError};

/// See the [module](self).
#[derive(Default)]
pub(super) struct Sync(Mutex<Option<Running>>);

/// What a thread that has not come back yet will say.
type Running = Receiver<Result<(), TargetError>>;

impl Sync {
    /// Makes all units durable within `limit`.
    pub(super) fn all(&self, table: &Arc<Table>, limit: Duration) -> Result<(), TargetError> {
        let slow = TargetError::Slow {
            limit_ms: limit.as_millis(),
        };
        let end = Instant::now() + limit;
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = &*running
            && let Err(RecvTimeoutError::Timeout) = earlier.recv_timeout(limit)
        {
            return Err(slow);
        }
        *running = None;
        if !table.values().any(|unit| unit.backing().is_dirty()) {
            return Ok(());
        }
        let (sender, results) = channel();
        let table = Arc::clone(table);
        thread::Builder::new()
            .name("scsi-sync".into())
            .spawn(move || {
                // Nobody listens if it took too long.
                let _unheard = sender.send(sync(&table));
            })
            .map_err(TargetError::Thread)?;
        match results.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                *running = Some(results);
                Err(slow)
            }
            Err(RecvTimeoutError::Disconnected) => Err(TargetError::Thread(std::io::Error::other(
                "it panicked; please report this",
            ))),
        }
    }
}

fn sync(table: &Table) -> Result<(), TargetError> {
    table.iter().try_for_each(|(lun, unit)| {
        unit.backing()
            .sync()
            .map_err(|source| TargetError::Backing {
                lun: *lun,
                path: unit.config().path.clone(),
                source,
            })
    })
}
