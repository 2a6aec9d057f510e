//! Reads the scenario of a comparison from its file: the contenders, the load, the cores and the goals. This
//! module starts nothing; `compare` runs the scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::goal::Goal;
use crate::load::{ArrivalPattern, LoadSpec, RequestTarget};

/// Fields of a load or a request that override the defaults.
type Partial = Map<String, Value>;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) about: String,
    #[serde(default = "usual_rounds")]
    pub(crate) rounds: usize,
    #[serde(default)]
    pub(crate) measure: Measure,
    /// The cores of the load generator, under `load`, and of the processes, under their names.
    #[serde(default)]
    pub(crate) cores: BTreeMap<String, Vec<usize>>,
    /// Fields of the load that all contenders share.
    #[serde(default)]
    load: Partial,
    /// Fields of the request that all contenders share; the URL comes from the contender.
    #[serde(default)]
    request: Partial,
    pub(crate) contenders: Vec<ContenderEntry>,
    /// The contender by whose figures the figures of the others are divided.
    pub(crate) baseline: String,
    /// The contender that is called without a proxy. `added_p50_us` is a contender's median latency minus the
    /// median latency of this contender.
    #[serde(default)]
    pub(crate) direct: Option<String>,
    /// If present, the load is an open loop at a share of the measured capacity of one contender.
    #[serde(default)]
    pub(crate) capacity: Option<CapacityShare>,
    #[serde(default)]
    pub(crate) disturbance: Disturbance,
    #[serde(default)]
    pub(crate) goals: Vec<Goal>,
}

fn usual_rounds() -> usize {
    5
}

/// What is measured in a turn, which is one run of one contender in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// The contender's answers under load.
    #[default]
    Load,
    /// The contender's first answer.
    FirstAnswer,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContenderEntry {
    pub(crate) name: String,
    /// The path of the contender's file, relative to the scenario's folder.
    #[serde(rename = "use")]
    pub(crate) file: PathBuf,
    #[serde(default)]
    pub(crate) set: BTreeMap<String, String>,
    #[serde(default)]
    load: Partial,
    #[serde(default)]
    request: Partial,
    #[serde(default)]
    pub(crate) cores: BTreeMap<String, Vec<usize>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CapacityShare {
    pub(crate) of: String,
    pub(crate) share: f64,
    /// The number of connections of the closed loop that measures the capacity.
    #[serde(default = "usual_connections")]
    pub(crate) connections: usize,
}

fn usual_connections() -> usize {
    64
}

/// The limits above which a turn is disturbed, and how often turns and rounds are repeated.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Disturbance {
    /// CPU time that the hypervisor took, in percent of one core.
    pub(crate) steal_percent: f64,
    /// CPU time of processes that do not take part, in percent of one core.
    pub(crate) foreign_percent: f64,
    /// How much longer the slowest measurement of a core in a round may take than the fastest one, in
    /// percent. The same limit holds for the round trips of a cache line between two cores.
    pub(crate) speed_percent: f64,
    /// The longest round trip of a cache line between two cores, in nanoseconds; no limit if absent.
    pub(crate) way_ns: Option<f64>,
    /// How many times a turn is tried in a round.
    pub(crate) tries: usize,
    /// How long a comparison waits until the machine's speed is as it was earlier in the round.
    pub(crate) patience_s: f64,
    /// How many rounds may be dropped and repeated. On a shared host, changes of the host's speed alone
    /// disturbed five of eight rounds with two contenders. Ten repeats would therefore often be too few for
    /// five valid rounds.
    pub(crate) repeats: usize,
}

impl Default for Disturbance {
    fn default() -> Self {
        Self {
            steal_percent: 2.0,
            foreign_percent: 10.0,
            speed_percent: 10.0,
            way_ns: None,
            tries: 4,
            patience_s: 15.0,
            repeats: 20,
        }
    }
}

