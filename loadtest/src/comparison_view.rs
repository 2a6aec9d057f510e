//! Shows a comparison in readable form: as tables in the terminal, and as a page with plots. This module
//! decides nothing and shows only the content of the comparison.

use maud::html;
use nanofaas_plot::show;
use nanofaas_plot::{Axis, COLOURS, Plot, Scale, Series, SeriesMark, Unit};

use crate::comparison::{Comparison, ContenderSummary, GoalVerdict};
use crate::figures::{Figure, Spread};
use crate::goal::{Goal, GoalKind};
use crate::page;
use crate::run_view::by_percentile;
use crate::table::ReportTable;

pub(crate) fn print(comparison: &Comparison) {
    println!("{}: {}", comparison.scenario.name, about(comparison));
    for rows in tables(comparison) {
        rows.print();
    }
    for warning in comparison.warnings() {
        println!("note: {warning}");
    }
}

pub(crate) fn html(comparison: &Comparison) -> String {
    let parts = html! {
        (page::notes(&comparison.warnings()))
        @for rows in tables(comparison) { (rows.html()) }
        (page::plots(&plots(comparison)))
        h2 { "Contenders" }
        dl { @for taker in &comparison.takers { dt { (taker.name) } dd { (taker.about) } } }
    };
    let name = &comparison.scenario.name;
    page::page(name, &about(comparison), &comparison.machine, &parts)
}

fn plots(comparison: &Comparison) -> Vec<Plot> {
    let takers = comparison.takers.iter();
    let measured = takers.filter(|taker| taker.latency.count > 0);
    let latencies: Vec<_> = measured
        .map(|taker| (taker.name.clone(), &taker.latency))
        .collect();
    let by_rounds = [
        (Figure::AnswersPerS, Unit::Rate, "answers per second"),
        (Figure::P50Us, Unit::Time, "median latency"),
        (Figure::CpuUsPerAnswer, Unit::Time, "CPU of its processes"),
        (Figure::FirstAnswerUs, Unit::Time, "time to it"),
    ];
    let by_rounds = by_rounds
        .into_iter()
        .filter(|(figure, ..)| is_measured(comparison, *figure))
        .map(|(figure, unit, label)| by_round(comparison, figure, unit, label));
    let by_goals = comparison.verdicts.iter();
    let by_goals = by_goals.map(|found| by_goal(comparison, found));
    let first = by_percentile(&latencies);
    std::iter::once(first)
        .chain(by_goals)
        .chain(by_rounds)
        .collect()
}

fn about(comparison: &Comparison) -> String {
    let scenario = &comparison.scenario;
    let mut text = scenario.about.trim().to_owned();
    if let (Some(capacity), Some(per_s)) = (&scenario.capacity, comparison.capacity_per_s) {
        text.push_str(&format!(
            " {} did {} answers/s in a closed loop; {:.0} % of that are offered.",
            capacity.of,
            show::rate(per_s),
            capacity.share * 100.0
        ));
    }
    let speed = comparison
        .speed
        .map(|speed| format!("{}; ", speed.describe()))
        .unwrap_or_default();
    let rounds = comparison.rounds.iter();
    let repeated: usize = rounds.map(|round| round.repeated.len()).sum();
    text.push_str(&format!(
        " Medians of {} interleaved rounds, {} dropped, {repeated} turns repeated; {speed}commit {}.",
        comparison.rounds.len(),
        comparison.dropped.len(),
        comparison.commit
    ));
    text.trim().to_owned()
}

fn is_measured(comparison: &Comparison, figure: Figure) -> bool {
    let mut takers = comparison.takers.iter();
    takers.any(|taker| taker.figures.contains_key(&figure))
}

fn tables(comparison: &Comparison) -> Vec<ReportTable> {
    let figures: Vec<Figure> = Figure::SHOWN
        .into_iter()
        .filter(|figure| is_measured(comparison, *figure))
        .collect();
    let columns = || {
        let names = figures.iter().map(|figure| figure.name());
        std::iter::once("").chain(names).collect::<Vec<_>>()
    };
    let mut tables = vec![ReportTable {
        title: "Medians, and lowest – highest".to_owned(),
        columns: columns(),
        rows: rows(comparison, &figures, |taker, figure| {
            let spread = taker.figures.get(&figure)?;
            Some(spread_of(spread, |value| figure.show(value)))
        }),
    }];
    if comparison.takers.len() > 1 {
        tables.push(ReportTable {
            title: format!(
                "Over {}, round by round: median, and lowest – highest",
                comparison.scenario.baseline
            ),
            columns: columns(),
            rows: rows(comparison, &figures, |taker, figure| {
                Some(spread_of(taker.ratios.get(&figure)?, |value| {
                    format!("{value:.2}")
                }))
            }),
        });
    }
    if !comparison.verdicts.is_empty() {
        tables.push(ReportTable {
            title: "Goals".to_owned(),
            columns: vec!["", "found", "must", "reach for", ""],
            rows: comparison
                .verdicts
                .iter()
                .map(|found| verdict(comparison, found))
                .collect(),
        });
    }
    tables
}

