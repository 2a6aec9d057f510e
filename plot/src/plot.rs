//! Draws plots as inline SVG: axes with units, a grid, lines and dots. This module knows nothing about the
//! meaning of the values and loads nothing. Pages and drawings contain plots, and add a legend to each plot.

use maud::{Markup, html};

use crate::range::Range;
use crate::show;

/// Colours that can be told apart in print and by colour-blind readers (after Okabe and Ito), dark
/// enough for a white background.
pub const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#00795a", "#a8568a", "#8a6d00", "#2b7fb8", "#444444", "#7a4fbf",
];

/// How values are placed on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Log,
    /// A value is 1 / (1 - quantile). The scale is logarithmic, with labels in percent.
    Percentile,
}

/// How the numbers on an axis are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Plain,
    /// The values are microseconds.
    Time,
    /// The values are counts per second.
    Rate,
}

/// The x axis or the y axis of a plot.
#[derive(Clone, Debug)]
pub struct Axis {
    pub label: String,
    pub scale: Scale,
    pub unit: Unit,
    /// Two values that the axis must include.
    pub span: Option<(f64, f64)>,
}

impl Axis {
    pub fn new(label: &str, scale: Scale, unit: Unit) -> Self {
        Self {
            label: label.to_owned(),
            scale,
            unit,
            span: None,
        }
    }

    /// Returns this axis with two values that it must include.
    #[must_use]
    pub fn spanning(self, low: f64, high: f64) -> Self {
        let span = Some((low, high));
        Self { span, ..self }
    }

    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Log | Scale::Percentile => value.max(1e-9).log10(),
        }
    }

    fn text(&self, value: f64) -> String {
        match (self.scale, self.unit) {
            (Scale::Percentile, _) => percent(value),
            (_, Unit::Time) if value == 0.0 => "0".to_owned(),
            (_, Unit::Time) => short(&show::duration(value * 1e3)),
            (_, Unit::Rate) if value >= 10_000.0 => {
                format!("{}k", short(&show::digits(value / 1e3)))
            }
            _ => short(&show::digits(value)),
        }
    }
}

/// Shortens a label: 1.00 ms becomes 1 ms.
fn short(text: &str) -> String {
    let (number, unit) = text
        .split_once(' ')
        .map_or((text, ""), |(number, unit)| (number, unit));
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    if unit.is_empty() {
        number.to_owned()
    } else {
        format!("{number} {unit}")
    }
}

fn percent(value: f64) -> String {
    let nines = value.log10().round() as usize;
    match nines {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(more - 2)),
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesMark {
    Line,
    /// A thinner, lighter line, for a series behind the others.
    Thin,
    Dots,
}

/// The points of one line or one set of dots.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub colour: &'static str,
    pub mark: SeriesMark,
    pub points: Vec<(f64, f64)>,
}

/// A plot: several series on the same axes.
#[derive(Clone, Debug)]
pub struct Plot {
    pub title: String,
    /// What a reader must know to understand the plot.
    pub note: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    /// The area to the left of this x is shaded as the warm-up.
    pub shade_before: Option<f64>,
    /// A horizontal line, such as the limit of a goal.
    pub level: Option<f64>,
}

/// The largest number of columns to which `thin` reduces the points of a line.
const COLUMNS: usize = 700;
pub(crate) const WIDTH: f64 = 720.0;
pub(crate) const HEIGHT: f64 = 300.0;
/// The edges of the area inside the axes, in pixels; the labels are outside this area.
pub(crate) const LEFT: f64 = 74.0;
const RIGHT: f64 = 706.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 254.0;

impl Plot {
    /// Makes a plot of these series, without a warm-up and without a horizontal line.
    pub fn new(title: &str, note: &str, x: Axis, y: Axis, series: Vec<Series>) -> Self {
        Self {
            title: title.to_owned(),
            note: note.to_owned(),
            x,
            y,
            series,
            shade_before: None,
            level: None,
        }
    }

    /// Returns the plot as an `svg` element. The page or drawing that contains the plot must style the
    /// classes of this element's parts.
    pub fn svg(&self) -> Markup {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let mut x_range = Range::new(&self.x, points().map(|point| point.0), false);
        if self
            .series
            .iter()
            .all(|series| series.mark == SeriesMark::Dots)
        {
            x_range.widen();
        }
        let y_values = points().map(|point| point.1).chain(self.level);
        let y_range = Range::new(&self.y, y_values, true);
        let x = |value| LEFT + x_range.share(self.x.place(value)) * (RIGHT - LEFT);
        let y = |value| BOTTOM - y_range.share(self.y.place(value)) * (BOTTOM - TOP);
        html! {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) width=(WIDTH) height=(HEIGHT) role="img"
                aria-label=(self.title) {
                @if let Some(end) = self.shade_before { (warm_up(x(end))) }
                @for tick in &y_range.ticks { (row(y(*tick), &self.y.text(*tick))) }
                @for tick in &x_range.ticks { (column(x(*tick), &self.x.text(*tick))) }
                @if let Some(level) = self.level {
                    path d=(format!("M{LEFT} {:.1}H{RIGHT}", y(level))) class="level" {}
                }
                @for series in &self.series { (draw(series, &x, &y)) }
                path d=(format!("M{LEFT} {TOP}V{BOTTOM}H{RIGHT}")) class="axis" {}
                text x=((LEFT + RIGHT) / 2.0) y=(HEIGHT - 8.0) class="label" text-anchor="middle" {
                    (self.x.label)
                }
                text transform=(format!("translate(15 {}) rotate(-90)", (TOP + BOTTOM) / 2.0))
                    class="label" text-anchor="middle" { (self.y.label) }
            }
        }
    }
}

