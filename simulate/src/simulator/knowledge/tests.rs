//! Tests that a kept plan equals a new one at each arrival, and that the work of planning is
//! bounded.

use nanofaas_core::spec::{Defaults, FunctionDraft, FunctionSpec, Platform};
use nanofaas_core::ticket::Class;
use nanofaas_core::time::{Nanos, Uptime};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::*;
use crate::simulator::Admission;
use crate::{Setup, TraceCall, VaryingTime, patterns};

const MS: Nanos = Nanos::from_ms(1);

impl Simulator<'_> {
    /// Compares a kept plan with a new one; all slots must be free at the same times.
    pub(super) fn assert_as_new(&self, kept: &PerfectPlan) {
        let new = self.new_plan();
        let free = |plan: &PerfectPlan| {
            let free = plan.free.iter().map(|Reverse(at)| self.now.max(*at));
            let mut free: Vec<Uptime> = free.collect();
            free.sort_unstable();
            free
        };
        assert_eq!(free(kept), free(&new), "a plan was kept that does not hold");
        assert_eq!(kept.unordered, new.unordered);
    }
}

fn setup(fields: &Value, seed: u64, start: Option<VaryingTime>) -> Setup {
    let mut function = json!({"name": "f", "command": ["run"], "queueSize": 100});
    let all = function.as_object_mut().expect("an object");
    all.extend(fields.as_object().expect("an object").clone());
    let draft: FunctionDraft = serde_json::from_value(function).expect("an object");
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut at = Nanos::ZERO;
    let below = |dice: &mut SmallRng, ms: u64| Nanos::from_ns(dice.random_range(0..ms * 1_000_000));
    let calls = (0..1500).map(|_| {
        at += below(&mut dice, 20);
        // A few pauses are longer than the time for which idle pods are kept.
        if dice.random_range(0..300) == 0 {
            at += 5000 * MS;
        }
        TraceCall {
            at,
            service: below(&mut dice, 120),
            timeout_ms: Some(dice.random_range(1..800)),
            class: Class::Sync,
        }
    });
    Setup {
        calls: calls.collect(),
        spec: FunctionSpec::resolve(&draft, &Defaults::DEFAULT, Platform::Local).expect("sound"),
        before: 0,
        start,
    }
}

/// Simulates the trace and compares each kept plan with a new one. Returns the steps of planning.
fn steps(setup: &Setup) -> u64 {
    let mut simulator = Simulator::new(setup, Admission::Knows);
    simulator.play().expect("little work");
    simulator.knowledge.steps
}

#[test]
fn a_kept_plan_equals_a_new_one() {
    for pattern in patterns::patterns() {
        steps(&pattern.setup);
    }
    let pods = |floor: u32, most: u32, each: u32| {
        json!({
            "executionMode": "WARM", "concurrency": most * each, "targetInFlightPerPod": each,
            "scalingConfig": {"minReplicas": floor, "maxReplicas": most, "idleTimeoutMs": 1000},
        })
    };
    let about = |ms, spread_percent| VaryingTime {
        time: ms * MS,
        spread_percent,
    };
    for seed in 0..8 {
        for (floor, most, each) in [(0, 1, 1), (0, 4, 2), (1, 8, 1), (2, 3, 4)] {
            let fields = pods(floor, most, each);
            for start in [None, Some(about(50, 0)), Some(about(400, 30))] {
                steps(&setup(&fields, seed, start));
            }
        }
        let jobs = json!({"executionMode": "JOB", "concurrency": 6});
        steps(&setup(&jobs, seed, Some(about(30, 0))));
        steps(&setup(&jobs, seed, Some(about(30, 50))));
    }
}

/// If the number of slots never changes, one plan is enough for any number of waiting calls.
#[test]
fn a_plan_is_made_once_where_nothing_changes() {
    let slots =
        json!({"executionMode": "POOL", "endpointUrl": "http://127.0.0.1:9/", "concurrency": 5});
    assert_eq!(steps(&setup(&slots, 1, None)), 1);
}

/// Each arrival needs a new plan here, because the time of a Job's start is known only when the call begins.
#[test]
fn planning_ends_when_it_is_too_much_work() {
    let jobs = json!({"executionMode": "JOB", "concurrency": 6});
    let start = VaryingTime {
        time: 30 * MS,
        spread_percent: 50,
    };
    let setup = setup(&jobs, 1, Some(start));
    let mut simulator = Simulator::new(&setup, Admission::Knows);
    simulator.knowledge.steps = STEPS_MAX - 1000;
    assert!(simulator.play().is_none());
}
