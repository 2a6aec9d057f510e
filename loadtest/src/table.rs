//! Results in the terminal.
//! It decides nothing about them; the HTML and the JSON say more.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use nanofaas_plot::show;

use crate::report::{Latency, Report};

/// A table with these columns: the first one is text, the others are figures.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(columns);
    for index in 1..columns.len() {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

pub(crate) fn us(us: f64) -> String {
    show::duration(us * 1e3)
}

/// All that a person needs at once.
pub(crate) fn print(report: &Report) {
    println!("{}", summary(report));
    let mut latency = table(&[
        "latency", "count", "p50", "p90", "p99", "p99.9", "max", "mean",
    ]);
    let mut row = |name: &str, of: &Latency| {
        latency.add_row([
            name.to_owned(),
            show::count(of.count),
            us(of.p50_us),
            us(of.p90_us),
            us(of.p99_us),
            us(of.p999_us),
            us(of.max_us),
            us(of.mean_us),
        ]);
    };
    row("all expected answers", &report.latency);
    if report.targets.len() > 1 {
        for target in &report.targets {
            row(&target.url, &target.latency);
        }
    }
    for (status, of) in &report.unexpected {
        row(&format!("status {status}"), of);
    }
    if report.loop_kind == "open" {
        row("of it: wait in the client", &report.client_wait);
    }
    println!("{latency}");
    let mut cpu = table(&["CPU", "cores", "µs an answer"]);
    cpu.add_row([
        "load generator".to_owned(),
        show::digits(report.cpu.load_cores),
        show::digits(report.cpu.load_us_per_answer),
    ]);
    for watched in &report.cpu.watched {
        cpu.add_row([
            watched.name.clone(),
            show::digits(watched.cores),
            show::digits(watched.us_per_answer),
        ]);
    }
    cpu.add_row([
        "everything else".to_owned(),
        show::digits(report.cpu.foreign_cores),
        String::new(),
    ]);
    println!("{cpu}");
    for warning in report.warnings() {
        println!("note: {warning}");
    }
}

/// One line: how many requests, how fast, what failed.
pub(crate) fn summary(report: &Report) -> String {
    let mut parts = vec![format!(
        "{} requests in {} s, {} answers/s",
        show::count(report.requests),
        show::digits(report.load.duration_s),
        show::rate(report.answers_per_s)
    )];
    parts.extend(
        report
            .statuses
            .iter()
            .map(|(status, n)| format!("{status}: {}", show::count(*n))),
    );
    parts.extend(
        report
            .faults
            .iter()
            .map(|(name, n)| format!("{name}: {}", show::count(*n))),
    );
    for (name, n) in [
        ("connect errors", report.connect_errors),
        ("unasked", report.unasked),
    ] {
        if n > 0 {
            parts.push(format!("{name}: {}", show::count(n)));
        }
    }
    parts.join(" · ")
}
