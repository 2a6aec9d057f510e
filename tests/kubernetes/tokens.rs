//! These tests check that a Job's pod can report only the end of its own attempt, and only one time.

use std::net::SocketAddr;
use std::time::Duration;

use nanofaas_testkit::client::{Answer, Request};
use serde_json::{Value, json};

use crate::cluster::{ListedPod, pods, wait};
use crate::node;
use crate::plane::{RunningPlane, plane, spec};

const START: Duration = Duration::from_secs(60);

/// A running attempt, with the token that its pod got.
struct RunningAttempt {
    pod: ListedPod,
    id: String,
    token: String,
}

impl RunningAttempt {
    /// Waits until the pod of an execution's attempt runs.
    fn of(id: &str, number: &str) -> Self {
        let pod = wait("the attempt's pod runs", START, || {
            let pods = pods(&format!("nanofaas.io/execution={id}"));
            pods.into_iter().find(|pod| {
                let runs = pod.object["status"]["phase"] == "Running";
                runs && pod.env("DISPATCH_ATTEMPT") == Some(number)
            })
        });
        let url = pod.env("CALLBACK_URL").expect("an address").to_owned();
        let token = url.split('/').rev().nth(1).expect("a token").to_owned();
        Self {
            pod,
            id: id.to_owned(),
            token,
        }
    }
}

fn complete(to: SocketAddr, token: &str, id: &str, output: &Value) -> Answer {
    let path = format!("/v1/internal/{token}/executions/{id}:complete");
    let body = json!({"success": true, "output": output, "error": null});
    Request::new("POST", &path).json(&body).send(to)
}

/// Enqueues a call that sleeps, and returns its execution id.
fn sleeper(plane: &RunningPlane) -> String {
    plane.enqueue("sleeper", &json!({"do": "sleep", "ms": 50_000}))
}

pub(crate) fn its_own_token_completes_an_attempt_once() {
    let plane = plane();
    plane.register(&spec("sleeper", "JOB", json!({"timeoutMs": 60000})));
    let (one, other) = (sleeper(&plane), sleeper(&plane));
    let (one, other) = (
        RunningAttempt::of(&one, "1"),
        RunningAttempt::of(&other, "1"),
    );
    let port: SocketAddr = {
        let url = one.pod.env("CALLBACK_URL").expect("an address");
        let rest = url.strip_prefix("http://").expect("http");
        let host = rest.split('/').next().expect("a host");
        host.parse().expect("an address")
    };
    assert_eq!(port, plane.internal, "pods call the internal port");
    let last = if one.token.ends_with('0') { '1' } else { '0' };
    let mut wrong = one.token.clone();
    wrong.pop();
    wrong.push(last);
    let forged = json!("forged");
    complete(port, &wrong, &one.id, &forged).expect(403);
    complete(port, "1.0", &one.id, &forged).expect(403);
    complete(port, &other.token, &one.id, &forged).expect(403);
    let second = format!("2{}", one.token.trim_start_matches('1'));
    complete(port, &second, &one.id, &forged).expect(403);
    assert_eq!(plane.status(&one.id)["status"], "running");
    complete(port, &one.token, &one.id, &json!("true")).expect(204);
    let ended = plane.ended(&one.id);
    assert_eq!(
        (&ended["status"], &ended["output"]),
        (&json!("success"), &json!("true"))
    );
    complete(port, &one.token, &one.id, &forged).expect(409);
    assert_eq!(plane.status(&one.id)["output"], "true");
    assert_eq!(plane.status(&other.id)["status"], "running");
    // The ports for clients do not accept a result.
    complete(plane.api, &other.token, &other.id, &forged).expect(404);
    plane
        .send(&Request::delete(&format!("/v1/executions/{}", other.id)))
        .expect(202);
    plane.expect_no_drift();
}

pub(crate) fn an_older_attempt_cannot_complete() {
    node::needs_this_machine();
    let plane = plane();
    plane.register(&spec(
        "sleeper",
        "JOB",
        json!({"timeoutMs": 60000, "retryOn": ["POD"]}),
    ));
    let id = sleeper(&plane);
    let first = RunningAttempt::of(&id, "1");
    let killed = node::kill_all(&node::processes("EXECUTION_ID", &id));
    assert!(killed > 0, "the attempt has no process on this machine");
    let second = RunningAttempt::of(&id, "2");
    assert_ne!(first.pod.name, second.pod.name);
    complete(plane.internal, &first.token, &id, &json!("late")).expect(409);
    let status = plane.status(&id);
    assert_eq!(
        (&status["status"], &status["attempt"]),
        (&json!("running"), &json!(2))
    );
    complete(plane.internal, &second.token, &id, &json!("done")).expect(204);
    let ended = plane.ended(&id);
    assert_eq!(
        (&ended["output"], &ended["attempt"]),
        (&json!("done"), &json!(2))
    );
}
