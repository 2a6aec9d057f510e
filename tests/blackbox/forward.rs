//! These tests call functions as HTTP servers, at `/fn/{name}/…`. The number in a test's name is that of the
//! rule in `docs/contract.md`, "HTTP functions".

mod bodies;
mod heads;
mod rules;
mod time;
mod tunnels;

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::functions::{pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

/// Registers a POOL function that is served at `/fn/`. Its endpoint has no path.
fn register(name: &str, pod: &ScriptedPod, more: &Value) {
    let url = pod.url.replace("/invoke", "/");
    let http = json!({"endpointUrl": url, "http": true, "concurrency": 4});
    plane().register(&with(with(pool(name, pod), &http), more));
}

/// Starts a pod that answers each call with the call's request line and headers, one a line.
fn mirror() -> ScriptedPod {
    ScriptedPod::tcp(|got, line| {
        let mut text = got.first_line.clone();
        for (name, value) in &got.headers {
            text += &format!("\n{name}: {value}");
        }
        line.answer(200, "Content-Type: text/plain\r\n", text.as_bytes())
    })
}

fn get(path: &str) -> Request {
    Request::get(path)
}
