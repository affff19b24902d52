//! Observations as a table: scenarios below each other, participants beside each other, and below it who said what.
//!
//! It is Markdown, for it is shown in the README.

use std::fmt;

use super::Observation;

/// See the [module](self).
#[derive(Debug)]
pub struct Report {
    device: String,
    titles: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    title: String,
    cells: Vec<Option<Observation>>,
}

impl Report {
    /// A table without rows.
    pub fn new(device: &str, titles: Vec<String>) -> Self {
        Self {
            device: device.to_owned(),
            titles,
            rows: Vec::new(),
        }
    }

    /// Adds what was observed of the participant of a column; rows are in the order in which they come.
    pub fn add(&mut self, column: usize, title: &str, observation: Observation) {
        if !self.rows.iter().any(|row| row.title == title) {
            self.rows.push(Row {
                title: title.to_owned(),
                cells: vec![None; self.titles.len()],
            });
        }
        let mut rows = self.rows.iter_mut();
        let row = rows.find(|row| row.title == title);
        if let Some(cell) = row.and_then(|row| row.cells.get_mut(column)) {
            *cell = Some(observation);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut notes: Vec<&[String]> = Vec::new();
        writeln!(output, "| {} | {} |", self.device, self.titles.join(" | "))?;
        writeln!(output, "|---|{}", "---|".repeat(self.titles.len()))?;
        for row in &self.rows {
            write!(output, "| {} |", row.title)?;
            for cell in &row.cells {
                let Some(observation) = cell else {
                    write!(output, " |")?;
                    continue;
                };
                write!(output, " {}", observation.text)?;
                if !observation.messages.is_empty() {
                    let messages = observation.messages.as_slice();
                    let known = notes.iter().position(|note| *note == messages);
                    let number = known.unwrap_or_else(|| {
                        notes.push(messages);
                        notes.len() - 1
                    });
                    write!(output, " [{}]", number + 1)?;
                }
                write!(output, " |")?;
            }
            writeln!(output)?;
        }
        for (number, note) in notes.iter().enumerate() {
            writeln!(output, "\n[{}]", number + 1)?;
            for message in *note {
                writeln!(output, "    {message}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Verdict;

    #[test]
    fn equal_messages_are_told_once() {
        let fails = |text: &str, message: &str| Observation {
            verdict: Verdict::Fails,
            text: text.to_owned(),
            messages: vec![message.to_owned()],
        };
        let mut report = Report::new("fs", vec!["peer".to_owned(), "ours".to_owned()]);
        report.add(0, "one", fails("lost", "QEMU: no"));
        report.add(0, "two", fails("gone", "QEMU: no"));
        report.add(1, "one", Observation::works(""));
        report.add(1, "two", fails("lost", "QEMU: never"));
        let expected = "| fs | peer | ours |\n\
                        |---|---|---|\n\
                        | one | lost [1] | works |\n\
                        | two | gone [1] | lost [2] |\n\
                        \n[1]\n    QEMU: no\n\
                        \n[2]\n    QEMU: never\n";
        assert_eq!(report.to_string(), expected);
    }
}
