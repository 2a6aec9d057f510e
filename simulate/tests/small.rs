//! Tests with traces that are small enough to be computed by hand, in several execution modes, and a test
//! that a run is reproducible.

use nanofaas_core::spec::{Defaults, FunctionDraft, FunctionSpec, Platform};
use nanofaas_core::time::Nanos;
use nanofaas_simulate::{
    NotComputed, Percentiles, Setup, SimulationReport, VaryingTime, figure, patterns, read,
    simulate,
};
use serde_json::{Value, json};

const MS: Nanos = Nanos::from_ms(1);

fn spec(fields: &Value) -> FunctionSpec {
    let mut function = json!({"name": "f", "command": ["run"]});
    let all = function.as_object_mut().expect("an object");
    all.extend(fields.as_object().expect("an object").clone());
    let draft: FunctionDraft = serde_json::from_value(function).expect("an object");
    FunctionSpec::resolve(&draft, &Defaults::DEFAULT, Platform::Local).expect("a function")
}

fn play(fields: &Value, start_ms: Option<u64>, trace: &str) -> SimulationReport {
    simulate(&Setup {
        spec: spec(fields),
        calls: read(trace.as_bytes(), None).expect("a trace"),
        before: 0,
        start: start_ms.map(|ms| VaryingTime::exactly(ms * MS)),
    })
}

fn one_slot() -> Value {
    json!({"executionMode": "POOL", "endpointUrl": "http://127.0.0.1:9/", "concurrency": 1})
}

/// The second call waits 90 ms, and the third one 180 ms.
#[test]
fn three_calls_at_one_slot() {
    let report = play(
        &one_slot(),
        None,
        "at_ms,service_ms\n0,100\n10,100\n20,100\n",
    );
    let summary = &report.summary;
    assert_eq!(
        (summary.calls, summary.made_it, summary.refused()),
        (3, 3, 0)
    );
    assert_eq!(summary.made_it_with_perfect_knowledge, Ok(3));
    let percentiles = |p50, p90, p99, max| Percentiles {
        p50: Some(p50),
        p90: Some(p90),
        p99: Some(p99),
        max: Some(max),
    };
    assert_eq!(summary.wait_ms, percentiles(90.0, 180.0, 180.0, 180.0));
    assert_eq!(summary.total_ms, percentiles(190.0, 280.0, 280.0, 280.0));
    assert_eq!(summary.duration_ms, 300.0);
    assert_eq!(summary.slot_utilisation, Some(1.0));
    assert_eq!(
        (summary.starts, summary.pods_max, summary.pod_seconds),
        (0, 0, 0.0)
    );
    let most = report.over_time.iter().map(|slice| slice.waiting).max();
    assert_eq!(most, Some(2));
}

/// The first call is measured. Of the four calls that arrive while another one runs, the first two have
/// enough time and are admitted.
#[test]
fn a_hopeless_call_is_refused_by_prediction() {
    let trace = "at_ms,service_ms,timeout_ms\n0,100,\n200,100,\n210,100,350\n220,100,350\n\
                 230,100,350\n240,100,300\n";
    let summary = play(&one_slot(), None, trace).summary;
    assert_eq!((summary.made_it, summary.refused_est_wait), (4, 2));
    assert_eq!(
        (
            summary.let_in_and_failed(),
            summary.made_it_with_perfect_knowledge
        ),
        (0, Ok(4))
    );
}

/// Admission predicts nothing before a call is measured. The second call times out in the queue, and the
/// third one is interrupted.
#[test]
fn deadlines_pass_where_nothing_was_measured() {
    let trace = "at_ms,service_ms,timeout_ms\n0,100,\n10,100,50\n20,100,100\n";
    let summary = play(&one_slot(), None, trace).summary;
    assert_eq!(
        (summary.timed_out_queued, summary.timed_out_running),
        (1, 1)
    );
    assert_eq!(summary.made_it_with_perfect_knowledge, Ok(1));
    // The last call is interrupted 120 ms after the first one arrived.
    assert_eq!(
        (summary.duration_ms, summary.slot_utilisation),
        (120.0, Some(1.0))
    );
}

/// The second call cannot succeed. If it is admitted, it holds the slot that the third call needs.
#[test]
fn perfect_knowledge_keeps_the_slot_for_success() {
    let trace = "at_ms,service_ms,timeout_ms\n0,100,\n10,100,150\n20,100,200\n";
    let summary = play(&one_slot(), None, trace).summary;
    assert_eq!((summary.made_it, summary.timed_out_running), (1, 2));
    assert_eq!(summary.made_it_with_perfect_knowledge, Ok(2));
}

#[test]
fn a_full_queue_refuses_by_depth() {
    let mut fields = one_slot();
    fields["queueSize"] = json!(1);
    let summary = play(&fields, None, "at_ms,service_ms\n0,10\n1,10\n2,10\n").summary;
    assert_eq!((summary.made_it, summary.refused_depth), (2, 1));
}

/// The `minReplicas` pod serves the first call. The second call needs another pod, whose start takes 50 ms.
#[test]
fn warm_pods_are_started_for_what_waits() {
    let fields = json!({
        "executionMode": "WARM", "concurrency": 2,
        "scalingConfig": {"minReplicas": 1, "maxReplicas": 2, "idleTimeoutMs": 600_000},
    });
    let trace = "at_ms,service_ms\n0,1000\n10,1000\n";
    let summary = play(&fields, Some(50), trace).summary;
    assert_eq!(
        (summary.made_it, summary.starts, summary.pods_max),
        (2, 1, 2)
    );
    assert_eq!(summary.wait_ms.max, Some(50.0));
    // One pod lives for 1.06 s. The other one lives from 10 ms on, so for 1.05 s.
    assert!(
        (summary.pod_seconds - (1.06 + 1.05)).abs() < 1e-9,
        "{}",
        summary.pod_seconds
    );
    // If the other pod never comes up, the first pod serves both calls.
    let alone = play(&fields, None, trace).summary;
    assert_eq!((alone.made_it, alone.wait_ms.max), (2, Some(990.0)));
}

