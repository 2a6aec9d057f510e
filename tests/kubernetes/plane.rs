//! Installs the platform from `k8s/` with kubectl. Tests call the platform at its pod's address or at its
//! Service, and its functions are removed between two tests. This module never changes the manifests.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use nanofaas_testkit::client::{Answer, Request};
use nanofaas_testkit::metrics::ScrapedMetrics;
use serde_json::{Value, json};

use crate::cluster::{self, ListedPod, NAMESPACE, kubectl, list, pods, try_wait, until, wait};

const SELECTOR: &str = "app.kubernetes.io/component=control-plane";
/// The time that a step with a rollout may take.
pub(crate) const ROLLOUT: Duration = Duration::from_secs(90);

fn manifests() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s");
    format!("{}/", folder.display())
}

/// Removes an existing installation, and then installs the platform.
pub(crate) fn install() {
    uninstall();
    kubectl(&["apply", "-k", &manifests()]);
    plane();
}

/// Removes the platform and everything that it created.
pub(crate) fn uninstall() {
    kubectl(&[
        "delete",
        "-k",
        &manifests(),
        "--ignore-not-found",
        "--timeout=120s",
    ]);
}

/// A control plane that runs, with its addresses.
#[derive(Clone, Debug)]
pub(crate) struct RunningPlane {
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) api: SocketAddr,
    pub(crate) management: SocketAddr,
    pub(crate) internal: SocketAddr,
}

fn at(pod: &ListedPod, port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::new(pod.address.parse().ok()?, port))
}

/// Waits for the plane that serves now: the only pod of its kind, ready and not being deleted.
#[track_caller]
pub(crate) fn plane() -> RunningPlane {
    wait("one control plane is ready", ROLLOUT, try_plane)
}

fn try_plane() -> Option<RunningPlane> {
    let mut pods = pods(SELECTOR);
    pods.retain(|pod| !pod.leaving);
    let [pod] = pods.as_slice() else { return None };
    if !pod.ready {
        return None;
    }
    Some(RunningPlane {
        api: at(pod, 8080)?,
        management: at(pod, 8081)?,
        internal: at(pod, 8082)?,
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
    })
}

/// Returns the pods of all control planes, in any state.
pub(crate) fn planes() -> Vec<ListedPod> {
    pods(SELECTOR)
}

/// Returns the Service's address, at which clients reach the plane in any pod.
pub(crate) fn service() -> SocketAddr {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/services/nanofaas");
    let service = cluster::object(&path).expect("the Service");
    let address = service["spec"]["clusterIP"].as_str().expect("an address");
    SocketAddr::new(address.parse().expect("an address"), 8080)
}

/// Sets the number of planes in the Deployment.
pub(crate) fn scale(replicas: u32) {
    let replicas = format!("--replicas={replicas}");
    kubectl(&["-n", NAMESPACE, "scale", "deployment/nanofaas", &replicas]);
}

