//! A memory barrier on all threads of the process, paid for by the caller alone (membarrier(2)).
//!
//! With it a thread that reads a flag on its hot path needs no fence of its own: whoever sets the flag and
//! then returns from [`all_threads`] knows that later reads of the flag see it, and that writes which went
//! with an earlier reading are visible.

#![expect(unsafe_code, reason = "neither std nor rustix has membarrier(2)")]

use std::sync::atomic::{Ordering, fence};

/// `MEMBARRIER_CMD_PRIVATE_EXPEDITED` and its registration, from linux/membarrier.h.
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

/// Runs a full barrier on every thread of this process.
///
/// Where the kernel refuses (an old kernel, a seccomp filter) only the calling thread's barrier remains: what
/// other threads still hold in a store buffer then becomes visible within nanoseconds, long before a front-end
/// can act on our reply.
pub(super) fn all_threads() {
    fence(Ordering::SeqCst);
    if !command(PRIVATE_EXPEDITED) {
        command(REGISTER_PRIVATE_EXPEDITED);
        command(PRIVATE_EXPEDITED);
    }
}

fn command(command: libc::c_int) -> bool {
    // SAFETY: membarrier(2) takes three integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
