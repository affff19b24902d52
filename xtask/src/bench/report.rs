//! Samples, their medians and spread, and the table.
//!
//! Knows numbers only.

use std::fmt::Write as _;

use crate::table::Table;

/// What one turn came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Requests in a second.
    pub(super) rate: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    /// Processor time of the back-end for a request, in microseconds.
    pub(super) cpu_us: f64,
}

/// All turns of one participant at one kind of work.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    pub(super) samples: Vec<Sample>,
    /// System calls of the back-end for a request.
    pub(super) calls: Option<f64>,
}

/// One kind of work: what it is called, and how each participant did, in the order of the table; `None` if it cannot take part.
pub(super) struct Cell {
    pub(super) title: String,
    pub(super) turns: Vec<(&'static str, Option<Turns>)>,
}

impl Turns {
    /// The median of one number; of an even count of turns the lower one.
    pub(super) fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        let mut values: Vec<f64> = self.samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len().saturating_sub(1) / 2;
        values.get(middle).copied().unwrap_or(f64::NAN)
    }

    pub(super) fn rate(&self) -> f64 {
        self.median(|sample| sample.rate)
    }

    /// From the slowest to the fastest turn, in per cent of the median.
    fn spread(&self) -> f64 {
        let rates = || self.samples.iter().map(|sample| sample.rate);
        let (least, most) = (
            rates().fold(f64::INFINITY, f64::min),
            rates().fold(0.0, f64::max),
        );
        (most - least) / self.rate() * 100.0
    }
}

impl Cell {
    pub(super) fn of(&self, name: &str) -> Option<&Turns> {
        let found = self.turns.iter().find(|(other, _)| *other == name);
        found.and_then(|(_, turns)| turns.as_ref())
    }

    /// How many times as fast the first participant is: the median of the ratios of turns that followed each other.
    pub(super) fn ratio(&self, name: &str) -> Option<f64> {
        let (_, ours) = self.turns.first()?;
        let (ours, other) = (ours.as_ref()?, self.of(name)?);
        let pairs = ours.samples.iter().zip(&other.samples);
        let mut ratios: Vec<f64> = pairs.map(|(ours, other)| ours.rate / other.rate).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len().saturating_sub(1) / 2).copied()
    }
}

/// The table of all cells.
pub(super) fn table<'c>(cells: impl IntoIterator<Item = &'c Cell>) -> String {
    let mut table = Table::new([
        "work",
        "participant",
        "per second",
        "spread",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "calls each",
        "CPU us each",
        "ours is",
    ]);
    for cell in cells {
        let mut title = cell.title.as_str();
        for (name, turns) in &cell.turns {
            let Some(turns) = turns else {
                table.row([title, name, "cannot", "", "", "", "", "", "", ""]);
                title = "";
                continue;
            };
            let fixed = |of: fn(&Sample) -> f64| format!("{:.1}", turns.median(of));
            let calls = turns
                .calls
                .map_or("-".to_owned(), |calls| format!("{calls:.2}"));
            let ratio = cell.ratio(name).unwrap_or(f64::NAN);
            table.row([
                title,
                name,
                &format!("{:.0}", turns.rate()),
                &format!("{:.0} %", turns.spread()),
                &fixed(|sample| sample.p50_us),
                &fixed(|sample| sample.p99_us),
                &fixed(|sample| sample.p999_us),
                &calls,
                &format!("{:.2}", turns.median(|sample| sample.cpu_us)),
                &format!("{ratio:.2} x"),
            ]);
            title = "";
        }
    }
    let mut text = table.to_string();
    let _infallible = writeln!(
        text,
        "\nMedians of turns that alternate; spread is from the slowest to the fastest turn. \"ours is\" is the median of the ratios of \
         turns that followed each other. Calls and CPU are the back-end's."
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(rates: &[f64]) -> Turns {
        let sample = |&rate: &f64| Sample {
            rate,
            p50_us: 1.0,
            p99_us: 2.0,
            p999_us: 3.0,
            cpu_us: 4.0,
        };
        Turns {
            samples: rates.iter().map(sample).collect(),
            calls: Some(0.5),
        }
    }

    #[test]
    fn ratios_are_of_turns_that_followed_each_other() {
        let cell = Cell {
            title: "work".to_owned(),
            turns: vec![
                ("ours", Some(turns(&[200.0, 20.0, 60.0]))),
                ("peer", Some(turns(&[100.0, 10.0, 20.0]))),
                ("absent", None),
            ],
        };
        assert!((cell.ratio("peer").unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(cell.ratio("absent"), None);
        assert!((cell.of("ours").unwrap().rate() - 60.0).abs() < 1e-9);
        assert!((cell.of("peer").unwrap().spread() - 450.0).abs() < 1e-9);
        let text = table(&[cell]);
        assert!(text.contains("2.00 x") && text.contains("cannot"), "{text}");
    }
}
