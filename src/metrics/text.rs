//! Writes Prometheus's text format: families, samples, histograms and escaped labels. This module knows no
//! particular metric.

use std::fmt::{Display, Write};

use nanofaas_core::histogram::BOUNDS;
use nanofaas_core::time::Nanos;

#[derive(Default)]
pub(super) struct MetricsPage(String);

impl MetricsPage {
    /// Begins a family. The caller adds its samples next.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.put(format_args!("{name}{} {value}\n", LabelSet(labels)));
    }

    /// Adds a family of one sample without labels.
    pub(super) fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// Adds a histogram of times in seconds, under one label. `counts` has the count of each bucket alone;
    /// this function sums them.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        label: (&str, &str),
        counts: &[u64],
        sum: Nanos,
    ) {
        let bucket = format!("{name}_bucket");
        let mut so_far = 0;
        for (at, count) in counts.iter().enumerate() {
            so_far += count;
            let bound = BOUNDS.get(at).map(|bound| seconds(*bound).to_string());
            let bound = bound.as_deref().unwrap_or("+Inf");
            self.sample(&bucket, &[label, ("le", bound)], so_far);
        }
        let labels = [label];
        self.sample(&format!("{name}_sum"), &labels, seconds(sum));
        self.sample(&format!("{name}_count"), &labels, so_far);
    }

    pub(super) fn done(self) -> String {
        self.0
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a String takes everything");
    }
}

fn seconds(time: Nanos) -> f64 {
    time.as_ns() as f64 / 1e9
}

struct LabelSet<'a>(&'a [(&'a str, &'a str)]);

impl Display for LabelSet<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            out.write_char(if at == 0 { '{' } else { ',' })?;
            write!(out, "{name}=\"")?;
            for c in value.chars() {
                match c {
                    '\\' => out.write_str("\\\\")?,
                    '"' => out.write_str("\\\"")?,
                    '\n' => out.write_str("\\n")?,
                    c => out.write_char(c)?,
                }
            }
            out.write_char('"')?;
        }
        out.write_str(if self.0.is_empty() { "" } else { "}" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = MetricsPage::default();
        page.sample("a", &[("b", "x\\y\"z\n"), ("c", "")], 1);
        assert_eq!(page.done(), "a{b=\"x\\\\y\\\"z\\n\",c=\"\"} 1\n");
    }
}
