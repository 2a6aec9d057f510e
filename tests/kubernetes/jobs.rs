//! These tests make JOB calls that succeed, fail in the function, reach their deadline or are cancelled.
//! Afterwards, no Job and no pod of these calls may be left in the cluster.

use std::time::{Duration, Instant};

use nanofaas_testkit::client::Request;
use serde_json::{Value, json};

use crate::cluster::{jobs_of, pods_of, until};
use crate::plane::{RunningPlane, output, plane, spec};

/// The time that a Job and its pod may stay after the call has ended, even with a slow kubelet.
const GONE: Duration = Duration::from_secs(120);
/// The time that fifty pods at once may take on two cores.
const CROWD: Duration = Duration::from_secs(240);

#[track_caller]
fn gone(function: &str) {
    until("the call's Job and pod are gone", GONE, || {
        jobs_of(function).is_empty() && pods_of(function).is_empty()
    });
}

fn register(plane: &RunningPlane, name: &str, more: Value) {
    plane.register(&spec(name, "JOB", more));
}

pub(crate) fn a_jobs_status_shows_how_it_started() {
    let plane = plane();
    register(&plane, "job", json!({}));
    let id = plane.enqueue("job", &json!({"do": "echo", "value": "done"}));
    let ended = plane.ended(&id);
    assert_eq!(ended["status"], "success", "{ended}");
    assert_eq!(ended["output"]["echo"], "done", "{ended}");
    assert_eq!(
        (&ended["attempt"], &ended["coldStart"]),
        (&json!(1), &json!(true)),
        "{ended}"
    );
    let phases = ended["startPhases"].as_array().expect("startPhases");
    let names: Vec<_> = phases
        .iter()
        .filter_map(|phase| phase["name"].as_str())
        .collect();
    // The pod may end before the cluster shows that it runs, so the phase "running" may be missing.
    for name in ["created", "scheduled", "started", "loaded", "ready"] {
        assert!(names.contains(&name), "no {name}: {ended}");
    }
    let times: Vec<_> = phases
        .iter()
        .filter_map(|phase| phase["atMs"].as_f64())
        .collect();
    assert!(times.is_sorted(), "{ended}");
    let starts = plane
        .get("/v1/functions/job/cold-starts")
        .expect(200)
        .json();
    assert_eq!(starts["coldStarts"][0]["failure"], Value::Null, "{starts}");
    // The client of a sync call also gets the Job's output.
    let answer = plane.invoke("job", &json!({"do": "echo", "value": 7}));
    assert_eq!(output(answer)["echo"], 7);
    plane.expect_no_drift();
    gone("job");
}

pub(crate) fn a_handler_error_is_the_functions_own() {
    let plane = plane();
    register(&plane, "fails", json!({}));
    let answer = plane.invoke("fails", &json!({"do": "fail", "why": "no such thing"}));
    let body = answer.expect_failure(500, "error", "HANDLER_ERROR").json();
    let message = body["error"]["message"].as_str().expect("a message");
    assert!(message.contains("no such thing"), "{message}");
    gone("fails");
}

pub(crate) fn a_mebibyte_in_and_a_picture_out() {
    let plane = plane();
    register(&plane, "bodies", json!({}));
    let text = "0123456789".repeat(92_160);
    let sized = output(plane.invoke("bodies", &json!({"do": "size", "text": text})));
    assert_eq!(sized["size"], 921_600, "{sized}");
    let path = "/v1/functions/bodies:invoke";
    let request = Request::new("POST", path).body("application/octet-stream", text);
    let sized = output(plane.send(&request));
    assert_eq!(sized["bytes"], 921_600, "{sized}");
    let picture = plane.invoke("bodies", &json!({"do": "png", "side": 64}));
    let picture = picture.expect(200);
    assert_eq!(picture.header("content-type"), Some("image/png"));
    assert_eq!(picture.header("x-execution-status"), Some("success"));
    assert!(picture.body.starts_with(b"\x89PNG\r\n\x1a\n"));
    assert!(picture.body.ends_with(b"IEND\xaeB`\x82"));
    gone("bodies");
}

pub(crate) fn fifty_parallel_calls_all_succeed() {
    let plane = plane();
    let fields = json!({"concurrency": 50, "timeoutMs": 240_000});
    register(&plane, "crowd", fields);
    let calls: Vec<_> = (0..50)
        .map(|number| {
            let plane = plane.clone();
            std::thread::spawn(move || {
                let request = Request::invoke("crowd", &json!({"do": "echo", "value": number}));
                output(plane.send_and_wait(&request, CROWD))["echo"] == json!(number)
            })
        })
        .collect();
    let right = calls.into_iter().map(|call| call.join().unwrap_or(false));
    let right = right.filter(|right| *right).count();
    assert_eq!(right, 50);
    plane.expect_no_drift();
    until("all Jobs and pods are gone", 4 * GONE, || {
        jobs_of("crowd").is_empty() && pods_of("crowd").is_empty()
    });
}

pub(crate) fn a_deadline_ends_the_call_and_its_job() {
    let plane = plane();
    register(&plane, "slow", json!({"timeoutMs": 5000}));
    let begun = Instant::now();
    let answer = plane.invoke("slow", &json!({"do": "sleep", "ms": 60_000}));
    let body = answer.expect_failure(408, "timeout", "TIMEOUT").json();
    let message = body["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains("running") || message.contains("deadline"),
        "{message}"
    );
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(8),
        "{took:?}"
    );
    gone("slow");
}

pub(crate) fn a_cancelled_calls_job_goes_soon() {
    let plane = plane();
    register(&plane, "long", json!({"timeoutMs": 300_000}));
    let id = plane.enqueue("long", &json!({"do": "sleep", "ms": 200_000}));
    until("the call's pod runs", GONE, || {
        let pods = pods_of("long");
        pods.iter()
            .any(|pod| pod.object["status"]["phase"] == "Running")
    });
    plane
        .send(&Request::delete(&format!("/v1/executions/{id}")))
        .expect(202);
    let ended = plane.ended(&id);
    assert_eq!(ended["error"]["code"], "CANCELLED", "{ended}");
    gone("long");
    // A client that closes its connection also cancels the call.
    let request = Request::invoke("long", &json!({"do": "sleep", "ms": 200_000}));
    let wire = request.begin(plane.api);
    until("the call's pod runs", GONE, || !pods_of("long").is_empty());
    drop(wire);
    gone("long");
    plane.expect_no_drift();
}

pub(crate) fn no_job_and_no_job_pod_is_left() {
    let plane = plane();
    register(&plane, "many", json!({"concurrency": 4}));
    let ids: Vec<_> = (0..8)
        .map(|number| match number % 4 {
            0 => plane.enqueue("many", &json!({"do": "fail", "why": "so"})),
            1 => plane.enqueue("many", &json!({"do": "crash", "words": "bye"})),
            _ => plane.enqueue("many", &json!({"do": "echo", "value": number})),
        })
        .collect();
    for id in &ids {
        plane.ended(id);
    }
    gone("many");
    plane.expect_no_drift();
}
