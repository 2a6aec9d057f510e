//! These tests check that the plane keeps as many WARM pods as the calls need, and without calls only
//! `minReplicas`. They also check that the plane notices the death of a pod.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{pods_of, staying, until, wait};
use crate::load::Load;
use crate::node;
use crate::plane::{RunningPlane, output, plane, spec, was_cold};

const START: Duration = Duration::from_secs(60);

pub(crate) fn it_scales_from_zero_to_four_and_back() {
    let plane = plane();
    let scaling = json!({"minReplicas": 0, "maxReplicas": 4, "idleTimeoutMs": 3000});
    plane.register(&spec("scales", "WARM", json!({"scalingConfig": scaling})));
    std::thread::sleep(Duration::from_millis(500));
    assert!(pods_of("scales").is_empty(), "no client has called it yet");
    let first = plane.invoke("scales", &json!({"do": "echo", "value": 1}));
    assert!(was_cold(&first), "{:?}", first.headers);
    assert_eq!(output(first)["echo"], 1);
    let mut starts = 0;
    until("a cold start has all its phases", START, || {
        starts += 1;
        has_all_phases(&plane, &format!("phases-{starts}"))
    });
    let second = plane.invoke("scales", &json!({"do": "echo", "value": 2}));
    assert!(!was_cold(&second), "{:?}", second.headers);
    assert_eq!(staying("scales").len(), 1);
    let load = Load::start(plane.api, 8, "scales", &json!({"do": "sleep", "ms": 100}));
    plane.wait_for_pods("scales", 4, START);
    load.go_on(100, START);
    load.end().expect_no_failure();
    plane.scale("scales", 1).expect(200);
    plane.wait_for_pods("scales", 1, START);
    // The pod stays although no client calls it, because `minReplicas` is 1.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(staying("scales").len(), 1);
    plane.scale("scales", 0).expect(200);
    until("the last pod goes", START, || pods_of("scales").is_empty());
    let again = plane.invoke("scales", &json!({"do": "echo", "value": 3}));
    assert!(was_cold(&again), "{:?}", again.headers);
    plane.expect_no_drift();
}

/// Returns whether the first call of a new function shows all phases of its pod's start. If the pod answers a
/// probe before its ready report arrives, the report comes too late and its phases are missing.
fn has_all_phases(plane: &RunningPlane, name: &str) -> bool {
    let scaling = json!({"minReplicas": 0, "maxReplicas": 1});
    plane.register(&spec(name, "WARM", json!({"scalingConfig": scaling})));
    let first = plane.invoke(name, &json!({"do": "echo", "value": 1}));
    let status = plane.status(&first.id());
    assert_eq!(status["coldStart"], true, "{status}");
    let phases = status["startPhases"].as_array().expect("startPhases");
    let has = |name: &&str| phases.iter().any(|phase| phase["name"] == *name);
    assert!(["created", "usable"].iter().all(has), "{status}");
    ["started", "loaded", "ready"].iter().all(has)
}

pub(crate) fn a_dead_pod_is_noticed_at_once() {
    node::needs_this_machine();
    let plane = plane();
    let scaling = json!({"minReplicas": 1, "maxReplicas": 1});
    plane.register(&spec("dies", "WARM", json!({"scalingConfig": scaling})));
    output(plane.invoke("dies", &json!({"do": "echo", "value": 1})));
    let pod = wait("the function has a pod", START, || {
        staying("dies").into_iter().next()
    });
    node::kill_pod(&pod.name);
    let begun = Instant::now();
    let answer = plane.invoke("dies", &json!({"do": "echo", "value": 2}));
    println!(
        "    the next call took {:.2} s",
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(output(answer)["echo"], 2);
    until("the dead pod is removed", START, || {
        pods_of("dies").iter().all(|one| one.name != pod.name)
    });
    plane.wait_for_pods("dies", 1, START);
    plane.expect_no_drift();
}

/// A server without the platform's runtime. It is the first and only process of the container.
const EATER: &str = r#"
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.eaten = [bytearray(b"\xff" * 2**20) for _ in range(500)]
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"#;

pub(crate) fn a_warm_containers_oom_is_not_retried() {
    let plane = plane();
    let fields = json!({
        "command": ["python3", "-c", EATER], "resources": {"memory": "64Mi"},
        "retryOn": ["POD"], "scalingConfig": {"minReplicas": 1, "maxReplicas": 1},
    });
    plane.register(&spec("eater", "WARM", fields));
    let id = plane.enqueue("eater", &json!(1));
    let ended = plane.ended(&id);
    assert_eq!(ended["error"]["code"], "POD_LOST", "{ended}");
    let message = ended["error"]["message"].as_str().expect("a message");
    println!("    {message}");
    assert!(message.contains("OOMKilled"), "{ended}");
    assert_eq!(ended["attempt"], 1, "{ended}");
}