fn rows(
    comparison: &Comparison,
    figures: &[Figure],
    cell: impl Fn(&ContenderSummary, Figure) -> Option<String>,
) -> Vec<Vec<String>> {
    let row = |taker: &ContenderSummary| {
        let cells = figures
            .iter()
            .map(|figure| cell(taker, *figure).unwrap_or_default());
        std::iter::once(taker.name.clone()).chain(cells).collect()
    };
    comparison.takers.iter().map(row).collect()
}

fn spread_of(spread: &Spread, show: impl Fn(f64) -> String) -> String {
    if spread.min == spread.max {
        return show(spread.median);
    }
    format!(
        "{}\n{} – {}",
        show(spread.median),
        show(spread.min),
        show(spread.max)
    )
}

/// Describes in words the value that a goal limits.
fn what(comparison: &Comparison, goal: &Goal) -> String {
    let against = goal
        .against
        .as_ref()
        .unwrap_or(&comparison.scenario.baseline);
    match goal.kind {
        GoalKind::Ratio => format!(
            "{} of {} over {against}",
            goal.figure.name(),
            goal.contender
        ),
        GoalKind::Difference => format!(
            "{} of {} less {against}",
            goal.figure.name(),
            goal.contender
        ),
        GoalKind::Value => format!("{} of {}", goal.figure.name(), goal.contender),
    }
}

fn verdict(comparison: &Comparison, verdict: &GoalVerdict) -> Vec<String> {
    let goal = &verdict.goal;
    let show = |value: f64| match goal.kind {
        GoalKind::Ratio => format!("{value:.2}"),
        GoalKind::Difference | GoalKind::Value => goal.figure.show(value),
    };
    let word = match (verdict.found, verdict.met, verdict.reached) {
        (None, ..) => "not measured",
        (_, _, true) => "reached",
        (_, true, false) => "met",
        (_, false, false) => "MISSED",
    };
    vec![
        what(comparison, goal),
        verdict
            .found
            .map(|found| spread_of(&found, show))
            .unwrap_or_default(),
        goal.must.show(show),
        goal.reach.map(|limit| limit.show(show)).unwrap_or_default(),
        word.to_owned(),
    ]
}

/// Makes a plot with a dot for each round's value and a line at the goal's `must` limit.
fn by_goal(comparison: &Comparison, verdict: &GoalVerdict) -> Plot {
    let goal = &verdict.goal;
    let label = match goal.kind {
        GoalKind::Ratio => "ratio",
        GoalKind::Difference | GoalKind::Value => goal.figure.axis(),
    };
    let title = what(comparison, goal);
    let note = format!("dashed: must be {}", goal.must);
    let values = verdict.rounds.iter().copied().map(Some);
    let dots = dots("each round", COLOURS[0], values);
    Plot {
        level: Some(goal.must.value),
        ..of_rounds(&title, &note, label, Unit::Plain, vec![dots])
    }
}

/// Makes a plot with a dot for each contender in each round.
fn by_round(comparison: &Comparison, figure: Figure, unit: Unit, label: &str) -> Plot {
    let title = format!("{} in each round", figure.name());
    let takers = comparison.takers.iter().zip(COLOURS.iter().cycle());
    let series = takers.map(|(taker, colour)| {
        let rounds = comparison.rounds.iter();
        let values = rounds.map(|round| round.figure(&taker.name, figure));
        dots(&taker.name, colour, values)
    });
    let note = "near each other: a quiet machine";
    of_rounds(&title, note, label, unit, series.collect())
}

fn of_rounds(title: &str, note: &str, label: &str, unit: Unit, dots: Vec<Series>) -> Plot {
    let x = Axis::new("round", Scale::Linear, Unit::Plain);
    Plot::new(title, note, x, Axis::new(label, Scale::Linear, unit), dots)
}

fn dots(name: &str, colour: &'static str, values: impl Iterator<Item = Option<f64>>) -> Series {
    let numbered = (1..).zip(values);
    Series {
        name: name.to_owned(),
        colour,
        mark: SeriesMark::Dots,
        points: numbered
            .filter_map(|(number, value)| Some((f64::from(number), value?)))
            .collect(),
    }
}
