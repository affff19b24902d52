//! The system calls that every daemon makes while it serves: of the language, of the threads, and of vhost-user.
//!
//! All tests run with `--seccomp kill`, so what is needed is here; so is the close kin of it, since another version of the C
//! library uses another one. What is not here: running programs, opening files (a device names its own way to them), mapping
//! code, other address families than UNIX, other processes, mounts, namespaces, modules, BPF, keys, and `io_uring`, which does
//! its work beside the filter.

use libc::c_long;

/// A system call that a daemon may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub(super) number: c_long,
    /// What its arguments must be like.
    pub(super) only: Only,
}

/// A condition on the arguments of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Only {
    Always,
    /// The lower half of the argument with this index is one of the values.
    OneOf(u8, &'static [u64]),
    /// The argument with this index has none of the bits.
    Without(u8, u64),
    /// The argument with this index is the process itself.
    OwnProcess(u8),
}

/// A call with any arguments.
pub const fn any(number: c_long) -> Call {
    let only = Only::Always;
    Call { number, only }
}

/// A call whose argument `index`, a 32-bit number, must be one of `values`.
pub const fn one_of(number: c_long, index: u8, values: &'static [u64]) -> Call {
    let only = Only::OneOf(index, values);
    Call { number, only }
}

/// A call whose argument `index` must have none of `bits`.
pub const fn without(number: c_long, index: u8, bits: u64) -> Call {
    let only = Only::Without(index, bits);
    Call { number, only }
}

const fn own_process(number: c_long, index: u8) -> Call {
    let only = Only::OwnProcess(index);
    Call { number, only }
}

/// `AF_UNIX`.
const UNIX: &[u64] = &[1];
/// `FIONREAD`, `FIONBIO`, `FIONCLEX`, `FIOCLEX`.
const OF_DESCRIPTORS: &[u64] = &[0x541b, 0x5421, 0x5450, 0x5451];
/// `PR_SET_NAME`, `PR_GET_NAME`, `PR_SET_VMA` (the C library names its memory), `PR_GET_AUXV` (rustix, the first time that it needs to know
/// where the clock is).
const NAMES: &[u64] = &[15, 16, 0x5356_4d41, 0x4155_5856];
/// `PROT_EXEC`.
const EXECUTABLE: u64 = 4;
/// All `CLONE_NEW*`: a user namespace has all capabilities inside.
const NAMESPACES: u64 = 0x7e02_0080;

/// What every daemon needs.
pub const COMMON: &[Call] = &[
    // Memory: no code comes into the process any more.
    any(libc::SYS_brk),
    any(libc::SYS_madvise),
    any(libc::SYS_membarrier),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    without(libc::SYS_mmap, 2, EXECUTABLE),
    without(libc::SYS_mprotect, 2, EXECUTABLE),
    // Threads. clone3 is answered in `filter.rs`.
    without(libc::SYS_clone, 0, NAMESPACES),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    any(libc::SYS_futex),
    any(libc::SYS_getpid),
    any(libc::SYS_gettid),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_rseq),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_sched_yield),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_set_tid_address),
    one_of(libc::SYS_prctl, 0, NAMES),
    // Reading a limit: there is no new one.
    one_of(libc::SYS_prlimit64, 2, &[0]),
    // Signals, to ourselves only.
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_sigaltstack),
    own_process(libc::SYS_tgkill, 0),
    // Time and chance.
    any(libc::SYS_clock_getres),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_getrandom),
    any(libc::SYS_gettimeofday),
    any(libc::SYS_nanosleep),
    // Descriptors, and waiting for them.
    any(libc::SYS_close),
    any(libc::SYS_dup),
    any(libc::SYS_dup3),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_eventfd2),
    any(libc::SYS_fcntl),
    any(libc::SYS_fstat),
    any(libc::SYS_fstatfs),
    any(libc::SYS_ftruncate),
    any(libc::SYS_lseek),
    any(libc::SYS_memfd_create),
    any(libc::SYS_pipe2),
    any(libc::SYS_ppoll),
    any(libc::SYS_pread64),
    any(libc::SYS_preadv),
    any(libc::SYS_preadv2),
    any(libc::SYS_pwrite64),
    any(libc::SYS_pwritev),
    any(libc::SYS_pwritev2),
    any(libc::SYS_read),
    any(libc::SYS_readv),
    any(libc::SYS_write),
    any(libc::SYS_writev),
    one_of(libc::SYS_ioctl, 1, OF_DESCRIPTORS),
    // Sockets: the front-end's, and the private link to the stock daemon.
    any(libc::SYS_accept4),
    any(libc::SYS_bind),
    any(libc::SYS_connect),
    any(libc::SYS_getpeername),
    any(libc::SYS_getsockname),
    any(libc::SYS_getsockopt),
    any(libc::SYS_listen),
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendmsg),
    any(libc::SYS_sendto),
    any(libc::SYS_setsockopt),
    any(libc::SYS_shutdown),
    one_of(libc::SYS_socket, 0, UNIX),
    one_of(libc::SYS_socketpair, 0, UNIX),
    // The socket is removed in the end.
    any(libc::SYS_unlinkat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_unlink),
    // Older names of the above, which the C library still uses where they exist.
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_dup2),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_epoll_wait),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_poll),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_time),
];
