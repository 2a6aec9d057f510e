//! Registers, replaces, scales and removes functions. Each function belongs to one registrar, which therefore
//! knows the correct answer to each of its changes. A registrar calls no function.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::ControlPlane;
use serde_json::{Value, json};

use crate::book::{Book, Version};
use crate::canary::Identity;
use crate::clients::status as status_of;
use crate::ledger::Ledger;
use crate::plan::{Changes, FUNCTIONS, FunctionMode, PlannedChange, Spec, name};
use crate::pods::{IDENTITY, Peers, RECEIPTS};
use crate::tally::Tally;

/// The number of executions whose status a registrar reads after a change.
const LOOKED_AT: usize = 6;

pub(crate) struct Registrar<'a> {
    pub(crate) plane: &'a ControlPlane,
    pub(crate) book: &'a Arc<Book>,
    pub(crate) ledger: &'a Ledger,
    pub(crate) tally: &'a Tally,
    pub(crate) peers: &'a Peers,
    pub(crate) receipts: PathBuf,
}

impl Registrar<'_> {
    pub(crate) fn work(&self, mut changes: Changes, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            let (function, change, pause) = changes.next();
            self.change(function, &change);
            std::thread::sleep(Duration::from_millis(pause));
        }
    }

    fn change(&self, function: usize, change: &PlannedChange) {
        let present = self.book.is_present(function);
        let path = format!("/v1/functions/{}", name(function));
        match (change, present) {
            (PlannedChange::Register(spec), false) => {
                self.put("POST", "/v1/functions", function, spec, 201)
            }
            (PlannedChange::Register(spec), true) => {
                let other = self.json(function, spec, Version::default());
                let request = Request::new("POST", "/v1/functions").json(&other);
                self.expect(&request, &[409], "refused");
            }
            (PlannedChange::Replace(spec), present) => {
                self.put(
                    "PUT",
                    &path,
                    function,
                    spec,
                    if present { 200 } else { 201 },
                );
            }
            (PlannedChange::Remove, true) => self.remove(function),
            (PlannedChange::Remove, false) => {
                self.expect(&Request::delete(&path), &[404], "refused")
            }
            (PlannedChange::Scale(replicas), present) => {
                let body = json!({"replicas": replicas});
                let request = Request::new("PUT", &format!("{path}/replicas")).json(&body);
                match (present, self.book.is_warm(function)) {
                    (false, _) => self.expect(&request, &[404], "refused"),
                    (true, true) => self.expect(&request, &[200], "scale"),
                    (true, false) => self.expect(&request, &[400, 409], "scale of no WARM"),
                }
            }
        }
    }

    fn put(&self, method: &str, path: &str, function: usize, spec: &Spec, status: u16) {
        let version = self.book.begin(function, Some(spec.clone()));
        let body = self.json(function, spec, version);
        let what = if status == 200 { "replace" } else { "register" };
        self.expect(&Request::new(method, path).json(&body), &[status], what);
        self.book.end(function);
        self.look_at_waiting(function);
    }

    /// Records the status of the calls that still wait after the answer to a change. They must run under the
    /// changed spec.
    fn look_at_waiting(&self, function: usize) {
        for id in self.ledger.latest_of(function, LOOKED_AT) {
            let asked = self.book.now();
            let answer = self.plane.get(&format!("/v1/executions/{id}"));
            if answer.status == 200 {
                let status = answer.json();
                let seen = status_of(self.book, self.ledger, self.tally, &id, asked, &status);
                self.tally.check(seen.map(drop));
            }
        }
    }

    fn remove(&self, function: usize) {
        self.book.begin(function, None);
        let path = format!("/v1/functions/{}", name(function));
        self.expect(&Request::delete(&path), &[204], "remove");
        self.book.end(function);
    }

    pub(crate) fn remove_all(&self) {
        let present = |function: &usize| self.book.is_present(*function);
        (0..FUNCTIONS)
            .filter(present)
            .for_each(|function| self.remove(function));
        let list = self.plane.get("/v1/functions").expect(200).json();
        if list != json!([]) {
            self.tally
                .wrong(format!("functions that were removed are listed: {list}"));
        }
    }

    fn expect(&self, request: &Request, statuses: &[u16], what: &str) {
        let answer = self.plane.send(request);
        if statuses.contains(&answer.status) {
            self.tally.count(&format!("change {what}"));
        } else {
            let text = answer.text();
            let status = answer.status;
            self.tally.wrong(format!(
                "{request:?} got {status}, not {statuses:?}: {text}"
            ));
        }
    }

    fn json(&self, function: usize, spec: &Spec, version: Version) -> Value {
        let mut body = json!({
            "name": name(function), "executionMode": spec.mode.as_str(),
            "concurrency": spec.concurrency, "queueSize": spec.queue_size,
            "timeoutMs": spec.timeout_ms, "maxRetries": spec.max_retries, "retryOn": spec.retry_on,
        });
        let mut identity = Identity { function, version };
        match spec.mode {
            FunctionMode::Local => {}
            FunctionMode::Pool => {
                body["endpointUrl"] = json!(self.peers.url(spec.endpoint, &identity))
            }
            FunctionMode::Warm | FunctionMode::Job => {
                // The environment is part of the shape, so the real revision would make each replacement
                // replace the pods. The revision in the environment is therefore always 0.
                identity.version.revision = 0;
                let program = std::env::current_exe().expect("this program");
                let command = if spec.broken {
                    json!(["/bin/false"])
                } else {
                    json!([program, "pod"])
                };
                body["local"] = json!({"command": command, "directory": self.receipts.parent()});
                body["env"] = json!({
                    IDENTITY: identity.path(), RECEIPTS: self.receipts,
                    "CHAOS_SHAPE": spec.shape.to_string(),
                });
            }
        }
        if spec.mode == FunctionMode::Warm {
            body["scalingConfig"] = json!({
                "minReplicas": spec.min_replicas, "maxReplicas": 3, "idleTimeoutMs": 1000,
                "targetInFlightPerPod": spec.concurrency.min(4),
            });
        }
        body
    }
}
