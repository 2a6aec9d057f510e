//! Defines six patterns of arrival that are hard for admission. Each pattern has a function and a thousand
//! counted calls. The durations of calls and of starts vary by 5 %. Tests, plots and the run against the real
//! process (`tests/patterns`) share the patterns.

use nanofaas_core::spec::{Defaults, FunctionDraft, FunctionSpec, Platform};
use nanofaas_core::ticket::Class;
use nanofaas_core::time::Nanos;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand_distr::{Distribution as _, Exp};
use serde_json::{Value, json};

use crate::{Setup, TraceCall, VaryingTime};

/// The number of counted calls of each pattern.
pub const CALLS: usize = 1000;
/// The largest number of admitted calls of a pattern that may fail. The same limit applies to refused calls
/// that would have succeeded.
pub const WRONG_MAX: usize = CALLS * 2 / 100;

const MS: Nanos = Nanos::from_ms(1);
const SECOND: Nanos = Nanos::SECOND;
const SPREAD_PERCENT: u8 = 5;
/// The pause after the first call of a pattern. The platform measures that call before the other calls
/// arrive.
const ALONE: Nanos = Nanos::from_s(10);
const SEED: u64 = 11;

pub struct Pattern {
    /// The name, which is a part of file names.
    pub name: &'static str,
    pub about: &'static str,
    /// The function's fields, not wrapped in a Kubernetes object.
    pub function: Value,
    pub setup: Setup,
}

/// When calls arrive, how long each of them runs, and how long its caller waits.
struct Shape {
    arrivals: Vec<Nanos>,
    /// The number of uncounted calls after the pattern's first call, which is not counted either.
    before: usize,
    service: Nanos,
    patience_ms: u32,
}

impl Shape {
    fn calls(&self) -> Vec<TraceCall> {
        let mut dice = SmallRng::seed_from_u64(SEED);
        let about = VaryingTime {
            time: self.service,
            spread_percent: SPREAD_PERCENT,
        };
        let times = self.arrivals.iter().map(|at| ALONE + *at);
        let calls = std::iter::once(Nanos::ZERO)
            .chain(times)
            .map(|at| TraceCall {
                at,
                service: about.draw(&mut dice),
                timeout_ms: Some(self.patience_ms),
                class: Class::Sync,
            });
        calls.collect()
    }
}

fn pattern(
    name: &'static str,
    about: &'static str,
    fields: &Value,
    shape: &Shape,
    start: Option<Nanos>,
) -> Pattern {
    let mut function = json!({"name": name, "queueSize": 10_000});
    let all = function.as_object_mut().expect("an object");
    all.extend(fields.as_object().expect("an object").clone());
    let draft: FunctionDraft =
        serde_json::from_value(function.clone()).expect("a draft is an object");
    let spec = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, Platform::Local);
    let setup = Setup {
        spec: spec.expect("a function of ours"),
        calls: shape.calls(),
        before: 1 + shape.before,
        start: start.map(|time| VaryingTime {
            time,
            spread_percent: SPREAD_PERCENT,
        }),
    };
    Pattern {
        name,
        about,
        function,
        setup,
    }
}

/// Draws random arrival times. On average `a_second` calls arrive in a second.
fn poisson(calls: usize, a_second: f64) -> Vec<Nanos> {
    let mut dice = SmallRng::seed_from_u64(SEED);
    let gap_s = Exp::new(a_second).expect("a rate above 0");
    let mut at_s = 0.0;
    let next = |_| {
        at_s += gap_s.sample(&mut dice);
        Nanos::from_ns((at_s * 1e9) as u64)
    };
    (0..calls).map(next).collect()
}

fn bursts(calls: usize, of: usize, every: Nanos) -> Vec<Nanos> {
    let at = |number: usize| (number / of) as u64 * every + Nanos::from_ns((number % of) as u64);
    (0..calls).map(at).collect()
}

fn slots(concurrency: u32) -> Value {
    json!({
        "executionMode": "POOL", "endpointUrl": "http://127.0.0.1:9/", "concurrency": concurrency,
    })
}

/// Returns the fields of a function with up to ten pods, each for one call at a time. All pods but the first
/// stop after a second without a call.
fn pods() -> Value {
    json!({
        "executionMode": "WARM", "command": ["run"], "concurrency": 10,
        "scalingConfig": {"minReplicas": 1, "maxReplicas": 10, "idleTimeoutMs": 1000},
    })
}

pub fn patterns() -> [Pattern; 6] {
    let fast = |arrivals| Shape {
        arrivals,
        before: 0,
        service: 50 * MS,
        patience_ms: 520,
    };
    let even = (0..CALLS as u64).map(|number| number * 10 * MS).collect();
    let slow_start = Shape {
        service: 200 * MS,
        patience_ms: 5000,
        ..fast(poisson(CALLS, 60.0))
    };
    let missing = Shape {
        service: 500 * MS,
        patience_ms: 3000,
        before: 60,
        ..fast(bursts(CALLS + 60, 60, 6 * SECOND))
    };
    [
        pattern(
            "bursts",
            "bursts of 60 a second, 4 slots",
            &slots(4),
            &fast(bursts(CALLS, 60, SECOND)),
            None,
        ),
        pattern(
            "even",
            "evenly, 100 a second, 4 slots (they serve 80)",
            &slots(4),
            &fast(even),
            None,
        ),
        pattern(
            "poisson",
            "at random, 100 a second, 4 slots",
            &slots(4),
            &fast(poisson(CALLS, 100.0)),
            None,
        ),
        pattern(
            "slow-start",
            "at random, 60 a second, of 200 ms with 5 s; one pod is up, nine more start in 2 s",
            &pods(),
            &slow_start,
            Some(2 * SECOND),
        ),
        pattern(
            "pods-missing",
            "bursts of 60 every 6 s, of 500 ms with 3 s; one pod is up, nine more never come",
            &pods(),
            &missing,
            None,
        ),
        pattern(
            "one-slot",
            "at random, 25 a second, one slot (it serves 20)",
            &slots(1),
            &fast(poisson(CALLS, 25.0)),
            None,
        ),
    ]
}
