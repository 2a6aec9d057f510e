//! A new control plane takes over the functions and the pods of the plane before it, and the pods must not
//! change. If two planes run at the same time, only one of them acts.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nanofaas_testkit::client::Request;
use serde_json::{Value, json};

use crate::cluster::{NAMESPACE, function, jobs_of, kubectl, staying, until, wait};
use crate::load::Load;
use crate::node;
use crate::outside::Outside;
use crate::plane::{self, ROLLOUT, RunningPlane, output, plane, service, spec, was_cold};

const STEP: Duration = Duration::from_secs(60);

/// Returns the fields of a function's pods that a restart or a replacement would change.
fn pods(function: &str) -> BTreeSet<(String, String, String, String)> {
    let pods = staying(function).into_iter();
    pods.map(|pod| {
        let status = &pod.object["status"]["containerStatuses"][0];
        let container = format!("{} {}", status["containerID"], status["restartCount"]);
        (pod.name, pod.uid, pod.started, container)
    })
    .collect()
}

fn begin(plane: &RunningPlane) -> BTreeSet<(String, String, String, String)> {
    let scaling = json!({"minReplicas": 2, "maxReplicas": 2});
    plane.register(&spec("kept", "WARM", json!({"scalingConfig": scaling})));
    plane.register(&spec("kept-job", "JOB", json!({"timeoutMs": 123_450})));
    output(plane.invoke("kept", &json!({"do": "echo", "value": 1})));
    plane.wait_for_pods("kept", 2, STEP);
    // The pods may serve calls before the cluster shows that they are ready.
    until("the cluster shows that they run", STEP, || {
        staying("kept").iter().all(|pod| pod.ready)
    });
    pods("kept")
}

fn functions(plane: &RunningPlane) -> Value {
    plane.get("/v1/functions").expect(200).json()
}

/// Returns whether the plane at this address is ready. No process may listen there yet; the result is then
/// false.
fn is_ready(management: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let patience = Duration::from_secs(1);
        let mut stream = TcpStream::connect_timeout(&management, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let head = String::from_utf8_lossy(&answer).into_owned();
        Ok(head.split(' ').nth(1) == Some("200"))
    };
    ask().unwrap_or(false)
}

/// Waits until the plane's successor, in another pod, reports that it is ready.
#[track_caller]
fn successor(of: &RunningPlane) -> RunningPlane {
    wait("a successor is ready", ROLLOUT, || {
        let mut pods = plane::planes();
        pods.retain(|pod| pod.uid != of.uid && !pod.leaving);
        let pod = pods.first()?;
        let at = |port| Some(SocketAddr::new(pod.address.parse().ok()?, port));
        is_ready(at(8081)?).then_some(())?;
        Some(RunningPlane {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            api: at(8080)?,
            management: at(8081)?,
            internal: at(8082)?,
        })
    })
}

/// Checks that the next call is warm and that the pods are the same.
#[track_caller]
fn takes_over(plane: &RunningPlane, before: &BTreeSet<(String, String, String, String)>) {
    let answer = plane.invoke("kept", &json!({"do": "echo", "value": 2}));
    assert!(!was_cold(&answer), "{:?}", answer.headers);
    assert_eq!(output(answer)["echo"], 2);
    assert_eq!(&pods("kept"), before, "the pods were touched");
    let job = plane.invoke("kept-job", &json!({"do": "echo", "value": 3}));
    assert_eq!(output(job)["echo"], 3);
    plane.expect_no_drift();
}

pub(crate) fn a_deleted_planes_successor_keeps_the_pods() {
    let first = plane();
    let before = begin(&first);
    let known = functions(&first);
    let load = Load::start(service(), 8, "kept", &json!({"do": "sleep", "ms": 20}));
    load.go_on(100, STEP);
    kubectl(&["-n", NAMESPACE, "delete", "pod", &first.pod, "--wait=false"]);
    let second = successor(&first);
    takes_over(&second, &before);
    assert_eq!(functions(&second), known);
    // The clients of the load reach the successor at the Service's address.
    load.go_on(100, STEP);
    let report = load.end();
    let is_told = |what: &String| what.starts_with("503 SHUT");
    assert!(report.bad.keys().all(is_told), "{report:#?}");
    assert_eq!(pods("kept"), before, "the pods were touched later");
}

