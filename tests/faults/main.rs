//! This test checks the result that a caller gets when a function fails, for every runtime. It runs the table
//! of `expected.yaml` on a real plane, and fails if `docs/faults.md` shows other results.
//!
//! `cargo test --release -p nanofaas --test faults [-- PART OF A COLUMN'S NAME ...]` runs the test, after
//! `cargo build --release --workspace`. With `NANOFAAS_FAULTS=write` the test writes the page. The page shows
//! times, but the test does not check them.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]
#![allow(clippy::print_stdout, reason = "a run says what it saw")]
#![allow(
    clippy::print_stderr,
    reason = "a function's process can report by stderr only"
)]

mod expected;
mod column;
mod program;
mod page;

use std::process::ExitCode;

use nanofaas_testkit::control_plane::ControlPlane;

use column::{COLUMNS, Column};
use expected::{ExpectedResult, Row};

#[derive(Clone, Debug)]
pub(crate) struct CallerResult {
    status: u16,
    code: Option<String>,
    message: String,
    runs: usize,
    took_ms: u64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["pod"] {
        return program::serve();
    }
    let rows = expected::read();
    let chosen: Vec<&Column> = COLUMNS
        .iter()
        .filter(|column| words.is_empty() || words.iter().any(|word| column.name.contains(word)))
        .collect();
    let plane = ControlPlane::start(&["--backend", "local", "--rate-max-per-second", "off"]);
    let mut wrong = 0;
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = chosen
            .iter()
            .map(|column| scope.spawn(|| one_column(&plane, column, &rows)))
            .collect();
        for run in runs {
            let (column, faults) = run.join().expect("a column of ours");
            wrong += faults;
            seen.push(column);
        }
    });
    if words.is_empty() {
        wrong += usize::from(!page::settle(&rows, &seen));
    }
    let cells: usize = seen
        .iter()
        .map(|column| column.iter().flatten().count())
        .sum();
    println!("faults: {cells} cells, {wrong} wrong");
    if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Returns the results of all rows in one column, and the number of wrong ones.
fn one_column(
    plane: &ControlPlane,
    column: &Column,
    rows: &[Row],
) -> (Vec<Option<CallerResult>>, usize) {
    let mut wrong = 0;
    let seen = rows
        .iter()
        .map(|row| {
            let expected = row.expects(column.name).ok()?;
            let seen = column.call(plane, &row.key);
            if let Err(why) = judge(&expected, &seen) {
                println!("WRONG [{}, {}] {why}: {seen:?}", column.name, row.fault);
                wrong += 1;
            }
            Some(seen)
        })
        .collect();
    (seen, wrong)
}

fn judge(expected: &ExpectedResult, seen: &CallerResult) -> Result<(), String> {
    if seen.status != expected.status {
        return Err(format!("the status is not {}", expected.status));
    }
    if seen.code != expected.code {
        return Err(format!("the code is not {:?}", expected.code));
    }
    if let Some(words) = &expected.message
        && !seen.message.contains(words.as_str())
    {
        return Err(format!("the message does not contain {words:?}"));
    }
    if seen.runs != expected.runs {
        return Err(format!("it did not run {} times", expected.runs));
    }
    Ok(())
}
