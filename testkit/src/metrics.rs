//! Parses the metrics page: series by name and labels, and the ledger's drift. This module sends no
//! request; `ControlPlane::metrics` does.

use std::collections::BTreeMap;

/// The content of `/metrics`: series by name and labels.
#[derive(Debug)]
pub struct ScrapedMetrics {
    series: Vec<(String, BTreeMap<String, String>, f64)>,
    pub text: String,
}

impl ScrapedMetrics {
    pub fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(Self::line).collect();
        Self {
            series,
            text: text.to_owned(),
        }
    }

    fn line(line: &str) -> (String, BTreeMap<String, String>, f64) {
        let (name, value) = line
            .rsplit_once(' ')
            .unwrap_or_else(|| panic!("a series: {line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
        let Some((name, labels)) = name.split_once('{') else {
            return (name.to_owned(), BTreeMap::new(), value);
        };
        let labels = labels
            .strip_suffix('}')
            .unwrap_or_else(|| panic!("labels: {line}"));
        let pairs = labels
            .split("\",")
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let pair = pair.strip_suffix('"').unwrap_or(pair);
                let (name, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                (name.to_owned(), value.to_owned())
            });
        (name.to_owned(), pairs.collect(), value)
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = f64> + 'a {
        self.series.iter().filter_map(move |(known, given, value)| {
            let has = |(label, value): &(&str, &str)| given.get(*label).is_some_and(|v| v == value);
            (known == name && labels.iter().all(has)).then_some(*value)
        })
    }

    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    /// Returns the sum of all series with this name and these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).sum()
    }

    /// Returns the ledger's drift: accepted − finished − waiting − running.
    pub fn drift(&self) -> f64 {
        let part = |part: &str| {
            let name = format!("nanofaas_executions_{part}");
            let mut found = self.matching(&name, &[]);
            let value = found.next();
            let value = value.unwrap_or_else(|| panic!("no {name} in {}", self.text));
            assert!(found.next().is_none(), "{name} is there twice");
            value
        };
        part("accepted") - part("finished") - part("waiting") - part("running")
    }
}