pub(crate) fn a_killed_plane_returns_to_its_pods() {
    node::needs_this_machine();
    let first = plane();
    let before = begin(&first);
    let known = functions(&first);
    let load = Load::start(first.api, 8, "kept", &json!({"do": "sleep", "ms": 20}));
    load.go_on(100, STEP);
    // The plane that started this call's Job is killed, and no other plane accepts the Job's result.
    let lost = first.enqueue("kept-job", &json!({"do": "sleep", "ms": 120_000}));
    until("the call's Job exists", STEP, || {
        !jobs_of("kept-job").is_empty()
    });
    let killed = node::kill_all(&node::processes("POD_UID", &first.uid));
    assert_eq!(killed, 1, "the plane is one process");
    // The restarted plane is in the same pod and has the same address.
    until("the plane is ready again", ROLLOUT, || {
        is_ready(first.management)
    });
    takes_over(&first, &before);
    assert_eq!(functions(&first), known);
    load.go_on(100, STEP);
    let report = load.end();
    // A plane that has not listed its functions yet must answer 503, and not 404.
    let is_told = |what: &String| what.starts_with("503 ");
    assert!(report.bad.keys().all(is_told), "{report:#?}");
    assert_eq!(pods("kept"), before, "the pods were touched later");
    first
        .get(&format!("/v1/executions/{lost}"))
        .expect_error(404, "EXECUTION_NOT_FOUND");
    until("the dead plane's Job is gone", STEP, || {
        jobs_of("kept-job").is_empty() && staying("kept-job").is_empty()
    });
}

/// A server with one thread: while it handles a request, it answers no other request.
const SINGLE: &str = r#"
import http.server, json, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(body["input"]["ms"] / 1000)
        self.reply({"pod": os.environ["NANOFAAS_POD"]})
    def reply(self, value):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"#;

pub(crate) fn a_pod_with_a_predecessors_call_is_kept() {
    node::needs_this_machine();
    let first = plane();
    let fields = json!({
        "command": ["python3", "-c", SINGLE], "timeoutMs": 60000,
        "scalingConfig": {"minReplicas": 1, "maxReplicas": 2},
    });
    first.register(&spec("single", "WARM", fields));
    let pod = output(first.invoke("single", &json!({"ms": 0})))["pod"].clone();
    let pod = pod.as_str().expect("its name").to_owned();
    let id = first.enqueue("single", &json!({"ms": 30_000}));
    until("the pod works", STEP, || {
        first.status(&id)["status"] == "running"
    });
    let begun = Instant::now();
    let killed = node::kill_all(&node::processes("POD_UID", &first.uid));
    assert_eq!(killed, 1, "the plane is one process");
    until("the plane is ready again", ROLLOUT, || {
        is_ready(first.management)
    });
    let is_there = || staying("single").iter().any(|one| one.name == pod);
    until("another pod serves in its place", STEP, || {
        assert!(is_there(), "it was deleted while it worked");
        first.invoke("single", &json!({"ms": 0})).status == 200
    });
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(28),
        "it may have been done: {took:?}"
    );
    // The old pod answers the call of the killed plane and is usable again.
    first.wait_for_pods("single", 2, STEP);
    assert!(is_there());
}

pub(crate) fn only_one_of_two_planes_acts() {
    let first = plane();
    let before = begin(&first);
    let second = Outside::start(NAMESPACE, first.api, &[]);
    for _ in 0..10 {
        assert_eq!(second.health("/healthz"), 200, "it lives");
        assert_eq!(second.health("/readyz"), 503, "it is not ready");
        std::thread::sleep(Duration::from_millis(500));
    }
    let other = spec("other", "WARM", json!({}));
    let register = Request::new("POST", "/v1/functions").json(&other);
    let refused = second.plane.send(&register);
    refused.expect_error(503, "REGISTRY_UNAVAILABLE");
    assert!(function("other").is_none());
    assert_eq!(pods("kept"), before, "the second one did something");
    output(first.invoke("kept", &json!({"do": "echo", "value": 1})));
    // When the first plane ends, the second plane takes over. Later a third plane takes over from the second.
    plane::scale(0);
    second.wait_until_ready();
    let answer = second
        .plane
        .invoke("kept", &json!({"do": "echo", "value": 2}));
    assert!(!was_cold(&answer), "{:?}", answer.headers);
    assert_eq!(output(answer)["echo"], 2);
    assert_eq!(pods("kept"), before, "the pods were touched");
    plane::scale(1);
    second.end();
    let third = plane();
    takes_over(&third, &before);
}
