//! Writes the table as a page of the documentation.

use std::fmt::Write as _;
use std::path::Path;

use crate::CallerResult;
use crate::column::COLUMNS;
use crate::expected::Row;

const HEAD: &str = "\
# Faults

What a caller is told where a function fails, by what runs the function: status, code, a part of the message,
and how often the handler ran (`maxRetries: 3`, `retryOn: [POD]`, which are the defaults). The time is that of
one call on one machine, and promises nothing; that of a start that fails has the start in it.

`tests/faults/expected.yaml` is the source; `NANOFAAS_FAULTS=write cargo test --release -p nanofaas --test faults`
writes this page.
";

/// Writes the page with `NANOFAAS_FAULTS=write`. In other cases, returns whether the page is up to date,
/// apart from times.
pub(crate) fn settle(rows: &[Row], seen: &[Vec<Option<CallerResult>>]) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md");
    let page = write(rows, seen);
    if std::env::var("NANOFAAS_FAULTS").is_ok_and(|word| word == "write") {
        std::fs::write(path, page).expect("a file");
        return true;
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let is_current = without_times(&found) == without_times(&page);
    if !is_current {
        println!("WRONG docs/faults.md is not current: NANOFAAS_FAULTS=write makes it");
    }
    is_current
}

fn write(rows: &[Row], seen: &[Vec<Option<CallerResult>>]) -> String {
    let mut page = HEAD.to_owned();
    for (number, row) in rows.iter().enumerate() {
        let _ = write!(page, "\n## {}\n\n", row.fault);
        page +=
            "| function | status | code | message has | runs | ms |\n|---|---|---|---|---|---|\n";
        for (column, seen) in COLUMNS.iter().zip(seen) {
            let name = column.name;
            let Ok(expected) = row.expects(name) else {
                let _ = writeln!(page, "| {name} | – | {} | | | |", row.cannot[name]);
                continue;
            };
            let took = seen[number].as_ref().map_or(0, |seen| seen.took_ms);
            let code = expected.code.unwrap_or_default();
            let message = expected.message.unwrap_or_default();
            let note = row.except.get(name).map(|exception| &exception.why);
            let note = note.map_or(String::new(), |why| format!("; {why}"));
            let _ = writeln!(
                page,
                "| {name} | {} | {code} | {message}{note} | {} | {took} |",
                expected.status, expected.runs
            );
        }
    }
    page
}

/// Returns the page without the last column of each table, which has the times.
fn without_times(page: &str) -> String {
    let lines = page.lines().map(|line| {
        let line = line.trim_end_matches('|').trim_end();
        line.rsplit_once('|').map_or(line, |(line, _)| line)
    });
    lines.collect::<Vec<&str>>().join("\n")
}
