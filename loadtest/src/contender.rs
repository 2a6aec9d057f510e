//! Reads a contender from its file: its processes, how to detect that they are ready, the requests that
//! prepare it, and its URL. This module starts no process; `running` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::scenario::yaml;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contender {
    #[serde(default)]
    pub(crate) about: String,
    /// The default values of the contender's variables. The scenario may replace them.
    #[serde(default)]
    pub(crate) set: BTreeMap<String, String>,
    /// The names of free loopback ports. The name `proxy` defines the variable `{port.proxy}`.
    #[serde(default)]
    pub(crate) ports: Vec<String>,
    /// Files next to the contender's file. Their variables are filled in, and the results are written into
    /// `{folder}`.
    #[serde(default)]
    pub(crate) files: Vec<PathBuf>,
    pub(crate) processes: Vec<ProcessSpec>,
    /// The requests that are sent before the load, in the order of this list.
    #[serde(default)]
    pub(crate) prepare: Vec<PrepareStep>,
    /// The URL that the load uses.
    pub(crate) url: String,
    /// The folder of the contender's file.
    #[serde(skip)]
    pub(crate) home: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessSpec {
    /// The name, which also selects the process's cores in a scenario.
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    /// Environment variables; a variable with an empty value is not set.
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    /// A URL that answers 2xx as soon as the process is ready. If it is absent, the tool does not wait for
    /// the process, and measures a first answer from the start of the process.
    #[serde(default)]
    pub(crate) ready: Option<String>,
    /// Whether the CPU and memory of this process count as the contender's.
    #[serde(default)]
    pub(crate) measured: bool,
}

/// A request that must succeed. It is sent `repeat` times; `{n}` is the number of the repetition, from 0.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrepareStep {
    #[serde(default = "post")]
    pub(crate) method: String,
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) body: Option<String>,
    #[serde(default = "once")]
    pub(crate) repeat: String,
}

fn post() -> String {
    "POST".to_owned()
}

fn once() -> String {
    "1".to_owned()
}

/// The largest number of steps along a chain of contender files, each of which names the next file in its
/// field `like`.
const LIKENESS: usize = 4;

impl Contender {
    /// Reads a contender's file. A field that is missing there is taken from the file that `like` names. The
    /// two `set` maps are merged.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let fields = fields(path, LIKENESS)?;
        let mut contender: Self = serde_json::from_value(Value::Object(fields))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        contender.home = path.parent().map(Path::to_path_buf).unwrap_or_default();
        if !contender.processes.iter().any(|process| process.measured) {
            return Err(format!(
                "{}: no process is `measured: true`",
                path.display()
            ));
        }
        Ok(contender)
    }
}

fn fields(path: &Path, depth: usize) -> Result<Map<String, Value>, String> {
    let mut own: Map<String, Value> = yaml(path)?;
    let Some(like) = own.remove("like") else {
        return Ok(own);
    };
    let like = like.as_str().filter(|_| depth > 0).ok_or_else(|| {
        format!(
            "{}: `like` names one other file, at most {LIKENESS} deep",
            path.display()
        )
    })?;
    let mut all = fields(&path.with_file_name(like), depth - 1)?;
    for (name, field) in own {
        match (all.get_mut(&name), field) {
            (Some(Value::Object(set)), Value::Object(more)) if name == "set" => set.extend(more),
            (_, field) => {
                all.insert(name, field);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contenders_that_come_along_are_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contenders");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                let contender = Contender::read(&path).expect("a contender");
                assert!(!contender.about.is_empty(), "{}", path.display());
                count += 1;
            }
        }
        assert!(count >= 8, "{count}");
    }
}
