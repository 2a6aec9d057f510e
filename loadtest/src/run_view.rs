//! Shows one run in readable form: as tables in the terminal, and as a page with plots. This module measures
//! nothing and shows only the content of the report.

use maud::html;
use nanofaas_plot::show;
use nanofaas_plot::{Axis, COLOURS, Plot, Scale, Series, SeriesMark, Unit};

use crate::page;
use crate::report::{Latency, RunReport, WindowReport};
use crate::table::ReportTable;
use crate::watcher::CpuSample;

pub(crate) fn print(report: &RunReport) {
    println!("{}", summary(report));
    for rows in tables(report) {
        rows.print();
    }
    for warning in report.warnings() {
        println!("note: {warning}");
    }
}

pub(crate) fn html(report: &RunReport) -> String {
    let targets = report.load.targets.iter();
    let urls: Vec<&str> = targets.map(|target| target.url.as_str()).collect();
    let parts = html! {
        (page::figures(&[
            (show::rate(report.answers_per_s), "answers a second"),
            (us(report.latency.p50_us), "p50"),
            (us(report.latency.p99_us), "p99"),
            (us(report.latency.p999_us), "p99.9"),
            (us(report.latency.max_us), "slowest"),
            (show::count(report.errors), "errors"),
        ]))
        (page::notes(&report.warnings()))
        (page::plots(&[
            by_percentile(&latencies(report)),
            over_time(report),
            throughput(report),
            cpu(report),
        ]))
        @for rows in tables(report) { (rows.html()) }
    };
    let title = format!("Load on {}", urls.join(", "));
    page::page(&title, &about(report), &report.machine, &parts)
}

fn about(report: &RunReport) -> String {
    let connections = match report.load.connections {
        1 => "1 connection".to_owned(),
        many => format!("{many} connections"),
    };
    let kind = match report.loop_kind {
        "open" => {
            "Open loop: latency runs from the time at which a request was meant to be sent, \
                   so waiting in the client counts."
        }
        _ => "Closed loop: each connection sends its next request when it has its answer.",
    };
    format!("{kind} {connections}. {}.", summary(report))
}

/// Returns the latencies that get a line of their own, each with its name.
fn latencies(report: &RunReport) -> Vec<(String, &Latency)> {
    let mut latencies = vec![("expected answers".to_owned(), &report.latency)];
    if report.targets.len() > 1 {
        let targets = report.targets.iter();
        latencies.extend(targets.map(|target| (target.url.clone(), &target.latency)));
    }
    let unexpected = report.unexpected.iter();
    latencies.extend(unexpected.map(|(status, of)| (format!("status {status}"), of)));
    if report.loop_kind == "open" {
        latencies.push(("of it: wait in the client".to_owned(), &report.client_wait));
    }
    latencies.retain(|(_, latency)| latency.count > 0);
    latencies
}

fn tables(report: &RunReport) -> [ReportTable; 2] {
    let row = |(name, of): (String, &Latency)| {
        let values = [
            of.p50_us, of.p90_us, of.p99_us, of.p999_us, of.max_us, of.mean_us,
        ];
        let mut row = vec![name, show::count(of.count)];
        row.extend(values.map(us));
        row
    };
    [
        ReportTable {
            title: "Latency".to_owned(),
            columns: vec!["", "count", "p50", "p90", "p99", "p99.9", "max", "mean"],
            rows: latencies(report).into_iter().map(row).collect(),
        },
        ReportTable {
            title: "CPU within the measured time".to_owned(),
            columns: vec!["", "cores", "µs an answer"],
            rows: cpu_rows(report),
        },
    ]
}

fn cpu_rows(report: &RunReport) -> Vec<Vec<String>> {
    let cpu = &report.cpu;
    let row = |name: &str, cores: f64, us: Option<f64>| {
        vec![
            name.to_owned(),
            show::digits(cores),
            us.map(show::digits).unwrap_or_default(),
        ]
    };
    let mut rows = vec![row(
        "load generator",
        cpu.load_cores,
        Some(cpu.load_us_per_answer),
    )];
    let watched = cpu.watched.iter();
    rows.extend(watched.map(|of| row(&of.name, of.cores, Some(of.us_per_answer))));
    rows.push(row("everything else", cpu.foreign_cores, None));
    rows.push(row("taken by the hypervisor", cpu.steal_cores, None));
    rows
}

fn us(us: f64) -> String {
    show::duration(us * 1e3)
}

