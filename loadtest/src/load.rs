//! Defines the load that a user describes, with the same fields on the command line and in a scenario. This
//! module sends nothing; `plan` makes the requests from the load, and `arrivals` their send times.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest run that is accepted: warm-up and measured time together, in seconds.
pub(crate) const RUN_S_MAX: f64 = 3600.0;
pub(crate) const CONNECTIONS_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LoadSpec {
    pub(crate) targets: Vec<RequestTarget>,
    pub(crate) connections: usize,
    /// How requests arrive. `None` is a closed loop: each connection sends its next request after the
    /// previous answer.
    pub(crate) arrivals: Option<ArrivalPattern>,
    pub(crate) warm_up_s: f64,
    pub(crate) duration_s: f64,
    /// How long the client waits for answers after the end of the load.
    pub(crate) drain_s: f64,
    /// A request without an answer after this time is an error.
    pub(crate) timeout_s: f64,
    /// The names that replace `{function}` in a URL.
    pub(crate) functions: Option<DrawnFunctions>,
    /// The statuses of expected answers; if empty, 200 to 299.
    pub(crate) expect: Vec<u16>,
    /// Statuses by which a server refuses load. An answer with such a status is neither an expected answer
    /// nor an error.
    pub(crate) refusals: Vec<u16>,
    /// Whether the client never sleeps between requests. Send times are then exact, and the client uses a
    /// whole core.
    pub(crate) spin: bool,
    pub(crate) seed: u64,
}

impl Default for LoadSpec {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            connections: 1,
            arrivals: None,
            warm_up_s: 1.0,
            duration_s: 10.0,
            drain_s: 2.0,
            timeout_s: 10.0,
            functions: None,
            expect: Vec::new(),
            refusals: Vec::new(),
            spin: false,
            seed: 1,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RequestTarget {
    /// The URL, in which `{function}` is replaced by the name of a function.
    pub(crate) url: String,
    pub(crate) method: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) weight: f64,
    /// The body, in which `{duration_ms}` is replaced by the duration of a trace's row.
    pub(crate) body: Option<String>,
    pub(crate) body_file: Option<PathBuf>,
    /// The size of a generated body, in bytes: `{"input":"xx…"}` for JSON, else only letters.
    pub(crate) body_bytes: Option<usize>,
}

impl Default for RequestTarget {
    fn default() -> Self {
        Self {
            url: String::new(),
            method: "POST".to_owned(),
            headers: Vec::new(),
            weight: 1.0,
            body: None,
            body_file: None,
            body_bytes: None,
        }
    }
}

/// An open loop: requests are sent at planned times, whether or not answers have come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum ArrivalPattern {
    /// The number of requests a second, which are evenly spaced.
    Fixed(f64),
    /// The mean number of requests a second, which are sent at random times.
    Poisson(f64),
    /// Requests at the times in the rows of a file.
    Trace(Trace),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trace {
    pub(crate) file: PathBuf,
    /// The speed of the replay: at 2, a minute takes 30 seconds.
    #[serde(default = "as_recorded")]
    pub(crate) speed: f64,
}

fn as_recorded() -> f64 {
    1.0
}

/// Functions with unequal popularity: the n-th is called in proportion to n^-exponent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrawnFunctions {
    pub(crate) count: u32,
    #[serde(default = "usual_exponent")]
    pub(crate) exponent: f64,
    /// The name, in which `{}` is replaced by the number, from 0.
    #[serde(default = "usual_name")]
    pub(crate) name: String,
}

fn usual_exponent() -> f64 {
    1.1
}

fn usual_name() -> String {
    "f{}".to_owned()
}

impl LoadSpec {
    /// Checks the fields. The error describes the first wrong one.
    pub(crate) fn check(&self) -> Result<(), String> {
        let rule = |holds: bool, text: &str| if holds { Ok(()) } else { Err(text.to_owned()) };
        rule(!self.targets.is_empty(), "name at least one URL to call")?;
        rule(
            self.targets.len() <= 64,
            "at most 64 targets fit in one run",
        )?;
        rule(
            (1..=CONNECTIONS_MAX).contains(&self.connections),
            "connections: 1 to 10000",
        )?;
        rule(
            self.duration_s > 0.0 && self.warm_up_s >= 0.0,
            "duration: more than 0 seconds; warm-up: 0 or more",
        )?;
        rule(
            self.duration_s + self.warm_up_s <= RUN_S_MAX,
            "warm-up and duration together: at most 3600 seconds; make several runs",
        )?;
        rule(
            (0.0..=60.0).contains(&self.drain_s),
            "drain: 0 to 60 seconds",
        )?;
        rule(
            self.timeout_s > 0.0 && self.timeout_s <= RUN_S_MAX,
            "timeout: more than 0, at most 3600 seconds",
        )?;
        rule(
            !self
                .refusals
                .iter()
                .any(|status| self.expect.contains(status)),
            "a status is expected or a refusal, not both",
        )?;
        for target in &self.targets {
            rule(
                target.weight > 0.0 && target.weight.is_finite(),
                "a target's weight is a number above 0",
            )?;
        }
        match &self.arrivals {
            Some(ArrivalPattern::Fixed(rate) | ArrivalPattern::Poisson(rate)) => rule(
                (0.01..=10_000_000.0).contains(rate),
                "rate: 0.01 to 10000000 a second",
            )?,
            Some(ArrivalPattern::Trace(trace)) => rule(
                trace.speed > 0.0 && trace.speed.is_finite(),
                "a trace's speed is a number above 0",
            )?,
            None => {}
        }
        if let Some(functions) = &self.functions {
            rule(
                (1..=1_000_000).contains(&functions.count),
                "functions: 1 to 1000000",
            )?;
            rule(
                (0.0..=10.0).contains(&functions.exponent),
                "the Zipf exponent: 0 (all alike) to 10",
            )?;
            rule(
                functions.name.contains("{}"),
                "a name template holds {} for the number, like f{}",
            )?;
        }
        Ok(())
    }
}
