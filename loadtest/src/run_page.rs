//! The page of one run: its figures, and latency, throughput and CPU as plots.
//! It measures nothing; it shows what the report holds.

use nanofaas_plot::show;
use nanofaas_plot::{Axis, COLOURS, Mark, Plot, Scale, Series, Unit};

use crate::page::Page;
use crate::report::{Latency, Report};
use crate::table::{summary, us};

pub(crate) fn html(report: &Report) -> String {
    let urls: Vec<&str> = report
        .load
        .targets
        .iter()
        .map(|target| target.url.as_str())
        .collect();
    let mut page = Page::new(&format!("Load on {}", urls.join(", ")), &about(report));
    page.figures(&[
        (
            show::rate(report.answers_per_s),
            "answers a second".to_owned(),
        ),
        (us(report.latency.p50_us), "p50".to_owned()),
        (us(report.latency.p99_us), "p99".to_owned()),
        (us(report.latency.p999_us), "p99.9".to_owned()),
        (us(report.latency.max_us), "slowest".to_owned()),
        (show::count(report.errors), "errors".to_owned()),
    ]);
    page.notes(&report.warnings());
    page.plots(&[
        by_percentile(&latencies(report)),
        over_time(report),
        throughput(report),
        cpu(report),
    ]);
    let rows: Vec<Vec<String>> = latencies(report)
        .iter()
        .map(|(name, latency)| row(name, latency))
        .collect();
    page.table(
        "Latency",
        &["", "count", "p50", "p90", "p99", "p99.9", "max", "mean"],
        &rows,
    );
    page.table(
        "CPU within the measured time",
        &["", "cores", "µs an answer"],
        &cpu_rows(report),
    );
    page.finish(&report.machine)
}

fn about(report: &Report) -> String {
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

/// What is worth a line of its own.
fn latencies(report: &Report) -> Vec<(String, &Latency)> {
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

fn row(name: &str, of: &Latency) -> Vec<String> {
    let mut row = vec![name.to_owned(), show::count(of.count)];
    let values = [
        of.p50_us, of.p90_us, of.p99_us, of.p999_us, of.max_us, of.mean_us,
    ];
    row.extend(values.map(us));
    row
}

fn cpu_rows(report: &Report) -> Vec<Vec<String>> {
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

/// Latency by percentile; the tail has as much room as the rest.
pub(crate) fn by_percentile(latencies: &[(String, &Latency)]) -> Plot {
    let series = latencies.iter().zip(COLOURS.iter().cycle());
    Plot {
        title: "Latency by percentile".to_owned(),
        note: "how slow the slowest are".to_owned(),
        x: Axis::new(
            "share of requests at least this fast",
            Scale::Percentile,
            Unit::Plain,
        ),
        y: Axis::new("latency", Scale::Log, Unit::Time),
        series: series
            .map(|((name, latency), colour)| Series {
                name: name.clone(),
                colour,
                mark: Mark::Line,
                points: percentiles(latency),
            })
            .collect(),
        shade_before: None,
        level: None,
    }
}

/// One point a step of the histogram, thinned to what a plot can show.
fn percentiles(latency: &Latency) -> Vec<(f64, f64)> {
    let total = latency.count as f64;
    // Beyond it a single request would draw the line.
    let last = total.max(10.0);
    let mut points: Vec<(f64, f64)> = Vec::new();
    let mut sum = 0;
    for (value_ns, count) in &latency.histogram_ns {
        // The value holds from the share below it on.
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

fn over_time(report: &Report) -> Plot {
    let line = |name: &str, colour, mark, value: &dyn Fn(&crate::report::WindowReport) -> f64| {
        let windows = report
            .windows
            .iter()
            .filter(|window| window.answers_per_s > 0.0);
        Series {
            name: name.to_owned(),
            colour,
            mark,
            points: windows.map(|window| (window.at_s, value(window))).collect(),
        }
    };
    Plot {
        title: "Latency over time".to_owned(),
        note: "each point: the answers of 0.1 s".to_owned(),
        x: Axis::new("time of the answer (s)", Scale::Linear, Unit::Plain),
        y: Axis::new("latency", Scale::Log, Unit::Time),
        series: vec![
            line("slowest", COLOURS[6], Mark::Thin, &|window| window.max_us),
            line("p99", COLOURS[1], Mark::Line, &|window| window.p99_us),
            line("p50", COLOURS[0], Mark::Line, &|window| window.p50_us),
        ],
        shade_before: Some(0.0),
        level: None,
    }
}

fn throughput(report: &Report) -> Plot {
    let line = |name: &str, colour, value: &dyn Fn(&crate::report::WindowReport) -> f64| Series {
        name: name.to_owned(),
        colour,
        mark: Mark::Line,
        points: report
            .windows
            .iter()
            .map(|window| (window.at_s, value(window)))
            .collect(),
    };
    let mut series = vec![line("answers", COLOURS[0], &|window| window.answers_per_s)];
    if report
        .windows
        .iter()
        .any(|window| window.errors_per_s > 0.0)
    {
        series.push(line("errors", COLOURS[1], &|window| window.errors_per_s));
    }
    Plot {
        title: "Throughput over time".to_owned(),
        note: "each point: 0.1 s".to_owned(),
        x: Axis::new("time (s)", Scale::Linear, Unit::Plain),
        y: Axis::new("answers per second", Scale::Linear, Unit::Rate),
        series,
        shade_before: Some(0.0),
        level: None,
    }
}

fn cpu(report: &Report) -> Plot {
    let line = |name: &str, colour, mark, value: &dyn Fn(&crate::watcher::Sample) -> f64| Series {
        name: name.to_owned(),
        colour,
        mark,
        points: report
            .cpu_samples
            .iter()
            .map(|sample| (sample.at_s, value(sample)))
            .collect(),
    };
    let mut series = vec![line("whole machine", COLOURS[6], Mark::Thin, &|sample| {
        sample.machine
    })];
    for (at, watched) in report.cpu.watched.iter().enumerate() {
        let colour = COLOURS[at % 5 + 1];
        series.push(line(&watched.name, colour, Mark::Line, &|sample| {
            sample.watched.get(at).copied().unwrap_or_default()
        }));
    }
    series.push(line("load generator", COLOURS[0], Mark::Line, &|sample| {
        sample.load
    }));
    Plot {
        title: "CPU over time".to_owned(),
        note: "sampled each 0.1 s, in steps of 10 ms".to_owned(),
        x: Axis::new("time (s)", Scale::Linear, Unit::Plain),
        y: Axis::new("CPU (cores)", Scale::Linear, Unit::Plain),
        series,
        shade_before: Some(0.0),
        level: None,
    }
}