/// Shades the area from the left edge to `end`, with a label if there is enough space for it.
fn warm_up(end: f64) -> Markup {
    let width = (end - LEFT).clamp(0.0, RIGHT - LEFT);
    html! {
        rect x=(LEFT) y=(TOP) width=(px(width)) height=(BOTTOM - TOP) class="warm" {}
        @if width > 60.0 {
            text x=(px(LEFT + width / 2.0)) y=(TOP + 12.0) class="tick" text-anchor="middle" { "warm-up" }
        }
    }
}

/// Draws a grid line at a tick of the y axis, with its label.
fn row(at: f64, label: &str) -> Markup {
    html! {
        path d=(format!("M{LEFT} {at:.1}H{RIGHT}")) class="grid" {}
        text x=(LEFT - 7.0) y=(px(at + 4.0)) class="tick" text-anchor="end" { (label) }
    }
}

/// Draws a grid line at a tick of the x axis, with its label.
fn column(at: f64, label: &str) -> Markup {
    // The last label must not extend beyond the picture.
    let (anchor, text_at) = match at > RIGHT - 24.0 {
        true => ("end", WIDTH - 2.0),
        false => ("middle", at),
    };
    html! {
        path d=(format!("M{at:.1} {TOP}V{BOTTOM}")) class="grid" {}
        text x=(px(text_at)) y=(BOTTOM + 16.0) class="tick" text-anchor=(anchor) { (label) }
    }
}

fn draw(series: &Series, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) -> Markup {
    let (width, opacity) = match series.mark {
        SeriesMark::Dots => {
            return html! {
                @for point in &series.points {
                    circle cx=(px(x(point.0))) cy=(px(y(point.1))) r="4" fill=(series.colour) {}
                }
            };
        }
        SeriesMark::Thin => ("1.1", "0.55"),
        SeriesMark::Line => ("2", "1"),
    };
    let points = thin(&series.points);
    let places = points
        .iter()
        .map(|point| format!("{:.1} {:.1}", x(point.0), y(point.1)));
    let path = places.collect::<Vec<_>>().join("L");
    html! {
        path d={ @if !path.is_empty() { "M" (path) } } fill="none" stroke=(series.colour) stroke-width=(width)
            stroke-opacity=(opacity) stroke-linejoin="round" {}
    }
}

/// Formats a coordinate to a tenth of a pixel, so that lines stay smooth at twice the size.
pub(crate) fn px(at: f64) -> String {
    format!("{at:.1}")
}

/// Reduces the points of a long run to the columns of a plot. Of the points in a column the lowest and the
/// highest are kept, so that every spike stays visible.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(COLUMNS).max(1);
    if group < 3 {
        return points.to_vec();
    }
    let mut kept = Vec::new();
    for group in points.chunks(group) {
        let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let mut ends: Vec<(f64, f64)> = [group.iter().min_by(by_y), group.iter().max_by(by_y)]
            .into_iter()
            .flatten()
            .copied()
            .collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        kept.extend(ends);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_sound_whatever_its_values() {
        for points in [
            vec![],
            vec![(1.0, 1.0)],
            vec![(1.0, 0.0), (2.0, 0.0)],
            vec![(1.0, f64::NAN)],
        ] {
            for scale in [Scale::Linear, Scale::Log, Scale::Percentile] {
                let series = Series {
                    name: "a".to_owned(),
                    colour: COLOURS[0],
                    mark: SeriesMark::Line,
                    points: points.clone(),
                };
                let x = Axis::new("x (s)", scale, Unit::Plain);
                let y = Axis::new("y", Scale::Log, Unit::Time);
                let svg = Plot::new("<t>", "", x, y, vec![series]).svg().into_string();
                assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
                assert!(!svg.contains("inf") && !svg.contains("<t>"), "{svg}");
            }
        }
    }

    #[test]
    fn thinning_keeps_spikes() {
        let mut points: Vec<(f64, f64)> = (0..36_000).map(|at| (f64::from(at), 1.0)).collect();
        points[20_000].1 = 9.0;
        points[30_000].1 = 0.0;
        let kept = thin(&points);
        assert!(kept.len() <= 2 * COLUMNS && kept.is_sorted_by(|a, b| a.0 <= b.0));
        assert!(kept.contains(&(20_000.0, 9.0)) && kept.contains(&(30_000.0, 0.0)));
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!([percent(1.0), percent(1000.0)], ["0 %", "99.9 %"]);
        assert_eq!(short("1.00 ms"), "1 ms");
    }
}
