//! Draws a report as a figure: calls, waits, the queue and the pods over time. This module adds nothing to
//! the values of the report.

use nanofaas_plot::{Axis, COLOURS, Drawing, Plot, Scale, Series, SeriesMark, Unit};

use crate::{SimulationReport, Slice};

/// Draws a report as a figure with one column of plots.
pub fn figure(report: &SimulationReport) -> Drawing {
    let summary = &report.summary;
    let percent = |part: usize| 100.0 * part as f64 / summary.calls.max(1) as f64;
    let perfect = match summary.made_it_with_perfect_knowledge {
        Ok(made_it) => format!("with perfect knowledge {made_it} make it"),
        Err(why) => format!("perfect knowledge is {why}"),
    };
    let about = format!(
        "{} calls: {} made it ({:.1} %), {} refused, {} let in and failed; {perfect}",
        summary.calls,
        summary.made_it,
        percent(summary.made_it),
        summary.refused(),
        summary.let_in_and_failed(),
    );
    let slices = &report.over_time;
    Drawing {
        title: format!("{} ({})", report.function, report.execution_mode),
        about,
        plots: vec![
            calls(slices),
            waits(slices),
            waiting(slices),
            capacity(report),
        ],
        columns: 1,
    }
}

fn plot(title: &str, note: &str, slices: &[Slice], y: Axis, series: Vec<Series>) -> Plot {
    let end_s = slices.last().map_or(1.0, |last| last.to_ms / 1e3);
    let x = Axis::new("time (s)", Scale::Linear, Unit::Plain).spanning(0.0, end_s);
    Plot::new(title, note, x, y, series)
}

fn series(name: &str, colour: usize, mark: SeriesMark, points: Vec<(f64, f64)>) -> Series {
    Series {
        name: name.to_owned(),
        colour: COLOURS[colour],
        mark,
        points,
    }
}

/// Returns the points of a line that is constant over each slice.
fn steps(slices: &[Slice], of: impl Fn(&Slice) -> f64) -> Vec<(f64, f64)> {
    let ends = slices.iter().flat_map(|slice| {
        let value = of(slice);
        [(slice.from_ms / 1e3, value), (slice.to_ms / 1e3, value)]
    });
    ends.collect()
}

fn calls(slices: &[Slice]) -> Plot {
    let a_second = |count: fn(&Slice) -> usize| {
        steps(slices, move |slice| {
            count(slice) as f64 * 1e3 / (slice.to_ms - slice.from_ms)
        })
    };
    let y = Axis::new("calls a second", Scale::Linear, Unit::Rate);
    let lines = vec![
        series("arrive", 0, SeriesMark::Line, a_second(|slice| slice.calls)),
        series(
            "of them refused",
            1,
            SeriesMark::Line,
            a_second(|slice| slice.refused),
        ),
        series(
            "let in, and failed",
            3,
            SeriesMark::Line,
            a_second(|slice| slice.failed),
        ),
    ];
    plot("Calls", "by the time at which they came", slices, y, lines)
}

fn waits(slices: &[Slice]) -> Plot {
    let points = |of: fn(&Slice) -> Option<f64>| {
        let found = slices.iter().filter_map(|slice| {
            let middle_ms = (slice.from_ms + slice.to_ms) / 2.0;
            Some((middle_ms / 1e3, of(slice)? * 1e3))
        });
        found.collect()
    };
    let y = Axis::new("wait", Scale::Linear, Unit::Time);
    let lines = vec![
        series(
            "p99",
            1,
            SeriesMark::Line,
            points(|slice| slice.wait_p99_ms),
        ),
        series(
            "p50",
            0,
            SeriesMark::Line,
            points(|slice| slice.wait_p50_ms),
        ),
    ];
    plot(
        "Waits",
        "from a call's arrival to its slot",
        slices,
        y,
        lines,
    )
}

fn waiting(slices: &[Slice]) -> Plot {
    let y = Axis::new("calls", Scale::Linear, Unit::Plain);
    let points = steps(slices, |slice| f64::from(slice.waiting));
    let lines = vec![series("calls that wait", 0, SeriesMark::Line, points)];
    plot("Queue", "the most at once", slices, y, lines)
}

/// Makes the plot of pods, or of slots if the function has no pods.
fn capacity(report: &SimulationReport) -> Plot {
    let slices = &report.over_time;
    let line = |name, colour, of: fn(&Slice) -> u32| {
        let points = steps(slices, move |slice| f64::from(of(slice)));
        series(name, colour, SeriesMark::Line, points)
    };
    if !report.has_pods {
        let y = Axis::new("slots", Scale::Linear, Unit::Plain);
        let lines = vec![
            line("there", 6, |slice| slice.slots),
            line("held by a call", 2, |slice| slice.running),
        ];
        return plot("Slots", "the most at once", slices, y, lines);
    }
    let y = Axis::new("pods", Scale::Linear, Unit::Plain);
    let lines = vec![
        line("wanted: up or ordered", 6, |slice| slice.pods_wanted),
        line("starting", 1, |slice| slice.pods_starting),
        line("up", 2, |slice| slice.pods_up),
    ];
    plot("Pods", "the most at once", slices, y, lines)
}
