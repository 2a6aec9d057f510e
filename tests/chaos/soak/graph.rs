//! What planes held over time, as one SVG file: a panel for each quantity, a line for each form.

use std::fmt::Write as _;

use super::Sample;

const WIDTH: f64 = 760.0;
const PANEL: f64 = 170.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 26.0;
/// After Okabe and Ito: they stay apart for the colour-blind.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#00795a", "#a8568a"];

struct Panel {
    title: &'static str,
    of: fn(&Sample) -> f64,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "Resident memory, MiB",
        of: |one| one.memory_mib,
    },
    Panel {
        title: "Charged to calls (nanofaas_inflight_bytes), MiB",
        of: |one| one.inflight_mib,
    },
    Panel {
        title: "Open descriptors",
        of: |one| one.descriptors,
    },
    Panel {
        title: "Accepted calls so far, thousands",
        of: |one| one.accepted / 1000.0,
    },
];

/// x: minutes.
pub(super) fn draw(histories: &[(&str, Vec<Sample>)]) -> String {
    let height = PANEL * PANELS.len() as f64 + 24.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (number, panel) in PANELS.iter().enumerate() {
        svg += &format!("<g transform=\"translate(0 {})\">\n", PANEL * number as f64);
        svg += &one(panel, histories);
        svg += "</g>\n";
    }
    for (number, (name, _)) in histories.iter().enumerate() {
        let x = LEFT + 170.0 * number as f64;
        let (y, colour) = (height - 10.0, COLOURS[number % COLOURS.len()]);
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">━ {name}</text>"
        );
    }
    svg + "</svg>\n"
}

fn one(panel: &Panel, histories: &[(&str, Vec<Sample>)]) -> String {
    let samples = || histories.iter().flat_map(|(_, history)| history);
    let end = samples().map(minutes).fold(1.0, f64::max);
    let top = round_up(samples().map(panel.of).fold(1.0, f64::max));
    let floor = PANEL - BOTTOM;
    let x = |minute: f64| LEFT + minute / end * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| floor - value / top * (floor - TOP);
    let mut svg = format!("<text x=\"{LEFT}\" y=\"16\">{}</text>\n", panel.title);
    for part in 0..=4 {
        let value = top * f64::from(part) / 4.0;
        let (at, right, label) = (y(value), WIDTH - RIGHT, LEFT - 6.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{label}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            at + 4.0
        );
    }
    for part in 0..=6 {
        let minute = end * f64::from(part) / 6.0;
        let (at, below) = (x(minute), floor + 14.0);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{minute:.0} min</text>"
        );
    }
    for (number, (_, history)) in histories.iter().enumerate() {
        let mut path = String::new();
        for sample in history {
            let letter = if path.is_empty() { 'M' } else { 'L' };
            let value = (panel.of)(sample);
            let _ = write!(path, "{letter}{:.1} {:.1}", x(minutes(sample)), y(value));
        }
        let colour = COLOURS[number % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.2\"/>"
        );
    }
    svg
}

fn minutes(sample: &Sample) -> f64 {
    sample.at.as_secs_f64() / 60.0
}

/// To four equal parts that read well.
fn round_up(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|factor| factor * decade)
        .find(|top| *top >= value)
        .unwrap_or(10.0 * decade)
}
