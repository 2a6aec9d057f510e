//! A figure in one SVG file: plots below each other, each with its title and its legend, readable on a
//! light and on a dark screen. It has no script and loads nothing; the same plots give the same bytes.

use std::fmt::Write as _;

use crate::plot::{COLOURS, HEIGHT, LEFT, Mark, Plot, WIDTH, escape};

/// The same colours for a dark background, in their order.
const COLOURS_ON_DARK: [&str; COLOURS.len()] = [
    "#56b4e9", "#ff9e5e", "#3fcf9b", "#e39bcf", "#e0c040", "#8ec9f0", "#bbbbbb", "#b99bff",
];

const MARGIN: f64 = 12.0;
const TITLE: f64 = 52.0;
const CAPTION: f64 = 44.0;
/// About the width of a letter of 12.5 pixels.
const LETTER: f64 = 6.6;

/// Plots with a title.
#[derive(Clone, Debug)]
pub struct Figure {
    pub title: String,
    /// What a reader should know to read it.
    pub about: String,
    /// From the top down, in so many columns.
    pub plots: Vec<Plot>,
    pub columns: usize,
}

impl Figure {
    /// The whole file.
    pub fn svg(&self) -> String {
        let columns = self.columns.max(1);
        let rows = self.plots.len().div_ceil(columns);
        let (wide, high) = (WIDTH + MARGIN, CAPTION + HEIGHT + MARGIN);
        let width = MARGIN + wide * columns as f64;
        let height = TITLE + MARGIN + high * rows as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\">\n<title>{title}</title>\n<style>{}</style>\n\
             <rect width=\"{width}\" height=\"{height}\" class=\"paper\"/>\n\
             <text x=\"{MARGIN}\" y=\"24\" class=\"title\">{title}</text>\n\
             <text x=\"{MARGIN}\" y=\"43\" class=\"about\">{about}</text>\n",
            style(),
            title = escape(&self.title),
            about = escape(&self.about),
        );
        for (number, plot) in self.plots.iter().enumerate() {
            let x = MARGIN + wide * (number % columns) as f64;
            let y = TITLE + MARGIN + high * (number / columns) as f64;
            let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
            caption(&mut svg, plot);
            let placed = format!("<svg y=\"{CAPTION}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" ");
            svg += &plot.svg().replacen("<svg ", &placed, 1);
            svg += "\n</g>\n";
        }
        svg + "</svg>\n"
    }
}

/// Title, note and legend of a plot.
fn caption(svg: &mut String, plot: &Plot) {
    let _ = writeln!(
        svg,
        "<text x=\"0\" y=\"14\" class=\"caption\">{} <tspan class=\"about\">{}</tspan></text>",
        escape(&plot.title),
        escape(&plot.note)
    );
    let mut x = LEFT;
    for series in &plot.series {
        let (height, radius) = match series.mark {
            Mark::Line => (3.0, 0.0),
            Mark::Thin => (1.5, 0.0),
            Mark::Dots => (8.0, 4.0),
        };
        let width = if series.mark == Mark::Dots { 8.0 } else { 18.0 };
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width}\" height=\"{height}\" rx=\"{radius}\" \
             fill=\"{}\"/><text x=\"{:.1}\" y=\"36\" class=\"label\">{}</text>",
            32.0 - height / 2.0,
            series.colour,
            x + width + 5.0,
            escape(&series.name)
        );
        x += width + 22.0 + LETTER * series.name.chars().count() as f64;
    }
}

/// Colours stand on the elements; on a dark screen each is looked up by its value.
fn style() -> String {
    let mut dark = DARK.to_owned();
    for (light, colour) in COLOURS.iter().zip(COLOURS_ON_DARK) {
        let _ = write!(
            dark,
            "[stroke=\"{light}\"]{{stroke:{colour}}}[fill=\"{light}\"]{{fill:{colour}}}"
        );
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

    fn figure() -> Figure {
        let series = |number: usize| Series {
            name: format!("a<{number}"),
            colour: COLOURS[number],
            mark: Mark::Line,
            points: vec![(0.0, 1.0), (1.0, 2.0)],
        };
        let plot = Plot {
            title: "a & b".to_owned(),
            note: String::new(),
            x: Axis::new("time (s)", Scale::Linear, Unit::Plain),
            y: Axis::new("calls", Scale::Linear, Unit::Plain),
            series: vec![series(0), series(1)],
            shade_before: None,
            level: None,
        };
        Figure {
            title: "two".to_owned(),
            about: String::new(),
            plots: vec![plot.clone(), plot],
            columns: 1,
        }
    }

    #[test]
    fn a_figure_closes_what_it_opens_and_escapes_texts() {
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
