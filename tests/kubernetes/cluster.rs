//! Reads and changes the cluster as its users do: through `kubectl`, and through the API behind `kubectl
//! proxy`. A request through the proxy costs less than a run of `kubectl`. This module never touches a
//! process of the node.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nanofaas_testkit::client::{Answer, Request};
use serde_json::Value;

pub(crate) const NAMESPACE: &str = "nanofaas";

/// Runs `kubectl` with `input` on its stdin.
pub(crate) fn kubectl_with(args: &[&str], input: &str) -> Output {
    let mut child = Command::new("kubectl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl is there");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).expect("kubectl reads");
    drop(pipe);
    child.wait_with_output().expect("kubectl ends")
}

/// Runs `kubectl`, which must succeed, and returns its output.
#[track_caller]
pub(crate) fn kubectl(args: &[&str]) -> String {
    let output = kubectl_with(args, "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "kubectl {}: {said}",
        args.join(" ")
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `kubectl apply` with an object. The error is the text that `kubectl` wrote to stderr.
pub(crate) fn apply(object: &Value) -> Result<(), String> {
    let output = kubectl_with(&["apply", "-f", "-"], &object.to_string());
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A `kubectl proxy` that ends with this process. A shell starts the proxy, and kills it when the shell's
/// stdin is closed.
struct Proxy {
    shell: Child,
    _pipe: ChildStdin,
    address: SocketAddr,
}

static PROXY: Mutex<Option<Proxy>> = Mutex::new(None);

const PROXY_LINE: &str =
    "exec 3<&0; kubectl proxy --port=0 </dev/null 3<&- & cat <&3 >/dev/null; kill $!";

fn proxy() -> SocketAddr {
    let mut proxy = PROXY.lock().expect("no test ends within");
    proxy.get_or_insert_with(open).address
}

fn open() -> Proxy {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", PROXY_LINE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    let pipe = shell.stdin.take().expect("a pipe");
    let mut line = String::new();
    let mut output = BufReader::new(shell.stdout.take().expect("a pipe"));
    output.read_line(&mut line).expect("a line");
    let address = line.trim().rsplit(' ').next().unwrap_or_default();
    let address = address.parse();
    let address = address.unwrap_or_else(|_| panic!("kubectl proxy says {line:?}"));
    Proxy {
        shell,
        _pipe: pipe,
        address,
    }
}

/// Ends the proxy, if it was started.
pub(crate) fn close() {
    let proxy = PROXY.lock().expect("no test ends within").take();
    if let Some(Proxy {
        mut shell, _pipe, ..
    }) = proxy
    {
        drop(_pipe);
        let _ = shell.wait();
    }
}

#[track_caller]
pub(crate) fn ask(request: &Request) -> Answer {
    request.send(proxy())
}

/// Returns `None` if the object does not exist.
#[track_caller]
pub(crate) fn object(path: &str) -> Option<Value> {
    let answer = ask(&Request::get(path));
    match answer.status {
        404 => None,
        _ => Some(answer.expect(200).json()),
    }
}

#[track_caller]
pub(crate) fn list(path: &str) -> Vec<Value> {
    let mut list = ask(&Request::get(path)).expect(200).json();
    match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

/// Returns `None` if the function does not exist.
pub(crate) fn function(name: &str) -> Option<Value> {
    object(&format!(
        "/apis/nanofaas.io/v1/namespaces/{NAMESPACE}/functions/{name}"
    ))
}

/// Returns the status and the message of a function's condition `Accepted`. Returns `None` until the
/// condition belongs to the present spec.
pub(crate) fn accepted(name: &str) -> Option<(String, String)> {
    let object = function(name)?;
    let conditions = object["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|one| one["type"] == "Accepted")?;
    if condition["observedGeneration"] != object["metadata"]["generation"] {
        return None;
    }
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("message")))
}

/// Returns the value that `kubectl get fn` shows for a function under a heading.
#[track_caller]
pub(crate) fn shown(function: &str, heading: &str) -> String {
    let table = kubectl(&["-n", NAMESPACE, "get", "fn", function]);
    let mut lines = table.lines().map(str::split_whitespace);
    let mut headings = lines.next().expect("headings");
    let at = headings.position(|one| one == heading);
    let at = at.unwrap_or_else(|| panic!("no {heading} in {table}"));
    let row = lines.next().and_then(|mut row| row.nth(at));
    row.unwrap_or_default().to_owned()
}

#[derive(Clone, Debug)]
pub(crate) struct ListedPod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) image: String,
    pub(crate) address: String,
    pub(crate) started: String,
    /// True if the pod is being deleted.
    pub(crate) leaving: bool,
    pub(crate) ready: bool,
    pub(crate) object: Value,
}

impl ListedPod {
    fn of(object: Value) -> Self {
        let text = |path: &str| {
            let value = object.pointer(path).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let conditions = object["status"]["conditions"].as_array();
        let ready = conditions.into_iter().flatten();
        let ready = ready.filter(|one| one["type"] == "Ready" && one["status"] == "True");
        Self {
            name: text("/metadata/name"),
            uid: text("/metadata/uid"),
            image: text("/spec/containers/0/image"),
            address: text("/status/podIP"),
            started: text("/status/startTime"),
            leaving: object.pointer("/metadata/deletionTimestamp").is_some(),
            ready: ready.count() > 0,
            object,
        }
    }

    /// Returns the value of a variable of the pod's first container.
    pub(crate) fn env(&self, name: &str) -> Option<&str> {
        let env = self.object.pointer("/spec/containers/0/env")?.as_array()?;
        env.iter().find(|one| one["name"] == name)?["value"].as_str()
    }
}

/// Returns the pods with these labels, sorted by name.
pub(crate) fn pods(selector: &str) -> Vec<ListedPod> {
    pods_in(NAMESPACE, selector)
}

pub(crate) fn pods_in(namespace: &str, selector: &str) -> Vec<ListedPod> {
    let selector = selector.replace('=', "%3D").replace(',', "%2C");
    let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}");
    list(&path).into_iter().map(ListedPod::of).collect()
}

pub(crate) fn pods_of(function: &str) -> Vec<ListedPod> {
    pods(&format!("nanofaas.io/function={function}"))
}

/// Returns the pods of a function that are not being deleted.
pub(crate) fn staying(function: &str) -> Vec<ListedPod> {
    let mut pods = pods_of(function);
    pods.retain(|pod| !pod.leaving);
    pods
}

pub(crate) fn jobs_of(function: &str) -> Vec<String> {
    let path = format!(
        "/apis/batch/v1/namespaces/{NAMESPACE}/jobs?labelSelector=nanofaas.io/function%3D{function}"
    );
    let jobs = list(&path).into_iter();
    jobs.filter_map(|job| job["metadata"]["name"].as_str().map(str::to_owned))
        .collect()
}

/// Waits until `find` returns a value, and returns that value. Panics after `patience`.
#[track_caller]
pub(crate) fn wait<T>(what: &str, patience: Duration, find: impl FnMut() -> Option<T>) -> T {
    try_wait(patience, find).unwrap_or_else(|| {
        let seconds = patience.as_secs_f64();
        panic!("not within {seconds:.1} s: {what}")
    })
}

/// Waits until `find` returns a value. Returns `None` after `patience`.
pub(crate) fn try_wait<T>(patience: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = find() {
            return Some(found);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until `holds` returns true. Panics after `patience`.
#[track_caller]
pub(crate) fn until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    wait(what, patience, || holds().then_some(()));
}
