//! Measures the time that the platform adds to the time of the cluster. Each measurement is a pair: a call,
//! and the bare object (a pod or a Job) that such a call creates, with the same image and variables. This
//! module prints a table and checks nothing. Its results are valid only on an idle machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nanofaas_testkit::client::Request;
use serde_json::{Value, json};

use crate::cluster::{NAMESPACE, ask, jobs_of, pods_of, until, wait};
use crate::node::own_address;
use crate::plane::{RunningPlane, image, output, plane, spec};

const PAIRS: usize = 20;
const STEP: Duration = Duration::from_secs(60);
/// The time that the removal of a pod may take. A kubelet sometimes reports the end of a pod late.
const GONE: Duration = Duration::from_secs(120);

/// A server that receives the results that bare pods post, and records when each result arrived.
struct Sink {
    address: SocketAddr,
    heard: Receiver<(Instant, Value)>,
}

impl Sink {
    fn open(plane: &RunningPlane) -> Self {
        let listener = TcpListener::bind((own_address(plane.api), 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (say, heard) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(body) = take(stream) {
                    let _ = say.send((Instant::now(), body));
                }
            }
        });
        Self { address, heard }
    }

    #[track_caller]
    fn next(&self) -> (Instant, Value) {
        let heard = self.heard.recv_timeout(STEP);
        heard.expect("the bare pod posts something")
    }
}

/// Reads a posted body and answers the request.
fn take(mut stream: TcpStream) -> Option<Value> {
    stream.set_read_timeout(Some(STEP)).ok()?;
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.to_ascii_lowercase();
        let length = length
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            return serde_json::from_str(body).ok();
        }
    }
}

fn pod(env: &Value) -> Value {
    json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // The namespace accepts only pods with these restrictions.
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "function", "image": image(1),
            "imagePullPolicy": "IfNotPresent", "env": env,
            "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}}}],
    })
}

fn epoch_ms() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a time").as_secs_f64() * 1000.0
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Prints one line of the table: the distribution over all pairs.
fn line(what: &str, values: &[f64]) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    let (low, quarter, median) = (at(0.0), at(0.25), at(0.5));
    let (three, high) = (at(0.75), at(1.0));
    println!("| {what} | {median:.0} | {quarter:.0} – {three:.0} | {low:.0} – {high:.0} |");
}

fn table(title: &str) {
    println!("\n| {title}, {PAIRS} pairs, ms | median | quartiles | range |\n|---|---|---|---|");
}

fn differences(ours: &[f64], bare: &[f64]) -> Vec<f64> {
    ours.iter()
        .zip(bare)
        .map(|(ours, bare)| ours - bare)
        .collect()
}

fn create(path: &str, object: &Value) {
    ask(&Request::new("POST", path).json(object)).expect(201);
}

fn delete(path: &str) {
    let options = json!({"propagationPolicy": "Background", "gracePeriodSeconds": 0});
    ask(&Request::new("DELETE", path).json(&options));
}

fn bare_pods_are_gone() {
    until("the bare pod is gone", GONE, || {
        crate::cluster::pods("nanofaas-test=bare").is_empty()
    });
}

pub(crate) fn a_job_call_against_a_bare_job() {
    let plane = plane();
    let sink = Sink::open(&plane);
    plane.register(&spec("measured", "JOB", json!({})));
    let jobs = format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs");
    let payload = json!({"input": {"do": "echo", "value": 1}}).to_string();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        let begun = Instant::now();
        output(plane.invoke("measured", &json!({"do": "echo", "value": 1})));
        let our = begun.elapsed();
        until("the call's Job is gone", GONE, || {
            jobs_of("measured").is_empty() && pods_of("measured").is_empty()
        });
        let env = json!([
            {"name": "CALLBACK_URL", "value": format!("http://{}/executions", sink.address)},
            {"name": "EXECUTION_ID", "value": "bare"},
            {"name": "DISPATCH_ATTEMPT", "value": "1"},
            {"name": "TIMEOUT_MS", "value": "30000"},
            {"name": "INVOCATION_TIMEOUT_MS", "value": "30000"},
            {"name": "INVOCATION_PAYLOAD", "value": payload},
        ]);
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": "bare"},
            "spec": {"backoffLimit": 0, "template": {
                "metadata": {"labels": {"nanofaas-test": "bare"}}, "spec": pod(&env)}},
        });
        let begun = Instant::now();
        create(&jobs, &job);
        let (at, _) = sink.next();
        // The first pair fills caches, so it is not counted.
        if pair > 0 {
            ours.push(ms(our));
            bare.push(ms(at - begun));
        }
        std::thread::sleep(Duration::from_secs(1));
        delete(&format!("{jobs}/bare"));
        bare_pods_are_gone();
    }
    table("JOB");
    line("call, to the client's answer", &ours);
    line("bare Job, to its result's arrival", &bare);
    line("difference of each pair", &differences(&ours, &bare));
}

