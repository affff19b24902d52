//! The file mode creation mask of one thread, for guests that leave theirs to us because of ACLs: the host's kernel applies
//! it to a new file unless the directory has a default ACL, and knows in the same moment which of the two it is.
//!
//! Threads share a mask, with the working directory and the root, until they ask for their own (`CLONE_FS`). A thread keeps
//! what it has asked for. Knows no file and no guest.

#![expect(unsafe_code, reason = "rustix marks all of unshare(2) as unsafe")]

use std::cell::Cell;

use rustix::fs::Mode;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::operations::FsResult;

thread_local! {
    /// Whether this thread has a mask of its own.
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` with the file mode creation mask `mask`; on this thread only, which has an empty one otherwise.
pub(super) fn with_mask<T>(mask: u32, work: impl FnOnce() -> FsResult<T>) -> FsResult<T> {
    if !APART.get() {
        // SAFETY: what is unsafe about `unshare` is a table of descriptors of one's own (`CLONE_FILES`), in which the
        // numbers that other threads hold mean something else. This one takes nothing but `CLONE_FS`.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        // The one that it has shared may have been another thread's at this moment.
        rustix::process::umask(Mode::empty());
        APART.set(true);
    }
    let _restore = Restore(rustix::process::umask(Mode::from_raw_mode(mask & 0o777)));
    work()
}

/// Puts the mask back when it is dropped.
struct Restore(Mode);

impl Drop for Restore {
    fn drop(&mut self) {
        rustix::process::umask(self.0);
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn mask() -> Mode {
        let mask = rustix::process::umask(Mode::empty());
        rustix::process::umask(mask);
        mask
    }

    #[test]
    fn the_mask_is_this_threads_alone() {
        let before = mask();
        let (ask, asked) = std::sync::mpsc::channel();
        let (answer, answered) = std::sync::mpsc::channel();
        let neighbour = std::thread::spawn(move || {
            for () in asked {
                answer.send(mask()).unwrap();
            }
        });
        let seen = with_mask(0o1027, || {
            ask.send(()).unwrap();
            Ok((mask(), answered.recv().unwrap()))
        });
        assert_eq!(seen, Ok((Mode::from_raw_mode(0o027), before)));
        drop(ask);
        neighbour.join().unwrap();
    }

    /// As when a ring's thread starts another one.
    #[test]
    fn a_mask_that_was_shared_for_a_moment_is_not_kept() {
        let seen = with_mask(0o027, || {
            let other = || {
                with_mask(0o002, || Ok(()))?;
                Ok(mask())
            };
            std::thread::spawn(other).join().unwrap()
        });
        assert_eq!(seen, Ok(Mode::empty()));
    }

    #[test]
    fn the_mask_is_empty_again_after_success_error_and_panic() {
        let before = Mode::empty();
        assert_eq!(with_mask(0o777, || Ok(())), Ok(()));
        assert_eq!(mask(), before, "after success");
        let failed = with_mask(0o777, || Err::<(), _>(Errno::IO));
        assert_eq!((failed, mask()), (Err(Errno::IO), before), "after an error");
        let panicked =
            std::panic::catch_unwind(|| with_mask(0o777, || -> FsResult<()> { panic!("inside") }));
        assert!(panicked.is_err());
        assert_eq!(mask(), before, "after a panic");
    }
}
