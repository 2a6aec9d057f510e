//! Draws the resources of planes over time as one SVG file, with a plot for each quantity and a line for each
//! form.

use nanofaas_plot::{Axis, COLOURS, Drawing, Plot, Scale, Series, SeriesMark, Unit};

use super::Sample;

struct Panel {
    title: &'static str,
    unit: &'static str,
    of: fn(&Sample) -> f64,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "Resident memory",
        unit: "MiB",
        of: |one| one.memory_mib,
    },
    Panel {
        title: "Charged to calls (nanofaas_inflight_bytes)",
        unit: "MiB",
        of: |one| one.inflight_mib,
    },
    Panel {
        title: "Open descriptors",
        unit: "descriptors",
        of: |one| one.descriptors,
    },
    Panel {
        title: "Accepted calls so far",
        unit: "thousands",
        of: |one| one.accepted / 1000.0,
    },
];

pub(super) fn draw(histories: &[(&str, Vec<Sample>)]) -> String {
    let figure = Drawing {
        title: "Resources of planes under mixed load".to_owned(),
        about: "a line for each form: io threads, scheduler, driver".to_owned(),
        plots: PANELS.iter().map(|panel| plot(panel, histories)).collect(),
        columns: 1,
    };
    figure.svg()
}

fn plot(panel: &Panel, histories: &[(&str, Vec<Sample>)]) -> Plot {
    let line = |(number, (form, history)): (usize, &(&str, Vec<Sample>))| Series {
        name: (*form).to_owned(),
        colour: COLOURS[number % COLOURS.len()],
        mark: SeriesMark::Line,
        points: history
            .iter()
            .map(|sample| (sample.at.as_secs_f64() / 60.0, (panel.of)(sample)))
            .collect(),
    };
    let axis = |label| Axis::new(label, Scale::Linear, Unit::Plain);
    let lines = histories.iter().enumerate().map(line).collect();
    Plot::new(panel.title, "", axis("time (min)"), axis(panel.unit), lines)
}