impl Scenario {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let scenario: Self = yaml(path)?;
        scenario
            .check()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(scenario)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if !(1..=1000).contains(&self.rounds) {
            return Err("rounds: 1 to 1000".to_owned());
        }
        if !(0.0..=3600.0).contains(&self.disturbance.patience_s) {
            return Err("disturbance: patience_s: 0 to 3600 seconds".to_owned());
        }
        let capacity = self.capacity.iter().map(|capacity| &capacity.of);
        let goals = self
            .goals
            .iter()
            .flat_map(|goal| [Some(&goal.contender), goal.against.as_ref()]);
        let named = [Some(&self.baseline), self.direct.as_ref()];
        for name in named.into_iter().chain(goals).flatten().chain(capacity) {
            if !self.contenders.iter().any(|entry| entry.name == *name) {
                return Err(format!("{name} is not the name of a contender"));
            }
        }
        for (at, entry) in self.contenders.iter().enumerate() {
            if self.contenders[..at]
                .iter()
                .any(|other| other.name == entry.name)
            {
                return Err(format!("two contenders are called {}", entry.name));
            }
            self.load(entry, String::new())?
                .check()
                .map_err(|error| format!("the load of {}: {error}", entry.name))?;
        }
        Ok(())
    }

    pub(crate) fn named_cores(&self) -> Vec<usize> {
        let entries = self.contenders.iter().map(|entry| &entry.cores);
        let all = std::iter::once(&self.cores).chain(entries);
        let numbers: BTreeSet<usize> = all.flat_map(BTreeMap::values).flatten().copied().collect();
        numbers.into_iter().collect()
    }

    /// Sets the arrivals of all contenders that have none of their own.
    pub(crate) fn offer(&mut self, arrivals: &ArrivalPattern) -> Result<(), String> {
        let value = serde_json::to_value(arrivals).map_err(|error| error.to_string())?;
        self.load.insert("arrivals".to_owned(), value);
        Ok(())
    }

    /// Sets a duration, such as `duration_s`, for all contenders, and removes the durations that single
    /// contenders have.
    pub(crate) fn last(&mut self, field: &str, seconds: f64) {
        for entry in &mut self.contenders {
            entry.load.remove(field);
        }
        self.load.insert(field.to_owned(), seconds.into());
    }

    pub(crate) fn load(&self, entry: &ContenderEntry, url: String) -> Result<LoadSpec, String> {
        let mut target: RequestTarget =
            merge(&RequestTarget::default(), &[&self.request, &entry.request])?;
        target.url = url;
        let mut load: LoadSpec = merge(&LoadSpec::default(), &[&self.load, &entry.load])?;
        load.targets = vec![target];
        Ok(load)
    }
}

/// Takes each field from the last element of `over` that has the field, or else from `usual`.
fn merge<T: Serialize + DeserializeOwned>(usual: &T, over: &[&Partial]) -> Result<T, String> {
    let mut value = serde_json::to_value(usual).map_err(|error| error.to_string())?;
    for partial in over {
        for (name, field) in *partial {
            value[name] = field.clone();
        }
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// Reads a YAML file; the error names the file.
pub(crate) fn yaml<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Contender;

    const TEXT: &str = "
name: a
baseline: b
cores: {load: [3], proxy: [0, 1]}
load: {connections: 64, arrivals: {poisson: 100}}
request: {body_bytes: 256}
contenders:
  - {name: b, use: b.yaml}
  - {name: c, use: b.yaml, load: {connections: 1}, cores: {load: [1]}, set: {x: y}}
goals:
  - {contender: c, figure: p50_us, must: '<= 0.75'}
";

    #[test]
    fn a_contender_may_differ_from_the_rest() {
        let scenario: Scenario = serde_saphyr::from_str(TEXT).expect("a scenario");
        scenario.check().expect("sound");
        let load = |at: usize| {
            let url = "http://127.0.0.1:1/".to_owned();
            scenario
                .load(&scenario.contenders[at], url)
                .expect("a load")
        };
        assert_eq!((load(0).connections, load(1).connections), (64, 1));
        assert_eq!(load(1).arrivals, Some(ArrivalPattern::Poisson(100.0)));
        assert_eq!(load(1).targets[0].body_bytes, Some(256));
        assert_eq!(scenario.named_cores(), [0, 1, 3]);
    }

    #[test]
    fn a_given_duration_holds_for_all() {
        let text = TEXT.replace("connections: 1}", "connections: 1, duration_s: 9}");
        let mut scenario: Scenario = serde_saphyr::from_str(&text).expect("a scenario");
        scenario.last("duration_s", 2.5);
        for entry in &scenario.contenders {
            let load = scenario.load(entry, String::new()).expect("a load");
            assert!((load.duration_s - 2.5).abs() < 1e-9, "{}", entry.name);
        }
    }

    #[test]
    fn the_scenarios_that_come_along_are_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).expect("the folder") {
            let scenario = Scenario::read(&entry.expect("an entry").path()).expect("a scenario");
            for entry in &scenario.contenders {
                Contender::read(&folder.join(&entry.file)).expect("its contender");
            }
            count += 1;
        }
        assert!(count >= 12, "{count}");
    }

    #[test]
    fn slips_are_told() {
        for (from, to) in [
            ("baseline: b", "baseline: x"),
            ("connections: 64", "conections: 64"),
            ("name: c", "name: b"),
            ("contender: c", "contender: x"),
            ("connections: 1}", "connections: 0}"),
        ] {
            let scenario: Scenario =
                serde_saphyr::from_str(&TEXT.replace(from, to)).expect("a scenario");
            assert!(scenario.check().is_err(), "{to}");
        }
        assert!(serde_saphyr::from_str::<Scenario>(&TEXT.replace("0.75", "x")).is_err());
    }
}
