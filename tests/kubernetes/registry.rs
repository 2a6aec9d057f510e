//! These tests check the registry in the cluster. The API and kubectl write the same objects, and a change by
//! one of the two is visible through the other.

use std::time::Duration;

use nanofaas_testkit::client::Request;
use serde_json::{Value, json};

use crate::cluster::{NAMESPACE, accepted, apply, function, kubectl, shown, until, wait};
use crate::plane::{image, manifest, output, plane, spec};

/// The time that a change of a status may take. The numbers in a status are written at most every 10 s.
const STATUS: Duration = Duration::from_secs(25);
/// The time that the plane may take to learn of a change, which a watch reports at once.
const SOON: Duration = Duration::from_secs(10);

/// Waits for the rejection of a function. Returns the message in its condition `Accepted`.
#[track_caller]
fn rejection(name: &str) -> String {
    wait("the condition Accepted is False", STATUS, || {
        accepted(name).filter(|(status, _)| status == "False")
    })
    .1
}

pub(crate) fn an_invalid_function_says_why_in_its_condition() {
    let plane = plane();
    let mut object = manifest("no-image", "WARM", json!({}));
    object["spec"]
        .as_object_mut()
        .expect("a spec")
        .remove("image");
    apply(&object).expect("the schema does not know");
    let message = rejection("no-image");
    let body = json!({"name": "no-image", "executionMode": "WARM"});
    let request = Request::new("POST", "/v1/functions").json(&body);
    let refused = plane
        .send(&request)
        .expect_error(400, "VALIDATION_ERROR")
        .json();
    let details = refused["details"].as_array().expect("details");
    let details: Vec<_> = details.iter().filter_map(Value::as_str).collect();
    assert_eq!(message, details.join("; "));
    plane
        .invoke("no-image", &json!(1))
        .expect_error(404, "FUNCTION_NOT_FOUND");
    // When the object is corrected, it is registered as a function.
    apply(&manifest("no-image", "JOB", json!({}))).expect("a good one");
    until("the corrected object is accepted", STATUS, || {
        accepted("no-image").is_some_and(|(status, _)| status == "True")
    });
    plane.get("/v1/functions/no-image").expect(200);
}

pub(crate) fn an_invalid_edit_keeps_the_accepted_spec() {
    let plane = plane();
    let scaling = json!({"minReplicas": 1, "maxReplicas": 1});
    let fields = json!({"scalingConfig": scaling, "timeoutMs": 20000});
    apply(&manifest("edited", "WARM", fields)).expect("a good one");
    until("the function is accepted", STATUS, || {
        accepted("edited").is_some_and(|(status, _)| status == "True")
    });
    output(plane.invoke("edited", &json!({"do": "echo", "value": 1})));
    // Only the platform may set `PORT`. A schema cannot express that rule, so the API server accepts this
    // edit.
    let fields = json!({"scalingConfig": scaling, "timeoutMs": 10000, "env": {"PORT": "1"}});
    apply(&manifest("edited", "WARM", fields)).expect("the schema does not know");
    let message = rejection("edited");
    assert!(message.contains("PORT"), "{message}");
    let known = plane.get("/v1/functions/edited").expect(200).json();
    assert_eq!(known["timeoutMs"], 20000, "{known}");
    let answer = plane.invoke("edited", &json!({"do": "echo", "value": 2}));
    assert_eq!(output(answer)["echo"], 2);
}

pub(crate) fn what_the_schema_refuses_is_refused_at_once() {
    let plane = plane();
    for (field, value) in [
        ("timeoutMs", json!("soon")),
        ("env", json!({"A": 1})),
        ("retryOn", json!("POD")),
        ("scalingConfig", json!({"maxReplicas": "two"})),
    ] {
        let mut object = manifest("refused", "JOB", json!({}));
        object["spec"][field] = value;
        let said = apply(&object).expect_err(field);
        assert!(said.contains(field), "{field}: {said}");
    }
    assert!(function("refused").is_none());
    plane
        .get("/v1/functions/refused")
        .expect_error(404, "FUNCTION_NOT_FOUND");
}

