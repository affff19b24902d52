//! What goes to the log: an error with its sources on one line, and not every one of a guest's mistakes.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

/// The error and everything that caused it, separated by colons.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Counts what a guest can cause as often as it likes, so that it cannot fill the host's disk with log lines: the first, second,
/// fourth, eighth... time is worth a line.
#[derive(Debug, Default)]
pub struct Sparse(AtomicU64);

impl Sparse {
    /// Nothing was counted yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts once more; the count, if it is worth a line.
    pub fn count(&self) -> Option<u64> {
        let count = self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        count.is_power_of_two().then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = Layer("outer", Some(Box::new(Layer("inner", None))));
        assert_eq!(chain(&error), "outer: inner");
    }

    #[test]
    fn a_thousand_mistakes_are_ten_lines() {
        let sparse = Sparse::default();
        let lines = (0..1_000).filter_map(|_| sparse.count()).count();
        assert_eq!(lines, 10);
    }
}
