//! Draws a figure in one SVG file: plots in rows, each with its title and its legend. The figure is readable
//! on a light and on a dark screen. The file has no script and loads nothing. The same plots always give the
//! same bytes.

use maud::{Markup, PreEscaped, html};

use crate::plot::{COLOURS, HEIGHT, LEFT, Plot, SeriesMark, WIDTH, px};

/// The colours that replace `COLOURS` on a dark background, in the same order.
const COLOURS_ON_DARK: [&str; COLOURS.len()] = [
    "#56b4e9", "#ff9e5e", "#3fcf9b", "#e39bcf", "#e0c040", "#8ec9f0", "#bbbbbb", "#b99bff",
];

const MARGIN: f64 = 12.0;
const TITLE: f64 = 52.0;
const CAPTION: f64 = 44.0;
/// The approximate width of a letter in a text of 12.5 pixels, in pixels.
const LETTER: f64 = 6.6;

/// Plots with a title.
#[derive(Clone, Debug)]
pub struct Drawing {
    pub title: String,
    /// What a reader must know to understand the figure.
    pub about: String,
    /// The plots, row by row from the top, in `columns` columns.
    pub plots: Vec<Plot>,
    pub columns: usize,
}

impl Drawing {
    /// Returns the complete SVG file.
    pub fn svg(&self) -> String {
        let columns = self.columns.max(1);
        let rows = self.plots.len().div_ceil(columns);
        let (wide, high) = (WIDTH + MARGIN, CAPTION + HEIGHT + MARGIN);
        let width = MARGIN + wide * columns as f64;
        let height = TITLE + MARGIN + high * rows as f64;
        let svg = html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {width} {height}"))
                width=(width) height=(height) {
                title { (self.title) }
                style { (PreEscaped(style())) }
                rect width=(width) height=(height) class="paper" {}
                text x=(MARGIN) y="24" class="title" { (self.title) }
                text x=(MARGIN) y="43" class="about" { (self.about) }
                @for (number, plot) in self.plots.iter().enumerate() {
                    g transform=(translate(
                        MARGIN + wide * (number % columns) as f64,
                        TITLE + MARGIN + high * (number / columns) as f64,
                    )) {
                        (caption(plot))
                        g transform=(translate(0.0, CAPTION)) { (plot.svg()) }
                    }
                }
            }
        };
        svg.into_string() + "\n"
    }
}

fn translate(x: f64, y: f64) -> String {
    format!("translate({x} {y})")
}

/// Draws the title, the note and the legend of a plot.
fn caption(plot: &Plot) -> Markup {
    let starts = plot.series.iter().scan(LEFT, |next, series| {
        let width = mark_size(series.mark).0 + 22.0 + LETTER * series.name.chars().count() as f64;
        let start = *next;
        *next += width;
        Some(start)
    });
    html! {
        text x="0" y="14" class="caption" { (plot.title) " " tspan class="about" { (plot.note) } }
        @for (series, x) in plot.series.iter().zip(starts) {
            @let (width, height) = mark_size(series.mark);
            rect x=(px(x)) y=(px(32.0 - height / 2.0)) width=(width) height=(height)
                rx=[(series.mark == SeriesMark::Dots).then_some("4")] fill=(series.colour) {}
            text x=(px(x + width + 5.0)) y="36" class="label" { (series.name) }
        }
    }
}

/// Returns the width and the height of a series' mark in the legend.
fn mark_size(mark: SeriesMark) -> (f64, f64) {
    match mark {
        SeriesMark::Line => (18.0, 3.0),
        SeriesMark::Thin => (18.0, 1.5),
        SeriesMark::Dots => (8.0, 8.0),
    }
}

/// Makes the style sheet. Elements have the colours of a light screen; on a dark screen a rule for each
/// colour replaces that colour.
fn style() -> String {
    let mut dark = DARK.to_owned();
    for (light, colour) in COLOURS.iter().zip(COLOURS_ON_DARK) {
        dark +=
            &format!("[stroke=\"{light}\"]{{stroke:{colour}}}[fill=\"{light}\"]{{fill:{colour}}}");
    }
    format!("{LIGHT}@media(prefers-color-scheme:dark){{{dark}}}")
}

const LIGHT: &str = "\
text{font-family:system-ui,sans-serif;fill:#333}.paper{fill:#fff}\
.title{font-size:19px;font-weight:600;fill:#1a1a1a}.about{font-size:12.5px;font-weight:400;fill:#555}\
.caption{font-size:14.5px;font-weight:600;fill:#1a1a1a}.tick{font-size:11.5px}\
.label{font-size:12.5px;fill:#1a1a1a}.grid{stroke:#e3e3e3;fill:none}.axis{stroke:#555;fill:none}\
.warm{fill:#f1f1f1}.level{stroke:#666;stroke-dasharray:5 4;fill:none}";

const DARK: &str = "\
text{fill:#c9c9c9}.paper{fill:#14171c}.title,.caption,.label{fill:#ececec}.about{fill:#a5a5a5}\
.grid{stroke:#30353d}.axis{stroke:#8d939c}.warm{fill:#20242b}.level{stroke:#9aa0a8}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::{Axis, Scale, Series, Unit};

    fn figure() -> Drawing {
        let series = |number: usize| Series {
            name: format!("a<{number}"),
            colour: COLOURS[number],
            mark: SeriesMark::Line,
            points: vec![(0.0, 1.0), (1.0, 2.0)],
        };
        let axis = |label| Axis::new(label, Scale::Linear, Unit::Plain);
        let series = vec![series(0), series(1)];
        let plot = Plot::new("a & b", "", axis("time (s)"), axis("calls"), series);
        Drawing {
            title: "two".to_owned(),
            about: String::new(),
            plots: vec![plot.clone(), plot],
            columns: 1,
        }
    }

    #[test]
    fn a_figure_is_balanced_and_escaped() {
        let svg = figure().svg();
        for element in ["svg", "g", "style", "title", "text", "tspan"] {
            let opened = svg.matches(&format!("<{element} ")).count()
                + svg.matches(&format!("<{element}>")).count();
            assert_eq!(
                opened,
                svg.matches(&format!("</{element}>")).count(),
                "{element}"
            );
        }
        assert!(svg.contains("a &amp; b") && svg.contains("a&lt;1") && !svg.contains("a<1"));
        assert_eq!(svg, figure().svg());
    }

    #[test]
    fn each_colour_has_another_for_dark_screens() {
        let style = style();
        for colour in COLOURS {
            assert!(
                style.contains(&format!("[stroke=\"{colour}\"]{{stroke:#")),
                "{colour}"
            );
        }
    }
}
