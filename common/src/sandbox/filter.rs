//! seccomp: from a list of system calls to a filter in the kernel. Knows no list.

use std::collections::BTreeMap;

use libc::c_long;
use rustix::process::getpid;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter, apply_filter_all_threads,
};

use super::calls::Only;
use super::{Action, Call, SandboxError};

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Leaves the whole process with `allowed`, and has `action` done about anything else.
pub(super) fn apply<'a>(
    action: Action,
    allowed: impl IntoIterator<Item = &'a Call>,
) -> Result<(), SandboxError> {
    let otherwise = match action {
        Action::None => return Ok(()),
        Action::Kill => SeccompAction::KillProcess,
        Action::Log => SeccompAction::Log,
        Action::Trap => SeccompAction::Trap,
    };
    install(otherwise, allowed).map_err(SandboxError::Seccomp)
}

fn install<'a>(
    otherwise: SeccompAction,
    allowed: impl IntoIterator<Item = &'a Call>,
) -> Result<(), Error> {
    let mut rules = Rules::new();
    // A filter cannot look behind the pointer that clone3 takes its flags by. Told that there is no such call, the C library
    // makes a thread with clone. The filter that says so lets everything else pass, so this one has to let clone3 pass.
    rules.insert(libc::SYS_clone3, Vec::new());
    for call in allowed {
        match conditions(call.only)? {
            Some(more) => match rules.entry(call.number).or_insert_with(|| more.clone()) {
                // Allowed whatever the arguments are.
                any if any.is_empty() => {}
                some if *some == more => {}
                some => some.extend(more),
            },
            None => drop(rules.insert(call.number, Vec::new())),
        }
    }
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
    // The last filter forbids what installs one.
    apply_filter(&compiled(clone3, SeccompAction::Allow, absent)?)?;
    apply_filter_all_threads(&compiled(rules, otherwise, SeccompAction::Allow)?)
}

fn compiled(
    rules: Rules,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, otherwise, matching, architecture)?.try_into()?)
}

/// Rules of which one has to hold; `None` if the call is allowed with any arguments.
fn conditions(only: Only) -> Result<Option<Vec<SeccompRule>>, Error> {
    let rule = |index, length, operator, value| {
        let condition = SeccompCondition::new(index, length, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    let equal = |index, value| rule(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let rules = match only {
        Only::Always => return Ok(None),
        Only::OneOf(index, values) => values.iter().map(|value| equal(index, *value)).collect(),
        Only::Without(index, bits) => {
            let masked = SeccompCmpOp::MaskedEq(bits);
            rule(index, SeccompCmpArgLen::Qword, masked, 0).map(|rule| vec![rule])
        }
        Only::OwnProcess(index) => {
            let process = getpid().as_raw_nonzero().get();
            equal(index, u64::from(process.unsigned_abs())).map(|rule| vec![rule])
        }
    };
    Ok(Some(rules?))
}
