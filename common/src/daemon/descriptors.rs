//! How many files the process may have open. Knows nothing of what they are.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many there may be now; `None` for any number.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Sets the limit. Beyond the maximum only the privileged get.
pub fn set_limit(wanted: u64) -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: Some(wanted),
        maximum: maximum.map(|maximum| maximum.max(wanted)),
    };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Raises the limit to `wanted`, or as far as it goes. Lowers nothing.
pub fn raise_limit(wanted: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let allowed_by_kernel = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|number| number.trim().parse().ok());
    let wanted = allowed_by_kernel.map_or(wanted, |allowed: u64| allowed.min(wanted));
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let refused =
        set_limit(wanted).is_err() && set_limit(maximum.unwrap_or(wanted).min(wanted)).is_err();
    if refused {
        log::warn!("host: limit of open files stays at {current:?}");
    }
}