/// Each call holds one of two slots while its Job starts and while it runs.
#[test]
fn a_job_is_started_for_each_call() {
    let fields = json!({"executionMode": "JOB", "concurrency": 2});
    let trace = "at_ms,service_ms,timeout_ms\n0,100,\n0,100,\n0,100,\n10,100,250\n";
    let summary = play(&fields, Some(50), trace).summary;
    assert_eq!((summary.starts, summary.pods_max), (4, 2));
    // The third call begins at 150 ms and ends at 300 ms. The fourth one is interrupted while it runs.
    assert_eq!((summary.made_it, summary.timed_out_running), (3, 1));
    assert_eq!(summary.total_ms.max, Some(300.0));
    assert_eq!(summary.made_it_with_perfect_knowledge, Ok(3));
    // This call is interrupted before its container runs.
    let late = play(&fields, Some(50), "at_ms,service_ms,timeout_ms\n0,5,20\n").summary;
    assert_eq!(late.timed_out_starting, 1);
}

#[test]
fn async_calls_wait_for_sync_ones() {
    let trace = "at_ms,service_ms,class\n0,100,\n1,100,async\n2,100,sync\n";
    let summary = play(&one_slot(), None, trace).summary;
    assert_eq!((summary.made_it, summary.wait_ms.max), (3, Some(199.0)));
    let mut impatient = one_slot();
    impatient["timeoutMs"] = json!(50);
    let summary = play(&impatient, None, "at_ms,service_ms,class\n0,100,async\n").summary;
    assert_eq!(summary.timed_out_running, 1);
}

/// Each start fails after 120 s. The sync call's deadline of 5 minutes passes during the third start. The
/// async call ends with the third failure.
#[test]
fn calls_end_where_no_pod_comes_up() {
    let fields = json!({
        "executionMode": "WARM", "timeoutMs": 300_000,
        "scalingConfig": {"minReplicas": 0, "maxReplicas": 1},
    });
    let trace = "at_ms,service_ms,class\n0,10,sync\n0,10,async\n";
    let summary = play(&fields, None, trace).summary;
    assert_eq!(
        (summary.timed_out_starting, summary.failed_cold_start),
        (1, 1)
    );
    assert_eq!(summary.starts, 3);
    // The duration is that of three starts of 120 s, and of the pauses of 100 and 200 ms between them.
    assert_eq!(summary.duration_ms, 360_300.0);
}

/// The pod of the first call comes up after 2 s. Both calls arrive earlier and are admitted.
#[test]
fn a_function_without_pods_gets_its_first() {
    let fields = json!({
        "executionMode": "WARM", "concurrency": 1, "scalingConfig": {"minReplicas": 0},
    });
    let summary = play(&fields, Some(2000), "at_ms,service_ms\n0,10\n100,10\n").summary;
    assert_eq!((summary.made_it, summary.starts), (2, 1));
    assert_eq!(summary.made_it_with_perfect_knowledge, Ok(2));
    assert_eq!(summary.wait_ms.max, Some(2000.0));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let [_, _, _, slow_start, ..] = patterns::patterns();
    let run = || {
        let report = simulate(&slow_start.setup);
        (
            serde_json::to_string(&report).expect("JSON"),
            figure(&report).svg(),
        )
    };
    assert_eq!(run(), run());
}

/// The platform stops the start of a Job after 120 s. With perfect knowledge the call is not admitted.
#[test]
fn a_job_that_starts_too_long_fails() {
    let fields = json!({"executionMode": "JOB", "image": "i:1", "timeoutMs": 300_000});
    let trace = "at_ms,service_ms\n0,5\n";
    let summary = play(&fields, Some(200_000), trace).summary;
    assert_eq!((summary.made_it, summary.failed_cold_start), (0, 1));
    assert_eq!(summary.duration_ms, 120_000.0);
    assert_eq!(summary.made_it_with_perfect_knowledge, Ok(0));
    let soon = play(&fields, Some(119_999), trace).summary;
    assert_eq!(
        (soon.made_it, soon.made_it_with_perfect_knowledge),
        (1, Ok(1))
    );
    // The call's deadline passes before the start fails.
    let cut_off = "at_ms,service_ms,timeout_ms\n0,5,119000\n";
    let late = play(&fields, Some(200_000), cut_off).summary;
    assert_eq!(late.timed_out_starting, 1);
}

/// For async calls, perfect knowledge would be a guess that may be worse than the product's admission.
#[test]
fn perfect_knowledge_is_of_sync_calls_only() {
    let trace = "at_ms,service_ms,class\n0,100,\n1,100,async\n";
    let report = play(&one_slot(), None, trace);
    let perfect = report.summary.made_it_with_perfect_knowledge;
    assert_eq!(perfect, Err(NotComputed::AsyncCalls));
    let json = serde_json::to_value(&report).expect("JSON");
    assert!(json["summary"]["madeItWithPerfectKnowledge"].is_null());
    assert!(
        figure(&report)
            .svg()
            .contains("perfect knowledge is not computed with async calls")
    );
}
