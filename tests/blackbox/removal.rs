//! These tests check that a call between two attempts, which is in no queue, ends when its function is
//! removed. A function that is registered afterwards must not get that call.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::functions::{pool, with};
use nanofaas_testkit::pod::{After, ScriptedPod};
use nanofaas_testkit::wait::{Gate, eventually};
use serde_json::{Value, json};

/// Each test has a plane of its own, because a fault in this area may end the process.
fn plane() -> ControlPlane {
    ControlPlane::start(&["--rate-max-per-second", "off"])
}

fn unreachable(name: &str) -> Value {
    // The listener is dropped here and no other test uses 127.0.0.3, so no process listens at this address.
    let listener = TcpListener::bind("127.0.0.3:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    json!({
        "name": name, "executionMode": "POOL", "endpointUrl": format!("http://{address}/"),
        "maxRetries": 10,
    })
}

fn wait_for_attempt(plane: &ControlPlane, id: &str, attempt: u64) {
    eventually("the call was tried often enough", || {
        plane.status(id)["attempt"].as_u64() >= Some(attempt)
    });
}

#[test]
fn a_backing_off_call_ends_with_its_function() {
    let plane = plane();
    plane.register(&unreachable("gone"));
    let id = plane.enqueue("gone", &json!(1));
    wait_for_attempt(&plane, &id, 4);
    plane.remove("gone");
    let ended = plane.ended(&id);
    assert_eq!(ended["error"]["code"], "FUNCTION_REMOVED", "{ended}");
    plane.settle();
}

#[test]
fn callers_of_a_removed_function_are_told() {
    let plane = plane();
    plane.register(&unreachable("gone"));
    let over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let call = || {
            let mut seen = BTreeSet::new();
            while !over.load(Ordering::SeqCst) {
                seen.insert(plane.invoke("gone", &json!(1)).status);
            }
            seen
        };
        let callers: Vec<_> = (0..3).map(|_| scope.spawn(call)).collect();
        std::thread::sleep(Duration::from_millis(300));
        plane.remove("gone");
        std::thread::sleep(Duration::from_millis(700));
        over.store(true, Ordering::SeqCst);
        let seen = callers.into_iter().map(|caller| caller.join());
        seen.flat_map(|seen| seen.expect("a caller"))
            .collect::<BTreeSet<_>>()
    });
    assert!(seen.is_subset(&BTreeSet::from([404, 410, 502])), "{seen:?}");
    plane.settle();
}

#[test]
fn another_function_gets_no_call_of_it() {
    let plane = plane();
    let old_pod = ScriptedPod::tcp(|_, line| line.answer(500, "", b""));
    let old = with(
        pool("old", &old_pod),
        &json!({"retryOn": ["ERROR"], "maxRetries": 10}),
    );
    plane.register(&old);
    let id = plane.enqueue("old", &json!("of the old function"));
    wait_for_attempt(&plane, &id, 3);
    plane.remove("old");
    let held = Gate::default();
    let new_pod = {
        let held = held.clone();
        ScriptedPod::tcp(move |_, line| {
            if line.wait(&held) {
                line.json("\"new\"")
            } else {
                After::Close
            }
        })
    };
    // The new function gets the number of the removed function's lane. Its own call holds the only slot, so
    // if the old call waited in this lane by mistake, it could not end before `held` opens.
    plane.register(&pool("new", &new_pod));
    let own = plane.enqueue("new", &json!("of the new function"));
    let ended = plane.ended(&id);
    assert_eq!(ended["error"]["code"], "FUNCTION_REMOVED", "{ended}");
    held.open();
    assert_eq!(plane.ended(&own)["output"], "new");
    let inputs: Vec<_> = new_pod.calls().iter().map(|got| got.input()).collect();
    assert_eq!(inputs, [json!("of the new function")]);
    plane.settle();
}

#[test]
fn a_namesake_retries_no_call_of_it() {
    let plane = plane();
    let old_pod = ScriptedPod::tcp(|_, line| line.answer(500, "", b""));
    let old = with(
        pool("same", &old_pod),
        &json!({"retryOn": ["ERROR"], "maxRetries": 10}),
    );
    plane.register(&old);
    let id = plane.enqueue("same", &json!("of the first"));
    wait_for_attempt(&plane, &id, 3);
    plane.remove("same");
    let new_pod = ScriptedPod::answering(|_| "\"second\"".to_owned());
    plane.register(&pool("same", &new_pod));
    let ended = plane.ended(&id);
    assert_eq!(ended["error"]["code"], "FUNCTION_REMOVED", "{ended}");
    assert_eq!(
        plane.invoke("same", &json!(2)).expect(200).json()["output"],
        "second"
    );
    assert_eq!(new_pod.calls().len(), 1);
    plane.settle();
}
