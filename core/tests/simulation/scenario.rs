//! Makes the scenario of a seed: the specs of its functions, and how their pods, handlers and clients behave.
//! It runs nothing.

use nanofaas_core::spec::FunctionDraft;
use nanofaas_core::time::Nanos;
use serde_json::{Value, json};

use crate::rng::SimulationRng;

pub(crate) const MS: Nanos = Nanos::from_ms(1);
pub(crate) const SECOND: Nanos = Nanos::SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartBehaviour {
    Good,
    /// Half of the starts fail.
    Flaky,
    Broken {
        permanent: bool,
    },
    /// Pods come up and end within a millisecond.
    CrashLoop,
}

/// How the pods, handlers and clients of a function behave, independent of its spec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nature {
    pub(crate) starts: StartBehaviour,
    pub(crate) start_max: Nanos,
    pub(crate) service_max: Nanos,
    /// The faults of attempts, per mille: handler error, lost, refused (two shares), never answered.
    pub(crate) faults: [u64; 5],
    /// The async calls, per mille of the calls.
    pub(crate) async_share: u64,
    /// The calls whose client leaves or cancels, per mille.
    pub(crate) fickle: u64,
    /// The pods that die or are drained without an order, per mille of the pods that come up.
    pub(crate) mortality: u64,
}

impl Nature {
    pub(crate) fn random(rng: &mut SimulationRng) -> Self {
        let starts = match rng.below(20) {
            0..10 => StartBehaviour::Good,
            10..14 => StartBehaviour::Flaky,
            14 => StartBehaviour::Broken { permanent: true },
            15 => StartBehaviour::Broken { permanent: false },
            _ => StartBehaviour::CrashLoop,
        };
        let calm = rng.chance(300);
        let mut fault = |most| if calm { 0 } else { rng.within(0, most) };
        let faults = [fault(200), fault(150), fault(100), fault(80), fault(60)];
        let (fickle, mortality) = (fault(300), fault(500));
        Self {
            starts,
            start_max: rng.pick(&[MS, 50 * MS, 2 * SECOND]),
            service_max: rng.pick(&[Nanos::from_ns(50_000), 5 * MS, 100 * MS, SECOND]),
            faults,
            async_share: rng.pick(&[0, 100, 500, 900, 1000]),
            fickle,
            mortality,
        }
    }
}

pub(crate) fn draft(rng: &mut SimulationRng, name: &str) -> Box<FunctionDraft> {
    let mode = rng.pick(&["WARM", "WARM", "WARM", "LOCAL", "POOL", "JOB"]);
    let concurrency = rng.pick(&[1, 1, 2, 3, 4, 8, 40]);
    let max = rng.within(1, 6);
    let retry_on = ["POD", "TIMEOUT", "ERROR"];
    let retry_on: Vec<_> = retry_on.iter().filter(|_| rng.chance(500)).collect();
    let mut fields = json!({
        "name": name,
        "executionMode": mode,
        "command": ["run"],
        // This variable changes the shape, so pods of the old shape have to be replaced.
        "env": {"SHAPE": rng.below(3).to_string()},
        "concurrency": concurrency,
        "queueSize": rng.pick(&[1, 3, 10, 50, 200]),
        "timeoutMs": rng.pick(&[20, 200, 1000, 5000]),
        "maxRetries": rng.within(0, 4),
        "retryOn": retry_on,
        "scalingConfig": {
            "minReplicas": rng.within(0, 2).min(max),
            "maxReplicas": max,
            "targetInFlightPerPod": rng.within(1, 4),
            "idleTimeoutMs": rng.pick(&[50, 500, 5000, 600_000]),
        },
    });
    if mode == "POOL" {
        fields["endpointUrl"] = json!("http://127.0.0.1:9/");
    }
    parse(fields)
}

fn parse(fields: Value) -> Box<FunctionDraft> {
    Box::new(serde_json::from_value(fields).expect("a draft is an object"))
}
