//! Plots as inline SVG: axes with units, a grid, lines, dots and a legend.
//! It knows nothing of what it shows and loads nothing from anywhere. Pages and figures are made of it.

use std::fmt::Write as _;

use crate::range::Range;
use crate::show;

/// Colours that stay apart in print and for the colour-blind (after Okabe and Ito), dark enough on
/// white.
pub const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#00795a", "#a8568a", "#8a6d00", "#2b7fb8", "#444444", "#7a4fbf",
];

/// How values are placed on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Log,
    /// x is 1 / (1 - quantile), on a logarithmic scale, labelled in percent.
    Percentile,
}

/// How the figures on an axis are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Plain,
    /// Values are microseconds.
    Time,
    /// Values are a count per second.
    Rate,
}

/// One direction of a plot.
#[derive(Clone, Debug)]
pub struct Axis {
    pub label: String,
    pub scale: Scale,
    pub unit: Unit,
    /// What is shown at least.
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

    /// The same axis, on which these two values and all between are shown.
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

/// 1.00 ms is 1 ms on an axis.
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
pub enum Mark {
    Line,
    /// A thinner, lighter line, for what stands behind the others.
    Thin,
    Dots,
}

/// Points that belong together.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub colour: &'static str,
    pub mark: Mark,
    pub points: Vec<(f64, f64)>,
}

/// Series over the same axes.
#[derive(Clone, Debug)]
pub struct Plot {
    pub title: String,
    /// What a reader should know to read it.
    pub note: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    /// Left of this x is the warm-up.
    pub shade_before: Option<f64>,
    /// A line across, such as the limit of a goal.
    pub level: Option<f64>,
}

const COLUMNS: usize = 700;
pub(crate) const WIDTH: f64 = 720.0;
pub(crate) const HEIGHT: f64 = 300.0;
pub(crate) const LEFT: f64 = 74.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 46.0;

impl Plot {
    /// The plot as an `svg` element, whose classes the page around it has to style.
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let mut x_range = Range::new(&self.x, points().map(|point| point.0), false);
        if self.series.iter().all(|series| series.mark == Mark::Dots) {
            x_range.widen();
        }
        let y_values = points().map(|point| point.1).chain(self.level);
        let y_range = Range::new(&self.y, y_values, true);
        let x = |value| LEFT + x_range.share(self.x.place(value)) * (WIDTH - LEFT - RIGHT);
        let y =
            |value| HEIGHT - BOTTOM - y_range.share(self.y.place(value)) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(&self.title)
        );
        let bottom = HEIGHT - BOTTOM;
        if let Some(value) = self.shade_before {
            let width = (x(value) - LEFT).clamp(0.0, WIDTH - LEFT - RIGHT);
            let _ = write!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{:.1}\" \
                 class=\"warm\"/>",
                bottom - TOP
            );
            if width > 60.0 {
                let _ = write!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\" class=\"tick\" text-anchor=\"middle\">warm-up\
                     </text>",
                    LEFT + width / 2.0,
                    TOP + 12.0
                );
            }
        }
        for tick in &y_range.ticks {
            let at = y(*tick);
            let _ = write!(
                svg,
                "<path d=\"M{LEFT} {at:.1}H{:.1}\" class=\"grid\"/><text x=\"{:.1}\" y=\"{:.1}\" \
                 class=\"tick\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 7.0,
                at + 4.0,
                self.y.text(*tick)
            );
        }
        for tick in &x_range.ticks {
            let at = x(*tick);
            // The last label must not run out of the picture.
            let anchor = if at > WIDTH - RIGHT - 24.0 {
                "end"
            } else {
                "middle"
            };
            let text_at = if anchor == "end" { WIDTH - 2.0 } else { at };
            let _ = write!(
                svg,
                "<path d=\"M{at:.1} {TOP}V{bottom:.1}\" class=\"grid\"/><text x=\"{text_at:.1}\" \
                 y=\"{:.1}\" class=\"tick\" text-anchor=\"{anchor}\">{}</text>",
                bottom + 16.0,
                self.x.text(*tick)
            );
        }
        if let Some(level) = self.level {
            let _ = write!(
                svg,
                "<path d=\"M{LEFT} {:.1}H{:.1}\" class=\"level\"/>",
                y(level),
                WIDTH - RIGHT
            );
        }
        for series in &self.series {
            draw(&mut svg, series, &x, &y);
        }
        let _ = write!(
            svg,
            "<path d=\"M{LEFT} {TOP}V{bottom:.1}H{:.1}\" class=\"axis\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" class=\"label\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(15 {:.1}) rotate(-90)\" class=\"label\" \
             text-anchor=\"middle\">{}</text></svg>",
            WIDTH - RIGHT,
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 8.0,
            escape(&self.x.label),
            (TOP + bottom) / 2.0,
            escape(&self.y.label)
        );
        svg
    }
}

fn draw(svg: &mut String, series: &Series, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) {
    if series.mark == Mark::Dots {
        for point in &series.points {
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{}\"/>",
                x(point.0),
                y(point.1),
                series.colour
            );
        }
        return;
    }
    let mut path = String::new();
    for point in thin(&series.points) {
        let command = if path.is_empty() { 'M' } else { 'L' };
        let _ = write!(path, "{command}{:.1} {:.1}", x(point.0), y(point.1));
    }
    let (width, opacity) = if series.mark == Mark::Thin {
        (1.1, 0.55)
    } else {
        (2.0, 1.0)
    };
    let _ = write!(
        svg,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" \
         stroke-opacity=\"{opacity}\" stroke-linejoin=\"round\"/>",
        series.colour
    );
}

/// A long run has more points than a plot has columns: of neighbours the lowest and the highest
/// stay, so that no spike goes.
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

/// A text as it may stand in HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
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
                    mark: Mark::Line,
                    points: points.clone(),
                };
                let plot = Plot {
                    title: "<t>".to_owned(),
                    note: String::new(),
                    x: Axis::new("x (s)", scale, Unit::Plain),
                    y: Axis::new("y", Scale::Log, Unit::Time),
                    series: vec![series],
                    shade_before: None,
                    level: None,
                };
                let svg = plot.svg();
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