pub(crate) fn a_cold_call_against_a_bare_pod() {
    let plane = plane();
    let sink = Sink::open(&plane);
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let scaling = json!({"minReplicas": 0, "maxReplicas": 1});
    let function = spec("measured", "WARM", json!({"scalingConfig": scaling}));
    let (mut answered, mut ready) = (Vec::new(), Vec::new());
    let (mut bare, mut bare_heard) = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        plane.register(&function);
        std::thread::sleep(Duration::from_millis(500));
        let begun_ms = epoch_ms();
        let begun = Instant::now();
        output(plane.invoke("measured", &json!({"do": "echo", "value": 1})));
        let our = ms(begun.elapsed());
        let our_ready = own_ready(&plane) - begun_ms;
        plane
            .send(&Request::delete("/v1/functions/measured"))
            .expect(204);
        until("the function's pod is gone", GONE, || {
            pods_of("measured").is_empty()
        });
        let url = format!("http://{}/ready", sink.address);
        let env = json!([
            {"name": "PORT", "value": "8080"},
            {"name": "NANOFAAS_READY_URL", "value": url},
        ]);
        let object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "bare", "labels": {"nanofaas-test": "bare"}},
            "spec": pod(&env)});
        let begun_ms = epoch_ms();
        let begun = Instant::now();
        create(&pods, &object);
        let (at, timestamps) = sink.next();
        let timestamp = timestamps["readyAt"].as_f64().expect("a time");
        if pair > 0 {
            answered.push(our);
            ready.push(our_ready);
            bare.push(timestamp - begun_ms);
            bare_heard.push(ms(at - begun));
        }
        delete(&format!("{pods}/bare"));
        bare_pods_are_gone();
    }
    table("WARM, from no pod");
    line("call, to its pod's ready timestamp", &ready);
    line("bare pod, to its ready timestamp", &bare);
    line("difference of each pair", &differences(&ready, &bare));
    line("call, to the client's answer", &answered);
    line("bare pod, to the arrival of its post", &bare_heard);
    line(
        "difference of each pair",
        &differences(&answered, &bare_heard),
    );
}

/// Returns the time at which the pod of the last cold start was ready, by the pod's own clock, in
/// milliseconds since the epoch.
fn own_ready(plane: &RunningPlane) -> f64 {
    wait("the start is listed", STEP, || {
        let starts = plane
            .get("/v1/functions/measured/cold-starts")
            .expect(200)
            .json();
        let start = &starts["coldStarts"][0];
        let phases = start["phases"].as_array()?;
        let ready = phases.iter().find(|phase| phase["name"] == "ready")?["atMs"].as_f64()?;
        Some(epoch_of(start["wantedAt"].as_str()?)? + ready)
    })
}

/// Converts a time of today, `…Thh:mm:ss.fffZ`, to milliseconds since the epoch.
fn epoch_of(text: &str) -> Option<f64> {
    let (_, time) = text.trim_end_matches('Z').split_once('T')?;
    let mut parts = time.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    let of_day = ((hours * 60.0 + minutes) * 60.0 + seconds) * 1000.0;
    let day = 86_400_000.0;
    let midnight = (epoch_ms() / day).floor() * day;
    Some(midnight + of_day)
}
