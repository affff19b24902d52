//! The ids of a user namespace, if the operator wishes for others than our own: written from outside of it, and then we become who
//! is the first of them.
//!
//! With the privilege for it the maps are written directly. Without, newuidmap(1) and newgidmap(1) do it, which heed `/etc/subuid`
//! and `/etc/subgid`.

use std::fs;
use std::io;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Gid, Pid, Uid, getegid, geteuid};
use rustix::thread::{
    CapabilitySet, capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::SandboxError;
use crate::id_map::IdMap;

/// The ids that there are in a user namespace. Without ranges of a sort, there is our own id, under its own number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Users.
    pub users: Vec<IdMap>,
    /// Groups.
    pub groups: Vec<IdMap>,
}

/// Users, or groups.
#[derive(Clone, Copy)]
struct Sort {
    option: &'static str,
    file: &'static str,
    program: &'static str,
    /// Who may have which ranges.
    ranges: &'static str,
    privilege: CapabilitySet,
}

const USERS: Sort = Sort {
    option: "--uid-map",
    file: "uid_map",
    program: "newuidmap",
    ranges: "/etc/subuid",
    privilege: CapabilitySet::SETUID,
};
const GROUPS: Sort = Sort {
    option: "--gid-map",
    file: "gid_map",
    program: "newgidmap",
    ranges: "/etc/subgid",
    privilege: CapabilitySet::SETGID,
};

impl IdMaps {
    /// Whether there is nothing but our own ids.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// All ranges there are in the end, for a process outside of the namespace.
    pub(super) fn completed(&self) -> Self {
        let or_own = |maps: &[IdMap], id| {
            if maps.is_empty() {
                vec![IdMap {
                    inside: id,
                    outside: id,
                    count: 1,
                }]
            } else {
                maps.to_vec()
            }
        };
        Self {
            users: or_own(&self.users, geteuid().as_raw()),
            groups: or_own(&self.groups, getegid().as_raw()),
        }
    }

    /// Gives them to the user namespace that `process` has just made. Called by its parent, outside.
    pub(super) fn write(&self, process: Pid) -> Result<(), String> {
        USERS.write(process, &self.users)?;
        GROUPS.write(process, &self.groups)
    }

    /// Inside: becomes root, if there is a root.
    pub(super) fn become_first(&self) -> Result<(), SandboxError> {
        let user = Uid::from_raw(first(&self.users));
        let group = Gid::from_raw(first(&self.groups));
        change_to(user, group)
            .map_err(|errno| SandboxError::Maps(format!("we cannot become user {user}: {errno}")))
    }
}

fn change_to(user: Uid, group: Gid) -> Result<(), Errno> {
    match set_thread_groups(&[]) {
        // Where groups were mapped without privilege, they must stay.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}

/// Root, or who has the lowest number.
fn first(maps: &[IdMap]) -> u32 {
    maps.iter().map(|map| map.inside).min().unwrap_or_default()
}

impl Sort {
    fn write(self, process: Pid, maps: &[IdMap]) -> Result<(), String> {
        let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        if held.contains(self.privilege) {
            self.write_directly(process, maps)
        } else {
            self.have_written(process, maps)
        }
    }

    fn write_directly(self, process: Pid, maps: &[IdMap]) -> Result<(), String> {
        let lines: Vec<_> = maps
            .iter()
            .map(|map| format!("{} {} {}", map.inside, map.outside, map.count))
            .collect();
        let path = format!("/proc/{}/{}", process.as_raw_nonzero(), self.file);
        fs::write(path, lines.join("\n")).map_err(|error| {
            let why = if error.kind() == io::ErrorKind::InvalidInput {
                "; do two ranges overlap?"
            } else {
                "; are they ids of this host, which may be a container with few?"
            };
            format!(
                "{} is refused by the kernel: {error}{why}",
                self.written(maps)
            )
        })
    }

    fn have_written(self, process: Pid, maps: &[IdMap]) -> Result<(), String> {
        let Self {
            program, ranges, ..
        } = self;
        let numbers = maps
            .iter()
            .flat_map(|map| [map.inside, map.outside, map.count]);
        let result = Command::new(program)
            .arg(process.as_raw_nonzero().to_string())
            .args(numbers.map(|number| number.to_string()))
            .output();
        match result {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!(
                "{} is refused: {}; does {ranges} give such a range to user {}?",
                self.written(maps),
                String::from_utf8_lossy(&output.stderr).trim(),
                geteuid()
            )),
            Err(error) => Err(format!(
                "{} takes privilege, or the program {program} (of the package uidmap or shadow), which cannot be run: {error}",
                self.written(maps)
            )),
        }
    }

    fn written(self, maps: &[IdMap]) -> String {
        let maps: Vec<_> = maps.iter().map(ToString::to_string).collect();
        format!("{} {}", self.option, maps.join(" "))
    }
}
