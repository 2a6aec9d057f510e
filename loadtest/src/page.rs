//! Makes a self-contained HTML page with a title, key figures, tables and plots. The page loads no other
//! resource. Reports of runs and of comparisons use this module.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use nanofaas_plot::{Plot, SeriesMark};

use crate::machine::MachineInfo;

pub(crate) fn page(title: &str, about: &str, machine: &MachineInfo, parts: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (title) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                h1 { (title) }
                p.about { (about) }
                (parts)
                footer {
                    (machine.cpu) " · " (machine.cores) " cores · Linux " (machine.kernel) " · " (now())
                    " · nanofaas-loadtest " (env!("CARGO_PKG_VERSION"))
                }
            }
        }
    };
    page.into_string()
}

/// Formats large figures side by side, each with its label.
pub(crate) fn figures(figures: &[(String, &str)]) -> Markup {
    html! {
        div.figures { @for (value, name) in figures { div { b { (value) } span { (name) } } } }
    }
}

pub(crate) fn notes(notes: &[String]) -> Markup {
    html! { @if !notes.is_empty() { ul.notes { @for note in notes { li { (note) } } } } }
}

/// Formats plots, two in a row if the browser's window is wide enough.
pub(crate) fn plots(plots: &[Plot]) -> Markup {
    html! {
        div.plots {
            @for plot in plots {
                figure {
                    figcaption { (plot.title) " " small { (plot.note) } }
                    (plot.svg())
                    div.legend {
                        @for series in &plot.series {
                            @let kind = match series.mark {
                                SeriesMark::Dots => "dot",
                                SeriesMark::Line => "line",
                                SeriesMark::Thin => "line thin",
                            };
                            span { i class=(kind) style={ "background:" (series.colour) } {} (series.name) }
                        }
                    }
                }
            }
        }
    }
}

pub(crate) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}