pub(crate) fn kubectl_sees_what_the_api_does() {
    let plane = plane();
    let scaling = json!({"minReplicas": 0, "maxReplicas": 2});
    let first = spec("written", "WARM", json!({"scalingConfig": scaling}));
    plane.register(&first);
    let object = function("written").expect("the object is there before the answer");
    assert_eq!(object["spec"]["image"], image(1));
    let again = Request::new("POST", "/v1/functions").json(&first);
    plane.send(&again).expect_error(409, "FUNCTION_EXISTS");
    let wrong = spec("written", "WARM", json!({"concurrency": 0}));
    let wrong = Request::new("PUT", "/v1/functions/written").json(&wrong);
    plane.send(&wrong).expect_error(400, "VALIDATION_ERROR");
    plane.replace(&spec("written", "JOB", json!({})));
    let object = function("written").expect("it is there");
    assert_eq!(object["spec"]["executionMode"], "JOB");
    assert_eq!(object["spec"].get("scalingConfig"), None, "it was replaced");
    plane.replace(&first);
    let scaled = plane.scale("written", 1).expect(200).json();
    assert_eq!(scaled, json!({"function": "written", "replicas": 1}));
    let object = function("written").expect("it is there");
    assert_eq!(object["spec"]["scalingConfig"]["minReplicas"], 1);
    until("kubectl shows the pod", STATUS, || {
        shown("written", "PODS") == "1"
    });
    plane
        .scale("unwritten", 1)
        .expect_error(404, "FUNCTION_NOT_FOUND");
    // Names of objects must be DNS labels, so this name is invalid.
    let request = Request::new("POST", "/v1/functions").json(&spec("Upper.Case", "JOB", json!({})));
    plane.send(&request).expect_error(400, "VALIDATION_ERROR");
    let delete = Request::delete("/v1/functions/written");
    plane.send(&delete).expect(204);
    assert!(
        function("written").is_none(),
        "it was deleted before the answer"
    );
    plane.send(&delete).expect_error(404, "FUNCTION_NOT_FOUND");
}

pub(crate) fn a_senseless_status_hides_no_function() {
    let plane = plane();
    plane.register(&spec("a-odd", "JOB", json!({})));
    // The schema allows -1, but the platform never writes it.
    let patch = json!({"status": {"readyPods": -1}}).to_string();
    let odd = [
        "-n",
        NAMESPACE,
        "patch",
        "fn",
        "a-odd",
        "--subresource=status",
    ];
    kubectl(&[&odd[..], &["--type=merge", "-p", &patch]].concat());
    apply(&manifest("b-sound", "JOB", json!({}))).expect("applied");
    until("the API has the next function", SOON, || {
        plane.get("/v1/functions/b-sound").status == 200
    });
    let count = || function("a-odd").map(|object| object["status"]["readyPods"].clone());
    until("the wrong status is overwritten", STATUS, || {
        count() == Some(json!(0))
    });
}

pub(crate) fn what_kubectl_does_is_seen_by_the_api() {
    let plane = plane();
    apply(&manifest("applied", "JOB", json!({"timeoutMs": 1000}))).expect("a good one");
    let timeout = || {
        let answer = plane.get("/v1/functions/applied");
        (answer.status == 200).then(|| answer.json()["timeoutMs"].clone())
    };
    until("the API has the function", SOON, || {
        timeout() == Some(json!(1000))
    });
    apply(&manifest("applied", "JOB", json!({"timeoutMs": 2000}))).expect("a good one");
    until("the API has the edit", SOON, || {
        timeout() == Some(json!(2000))
    });
    kubectl(&["-n", NAMESPACE, "delete", "fn", "applied"]);
    until("the API no longer has the function", SOON, || {
        timeout().is_none()
    });
    // An object that is created with the same name immediately after the removal has another uid.
    apply(&manifest("applied", "JOB", json!({"timeoutMs": 3000}))).expect("a good one");
    until("the API has the new function", SOON, || {
        timeout() == Some(json!(3000))
    });
}
