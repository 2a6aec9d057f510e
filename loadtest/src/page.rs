//! One self-contained HTML page: a title, key figures, tables and plots, dark on light.
//! It loads nothing from anywhere. Reports
//! of runs and of comparisons are made of it.

use std::fmt::Write as _;
use std::process::Command;

use nanofaas_plot::{Mark, Plot, escape};

use crate::machine::Kind;

pub(crate) struct Page {
    body: String,
    title: String,
}

impl Page {
    pub(crate) fn new(title: &str, about: &str) -> Self {
        let mut body = format!("<h1>{}</h1>", escape(title));
        if !about.is_empty() {
            let _ = write!(body, "<p class=\"about\">{}</p>", escape(about));
        }
        Self {
            body,
            title: title.to_owned(),
        }
    }

    /// Large figures side by side: a value and what it is.
    pub(crate) fn figures(&mut self, figures: &[(String, String)]) {
        self.body.push_str("<div class=\"figures\">");
        for (value, name) in figures {
            let _ = write!(
                self.body,
                "<div><b>{}</b><span>{}</span></div>",
                escape(value),
                escape(name)
            );
        }
        self.body.push_str("</div>");
    }

    pub(crate) fn notes(&mut self, notes: &[String]) {
        if notes.is_empty() {
            return;
        }
        self.body.push_str("<ul class=\"notes\">");
        for note in notes {
            let _ = write!(self.body, "<li>{}</li>", escape(note));
        }
        self.body.push_str("</ul>");
    }

    /// A word and what it means, line by line.
    pub(crate) fn list<'a>(
        &mut self,
        title: &str,
        entries: impl Iterator<Item = (&'a str, &'a str)>,
    ) {
        let _ = write!(self.body, "<h2>{}</h2><dl>", escape(title));
        for (word, text) in entries {
            let _ = write!(
                self.body,
                "<dt>{}</dt><dd>{}</dd>",
                escape(word),
                escape(text)
            );
        }
        self.body.push_str("</dl>");
    }

    /// What stands behind a line break in a cell is shown smaller, below the rest.
    pub(crate) fn table(&mut self, title: &str, columns: &[&str], rows: &[Vec<String>]) {
        let _ = write!(
            self.body,
            "<h2>{}</h2><div class=\"wide\"><table><tr>",
            escape(title)
        );
        for column in columns {
            let _ = write!(self.body, "<th>{}</th>", escape(column));
        }
        self.body.push_str("</tr>");
        for row in rows {
            self.body.push_str("<tr>");
            for cell in row {
                let (value, more) = cell.split_once('\n').unwrap_or((cell, ""));
                let _ = write!(
                    self.body,
                    "<td>{}<small>{}</small></td>",
                    escape(value),
                    escape(more)
                );
            }
            self.body.push_str("</tr>");
        }
        self.body.push_str("</table></div>");
    }

    /// Plots two to a row where there is room.
    pub(crate) fn plots(&mut self, plots: &[Plot]) {
        self.body.push_str("<div class=\"plots\">");
        for plot in plots {
            let _ = write!(self.body, "<figure><figcaption>{}", escape(&plot.title));
            if !plot.note.is_empty() {
                let _ = write!(self.body, " <small>{}</small>", escape(&plot.note));
            }
            self.body.push_str("</figcaption>");
            self.body.push_str(&plot.svg());
            self.body.push_str("<div class=\"legend\">");
            for series in &plot.series {
                let kind = match series.mark {
                    Mark::Dots => "dot",
                    Mark::Line => "line",
                    Mark::Thin => "line thin",
                };
                let _ = write!(
                    self.body,
                    "<span><i class=\"{kind}\" style=\"background:{}\"></i>{}</span>",
                    series.colour,
                    escape(&series.name)
                );
            }
            self.body.push_str("</div></figure>");
        }
        self.body.push_str("</div>");
    }

    pub(crate) fn finish(self, machine: &Kind) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>{}</title><style>{STYLE}</style></head><body>{}\
             <footer>{} · {} cores · Linux {} · {} · nanofaas-loadtest {}</footer></body></html>\n",
            escape(&self.title),
            self.body,
            escape(&machine.cpu),
            machine.cores,
            escape(&machine.kernel),
            escape(&now()),
            env!("CARGO_PKG_VERSION"),
        )
    }
}

/// The date, from the system's own tool: this crate knows no calendar.
pub(crate) fn now() -> String {
    let output = Command::new("date")
        .args(["-u", "+%Y-%m-%d %H:%M UTC"])
        .output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:1500px;\
margin:0 auto;padding:24px 32px}\
h1{font-size:25px;margin:0 0 2px}h2{font-size:17px;margin:26px 0 8px}\
.about{color:#444;margin:0 0 14px;max-width:100ch}\
.figures{display:flex;flex-wrap:wrap;gap:12px;margin:14px 0}\
.figures div{border:1px solid #d4d4d4;border-radius:6px;padding:8px 16px;min-width:110px}\
.figures b{display:block;font-size:22px;font-variant-numeric:tabular-nums}\
.figures span{color:#555;font-size:13px}\
.notes{background:#fff6e0;border-left:4px solid #b37400;padding:8px 12px 8px 30px;margin:12px 0;\
max-width:110ch}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:4px 12px;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
th{color:#444;font-weight:600;border-bottom:2px solid #999}\
td small{display:block;color:#555;font-size:12px;line-height:1.3}td{vertical-align:top}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;margin:0}dd{margin:0;color:#444}\
dt{font-weight:600}\
th:first-child,td:first-child{text-align:left;padding-left:0}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(560px,1fr));gap:22px 26px;\
margin-top:22px}\
figure{margin:0;min-width:0}figcaption{font-weight:600;margin-bottom:4px}\
figcaption small{font-weight:400;color:#555;font-size:13px}\
svg{width:100%;height:auto;display:block}\
svg text{font-family:system-ui,sans-serif;fill:#333}svg .tick{font-size:11.5px}\
svg .label{font-size:12.5px;fill:#1a1a1a}\
svg .grid{stroke:#e3e3e3;fill:none}svg .axis{stroke:#555;fill:none}\
svg .warm{fill:#f1f1f1}svg .level{stroke:#666;stroke-dasharray:5 4;fill:none}\
.legend{display:flex;flex-wrap:wrap;gap:2px 18px;font-size:13px;padding-left:9%}\
.legend i{display:inline-block;margin-right:6px;vertical-align:middle}\
.legend i.line{width:18px;height:3px}.legend i.thin{height:1.5px;opacity:.55}.legend i.dot{width:9px;height:9px;border-radius:50%}\
footer{margin-top:28px;padding-top:8px;border-top:1px solid #ddd;color:#555;font-size:13px}";
