//! These tests suspend or kill the API server for a minute. Calls of warm pods go on, changes are refused,
//! and afterwards the plane's function table and the cluster agree again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nanofaas_testkit::client::Request;
use serde_json::{Value, json};

use crate::cluster::{NAMESPACE, apply, list, staying, try_wait, until};
use crate::load::Load;
use crate::node::ApiServer;
use crate::plane::{RunningPlane, manifest, output, plane, spec};
use crate::tally::not_run;

const AWAY: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(60);

/// Returns the names of the functions that the API lists.
fn table(plane: &RunningPlane) -> BTreeSet<String> {
    let all = plane.get("/v1/functions").expect(200).json();
    let all = all.as_array().or_else(|| all["functions"].as_array());
    let names = all.into_iter().flatten().map(|one| one["name"].clone());
    names
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// Returns the names of the Function objects.
fn objects() -> BTreeSet<String> {
    let path = format!("/apis/nanofaas.io/v1/namespaces/{NAMESPACE}/functions");
    let names = list(&path)
        .into_iter()
        .map(|one| one["metadata"]["name"].clone());
    names
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

fn names(function: &str) -> BTreeSet<String> {
    staying(function).into_iter().map(|pod| pod.name).collect()
}

/// Checks that the plane refuses a change while the API server cannot write it.
#[track_caller]
fn expect_refused(plane: &RunningPlane, request: &Request) {
    let answer = plane.send_and_wait(request, Duration::from_secs(50));
    answer.expect_error(503, "REGISTRY_UNAVAILABLE");
}

fn holds_through(what: &str, begin: impl Fn(&ApiServer)) {
    let Some(server) = ApiServer::find() else {
        not_run("the API server is no process of this machine");
    };
    let plane = plane();
    let scaling = json!({"minReplicas": 2, "maxReplicas": 2});
    plane.register(&spec("steady", "WARM", json!({"scalingConfig": scaling})));
    plane.register(&spec("doomed", "JOB", json!({})));
    output(plane.invoke("steady", &json!({"do": "echo", "value": 1})));
    plane.wait_for_pods("steady", 2, STEP);
    let before = names("steady");
    let load = Load::start(plane.api, 32, "steady", &json!({"do": "sleep", "ms": 20}));
    load.go_on(200, STEP);
    let begun = Instant::now();
    begin(&server);
    let register = Request::new("POST", "/v1/functions").json(&spec("late", "JOB", json!({})));
    expect_refused(&plane, &register);
    expect_refused(&plane, &Request::delete("/v1/functions/doomed"));
    assert_eq!(
        plane.get("/v1/functions/steady").status,
        200,
        "a read needs no API server"
    );
    let took = begun.elapsed();
    println!(
        "    two changes were refused within {:.1} s",
        took.as_secs_f64()
    );
    std::thread::sleep(AWAY.saturating_sub(took));
    server.bring_back();
    load.go_on(200, STEP);
    load.end().expect_no_failure();
    assert_eq!(names("steady"), before, "the pods outlive it when {what}");
    // When the API server answers again, it may still execute a refused change. The plane's function table
    // must get this change, too.
    apply(&manifest("applied", "JOB", json!({"timeoutMs": 150_000}))).expect("a good one");
    let agree = try_wait(STEP, || {
        let objects = objects();
        (objects.contains("applied") && table(&plane) == objects).then_some(())
    });
    assert!(agree.is_some(), "{:?} and {:?}", table(&plane), objects());
    // The cluster's own controllers may wait half a minute before they retry, so the call may take three
    // minutes.
    let call = Request::invoke("applied", &json!({"do": "echo", "value": 1}));
    let answer = plane.send_and_wait(&call, Duration::from_secs(180));
    assert_eq!(output(answer)["echo"], 1);
    // The plane receives changes of pods again, so it notices the new pods of this function.
    plane.replace(&spec(
        "steady",
        "WARM",
        json!({"scalingConfig": {"minReplicas": 3, "maxReplicas": 3}}),
    ));
    plane.wait_for_pods("steady", 3, STEP);
    let ready: Value = json!(3);
    until("the status shows three ready pods", STEP, || {
        let object = crate::cluster::function("steady").unwrap_or_default();
        object["status"]["readyPods"] == ready
    });
    plane.expect_no_drift();
}

pub(crate) fn a_stopped_api_server_fails_no_warm_call() {
    holds_through("the API server hangs", ApiServer::stop);
}

pub(crate) fn a_killed_api_server_fails_no_warm_call() {
    holds_through("the API server is gone", ApiServer::kill);
}
