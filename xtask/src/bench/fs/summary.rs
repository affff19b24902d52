//! What all rows come to, as tables for README: how many times as fast as virtiofsd ours is, and what an operation costs each of them.
//!
//! Knows participants by their names, and numbers.

use std::fmt::Write as _;

use super::super::report::{Cell, Turns};
use super::peers::{AS_IT_COMES, AT_ITS_BEST, OURS};

/// How many programs there were at once on each ring, and how many rings.
pub(super) type Shape = (u16, usize);

/// An operation in one shape.
pub(super) struct Row {
    pub(super) operation: String,
    pub(super) shape: Shape,
    pub(super) cell: Cell,
}

/// Markdown for all rows: ratios first, then costs.
pub(super) fn tables(rows: &[Row]) -> String {
    let mut shapes: Vec<Shape> = Vec::new();
    let mut operations: Vec<&str> = Vec::new();
    for row in rows {
        if !shapes.contains(&row.shape) {
            shapes.push(row.shape);
        }
        if !operations.contains(&row.operation.as_str()) {
            operations.push(&row.operation);
        }
    }
    let table = |heading: &str, columns: &[&dyn Fn(&Cell) -> String]| {
        let mut text = format!("| {heading} |");
        for (depth, rings) in &shapes {
            for _ in columns {
                let _infallible = write!(text, " depth {depth}, queues {rings} |");
            }
        }
        let _infallible = write!(
            text,
            "\n|---|{}\n",
            "---|".repeat(shapes.len() * columns.len())
        );
        for operation in &operations {
            let _infallible = write!(text, "| {operation} |");
            for shape in &shapes {
                let row = rows
                    .iter()
                    .find(|row| row.operation == *operation && row.shape == *shape);
                for column in columns {
                    let value = row.map_or(String::new(), |row| column(&row.cell));
                    let _infallible = write!(text, " {value} |");
                }
            }
            text.push('\n');
        }
        text
    };
    let ratios = table(
        "operations per second, to virtiofsd as it comes, at its best",
        &[&ratio],
    );
    let calls = table(
        "system calls each: ours, as it comes, lean",
        &[&|cell| each(cell, |turns| turns.calls)],
    );
    let processor = table(
        "processor time in us each: ours, as it comes, lean",
        &[&|cell| each(cell, |turns| Some(turns.median(|sample| sample.cpu_us)))],
    );
    format!("{ratios}\n{calls}\n{processor}")
}

/// As it comes, and whichever other way of running it is the fastest.
fn ratio(cell: &Cell) -> String {
    let best = best(cell).map(|(_, ratio)| ratio);
    let [comes, best] = [cell.ratio(AS_IT_COMES), best].map(times);
    format!("{comes}, {best}")
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"))
}

/// The way of running virtiofsd that did best, and how many times as fast ours was.
pub(super) fn best(cell: &Cell) -> Option<(&'static str, f64)> {
    AT_ITS_BEST
        .into_iter()
        .chain([AS_IT_COMES])
        .filter_map(|name| Some((name, cell.ratio(name)?)))
        .min_by(|(_, one), (_, other)| one.total_cmp(other))
}

/// A number of ours, of virtiofsd as it comes, and of virtiofsd without what costs it most.
fn each(cell: &Cell, of: impl Fn(&Turns) -> Option<f64>) -> String {
    let lean = AT_ITS_BEST.first().copied().unwrap_or(AS_IT_COMES);
    let numbers = [OURS, AS_IT_COMES, lean].map(|name| {
        let number = cell.of(name).and_then(&of);
        number.map_or("-".to_owned(), number_text)
    });
    numbers.join(", ")
}

/// Three digits that mean something.
fn number_text(number: f64) -> String {
    match number {
        ..10.0 => format!("{number:.2}"),
        ..100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}