/// Prints the plane's log since `since`.
pub(crate) fn show_log(since: Instant) {
    let since = format!("--since={}s", since.elapsed().as_secs() + 1);
    let args = ["-n", NAMESPACE, "logs", "-l", SELECTOR, "--tail=20", &since];
    let output = cluster::kubectl_with(&args, "");
    println!(
        "the end of the plane's log:\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

fn functions() -> Vec<Value> {
    let path = format!("/apis/nanofaas.io/v1/namespaces/{NAMESPACE}/functions");
    list(&path)
}

/// Removes all functions and waits until none of their pods is left, because each test starts without
/// functions.
pub(crate) fn clean() {
    let begun = Instant::now();
    let all = ["-n", NAMESPACE, "delete", "functions", "--all"];
    cluster::kubectl_with(&all, "");
    let left = || {
        let mut left = pods("app=nanofaas,nanofaas.io/kind");
        // A kubelet of 1.20 may need most of a minute to remove a pod whose container never ran, so a pending
        // pod that is being deleted does not count.
        left.retain(|pod| !pod.leaving || pod.object["status"]["phase"] != "Pending");
        left
    };
    let is_clean = try_wait(Duration::from_secs(60), || {
        (functions().is_empty() && left().is_empty()).then_some(())
    });
    if is_clean.is_none() {
        let names: Vec<_> = left().into_iter().map(|pod| pod.name).collect();
        let seconds = begun.elapsed().as_secs();
        println!("pods are left {seconds} s after their functions went: {names:?}");
    }
    let left = ["-n", NAMESPACE, "delete", "pods", "-l", "nanofaas.io/kind"];
    let now = ["--grace-period=0", "--force"];
    cluster::kubectl_with(&[&left[..], &now[..]].concat(), "");
}

/// Returns the test image, whose function performs the action in its input. The tag is `1` or `2`.
pub(crate) fn image(tag: u32) -> String {
    format!("localhost/nanofaas-test:{tag}")
}

/// Makes a spec with the test image and the fields of `more`, which replace fields of the same name.
pub(crate) fn spec(name: &str, mode: &str, more: Value) -> Value {
    let mut spec = json!({"name": name, "image": image(1), "executionMode": mode});
    let fields = spec.as_object_mut().expect("an object");
    if let Value::Object(more) = more {
        fields.extend(more);
    }
    spec
}

/// Makes the same function as `spec`, as an object for kubectl.
pub(crate) fn manifest(name: &str, mode: &str, more: Value) -> Value {
    let mut spec = spec(name, mode, more);
    spec.as_object_mut().expect("an object").remove("name");
    json!({
        "apiVersion": "nanofaas.io/v1", "kind": "Function",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
    })
}

/// Returns the output of a call that must have succeeded.
#[track_caller]
pub(crate) fn output(answer: Answer) -> Value {
    let body = answer.expect(200).json();
    assert_eq!(body["status"], "success", "{body}");
    body["output"].clone()
}

/// Returns whether the call waited for the start of a pod.
pub(crate) fn was_cold(answer: &Answer) -> bool {
    let timing = answer.header("server-timing").unwrap_or_default();
    timing.split(", ").any(|part| part.starts_with("start;"))
}

impl RunningPlane {
    #[track_caller]
    pub(crate) fn send(&self, request: &Request) -> Answer {
        request.send(self.api)
    }

    /// Waits longer for the answer than the client usually does.
    #[track_caller]
    pub(crate) fn send_and_wait(&self, request: &Request, patience: Duration) -> Answer {
        let mut wire = request.begin(self.api);
        wire.set_patience(patience);
        wire.answer()
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&Request::get(path))
    }

    #[track_caller]
    pub(crate) fn register(&self, spec: &Value) {
        let request = Request::new("POST", "/v1/functions").json(spec);
        self.send(&request).expect(201);
    }

    #[track_caller]
    pub(crate) fn replace(&self, spec: &Value) {
        let path = format!("/v1/functions/{}", spec["name"].as_str().expect("a name"));
        let request = Request::new("PUT", &path).json(spec);
        self.send(&request).expect(200);
    }

    #[track_caller]
    pub(crate) fn scale(&self, function: &str, replicas: u32) -> Answer {
        let path = format!("/v1/functions/{function}/replicas");
        let body = json!({"replicas": replicas});
        self.send(&Request::new("PUT", &path).json(&body))
    }

    #[track_caller]
    pub(crate) fn invoke(&self, function: &str, input: &Value) -> Answer {
        self.send(&Request::invoke(function, input))
    }

    /// Returns the execution's id.
    #[track_caller]
    pub(crate) fn enqueue(&self, function: &str, input: &Value) -> String {
        let request = Request::enqueue(function, input);
        self.send(&request).expect(202).id()
    }

    #[track_caller]
    pub(crate) fn status(&self, id: &str) -> Value {
        self.get(&format!("/v1/executions/{id}")).expect(200).json()
    }

    /// Waits up to a minute for the end of an execution, and returns its status.
    #[track_caller]
    pub(crate) fn ended(&self, id: &str) -> Value {
        let path = format!("/v1/executions/{id}?waitMs=55000");
        let status = self.get(&path).expect(200).json();
        let state = status["status"].as_str().expect("a state");
        assert!(matches!(state, "success" | "error" | "timeout"), "{status}");
        status
    }

    pub(crate) fn metrics(&self) -> ScrapedMetrics {
        let answer = Request::get("/metrics").send(self.management);
        ScrapedMetrics::parse(&answer.expect(200).text())
    }

    /// Waits until the ledger's drift is 0.
    #[track_caller]
    pub(crate) fn expect_no_drift(&self) {
        until("the ledger has no drift", Duration::from_secs(10), || {
            self.metrics().drift() == 0.0
        });
    }

    /// Waits until `count` pods of a function exist and accept calls. The function must have been called
    /// before, because it has no metrics until its first call.
    #[track_caller]
    pub(crate) fn wait_for_pods(&self, function: &str, count: usize, patience: Duration) {
        let what = format!("{function} has {count} ready pods and no other");
        until(&what, patience, || {
            let labels = [("function", function), ("state", "usable")];
            let pods = cluster::staying(function);
            let usable = self.metrics().sum("function_pods", &labels);
            pods.len() == count && usable as usize == count
        });
    }
}