/// Formats one line with the number of requests, their rate, and the failures.
fn summary(report: &RunReport) -> String {
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

/// Makes a plot of latency by percentile. On its x axis, 90 %, 99 %, 99.9 % and so on have equal distances.
pub(crate) fn by_percentile(latencies: &[(String, &Latency)]) -> Plot {
    let share = "share of requests at least this fast";
    let lines = latencies.iter().zip(COLOURS.iter().cycle());
    Plot::new(
        "Latency by percentile",
        "how slow the slowest are",
        Axis::new(share, Scale::Percentile, Unit::Plain),
        Axis::new("latency", Scale::Log, Unit::Time),
        lines
            .map(|((name, latency), colour)| line(name, colour, percentiles(latency)))
            .collect(),
    )
}

fn line(name: &str, colour: &'static str, points: Vec<(f64, f64)>) -> Series {
    Series {
        name: name.to_owned(),
        colour,
        mark: SeriesMark::Line,
        points,
    }
}

fn thin(line: Series) -> Series {
    let mark = SeriesMark::Thin;
    Series { mark, ..line }
}

/// Makes a plot of values over time, with the warm-up shaded.
fn timed(title: &str, note: &str, y: Axis, series: Vec<Series>) -> Plot {
    let x = Axis::new("time (s)", Scale::Linear, Unit::Plain);
    Plot {
        shade_before: Some(0.0),
        ..Plot::new(title, note, x, y, series)
    }
}

/// Makes one point for each value of the histogram, but no more than the plot can show.
fn percentiles(latency: &Latency) -> Vec<(f64, f64)> {
    let total = latency.count as f64;
    // The axis ends at this value, because beyond it the line would depend on a single request.
    let last = total.max(10.0);
    let mut points: Vec<(f64, f64)> = Vec::new();
    let mut sum = 0;
    for (value_ns, count) in &latency.histogram_ns {
        // A value is drawn at the share of the requests that were faster.
        let x = (1.0 / (1.0 - sum as f64 / total)).min(last);
        sum += count;
        let far = points
            .last()
            .is_none_or(|(before, _)| x.log10() - before.log10() > 0.01);
        if far || sum == latency.count {
            points.push((x, *value_ns as f64 / 1e3));
        }
    }
    if let Some((_, value)) = points.last().copied() {
        points.push((last, value));
    }
    points
}

/// Makes a plot of the latency over time, from the windows in which an answer came.
fn over_time(report: &RunReport) -> Plot {
    let answered = |of: fn(&WindowReport) -> f64| {
        let windows = report.windows.iter();
        let windows = windows.filter(|window| window.answers_per_s > 0.0);
        windows.map(|window| (window.at_s, of(window))).collect()
    };
    let y = Axis::new("latency", Scale::Log, Unit::Time);
    let lines = vec![
        thin(line(
            "slowest",
            COLOURS[6],
            answered(|window| window.max_us),
        )),
        line("p99", COLOURS[1], answered(|window| window.p99_us)),
        line("p50", COLOURS[0], answered(|window| window.p50_us)),
    ];
    timed(
        "Latency over time",
        "each point: the answers of 0.1 s",
        y,
        lines,
    )
}

fn throughput(report: &RunReport) -> Plot {
    let points = |of: fn(&WindowReport) -> f64| {
        let windows = report.windows.iter();
        windows
            .map(|window| (window.at_s, of(window)))
            .collect::<Vec<_>>()
    };
    let mut lines = vec![line(
        "answers",
        COLOURS[0],
        points(|window| window.answers_per_s),
    )];
    let errors = points(|window| window.errors_per_s);
    if errors.iter().any(|(_, per_s)| *per_s > 0.0) {
        lines.push(line("errors", COLOURS[1], errors));
    }
    let y = Axis::new("answers per second", Scale::Linear, Unit::Rate);
    timed("Throughput over time", "each point: 0.1 s", y, lines)
}

fn cpu(report: &RunReport) -> Plot {
    let points = |of: &dyn Fn(&CpuSample) -> f64| {
        let samples = report.cpu_samples.iter();
        samples.map(|sample| (sample.at_s, of(sample))).collect()
    };
    let whole = line(
        "whole machine",
        COLOURS[6],
        points(&|sample| sample.machine),
    );
    let mut lines = vec![thin(whole)];
    for (at, watched) in report.cpu.watched.iter().enumerate() {
        let used = points(&|sample| sample.watched.get(at).copied().unwrap_or_default());
        lines.push(line(&watched.name, COLOURS[at % 5 + 1], used));
    }
    lines.push(line(
        "load generator",
        COLOURS[0],
        points(&|sample| sample.load),
    ));
    let y = Axis::new("CPU (cores)", Scale::Linear, Unit::Plain);
    timed(
        "CPU over time",
        "sampled each 0.1 s, in steps of 10 ms",
        y,
        lines,
    )
}
