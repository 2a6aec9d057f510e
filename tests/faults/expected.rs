//! Reads `expected.yaml`, which has the expected results.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) fault: String,
    /// The word that makes the function's program fail in this way.
    pub(crate) key: String,
    usual: ExpectedResult,
    #[serde(default)]
    pub(crate) except: BTreeMap<String, Exception>,
    /// The reason, for each column in which this fault cannot happen.
    #[serde(default)]
    pub(crate) cannot: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedResult {
    pub(crate) status: u16,
    pub(crate) code: Option<String>,
    /// A part of the message.
    pub(crate) message: Option<String>,
    pub(crate) runs: usize,
}

/// The parts of a result that differ from the usual ones.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exception {
    status: Option<u16>,
    code: Option<String>,
    message: Option<String>,
    runs: Option<usize>,
    pub(crate) why: String,
}

impl Row {
    /// Returns the reason as the error if the fault cannot happen in this column.
    pub(crate) fn expects(&self, column: &str) -> Result<ExpectedResult, &str> {
        if let Some(why) = self.cannot.get(column) {
            return Err(why);
        }
        let mut expected = self.usual.clone();
        if let Some(exception) = self.except.get(column) {
            expected.status = exception.status.unwrap_or(expected.status);
            expected.runs = exception.runs.unwrap_or(expected.runs);
            expected.code = exception.code.clone().or(expected.code);
            expected.message = exception.message.clone().or(expected.message);
        }
        Ok(expected)
    }
}

pub(crate) fn read() -> Vec<Row> {
    let rows: Vec<Row> =
        serde_saphyr::from_str(include_str!("expected.yaml")).expect("expected.yaml is sound");
    for row in &rows {
        for name in row.except.keys().chain(row.cannot.keys()) {
            let is_column = crate::COLUMNS.iter().any(|column| column.name == name);
            assert!(is_column, "{}: there is no column {name}", row.fault);
        }
    }
    rows
}
