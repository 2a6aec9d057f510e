//! This test runs a plane whose API server accepts connections and never answers. It checks what the plane
//! answers before it has read the functions from the cluster.

use std::net::TcpListener;
use std::path::Path;

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::form::{io_driver, io_threads};
use nanofaas_testkit::wait::PATIENCE;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[test]
fn no_function_is_unknown_before_the_first_list() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("an address");
    let name = format!("unanswered-{}-{}.json", io_threads(), io_driver());
    let kubeconfig = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "silent",
        "clusters": [{"name": "silent", "cluster": {"server": format!("http://{address}")}}],
        "contexts": [{"name": "silent", "context": {"cluster": "silent", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).expect("a file");
    let plane = ControlPlane::start_unanswered(&kubeconfig);
    let enqueue = Request::enqueue("echo", &json!(1));
    let answers = [
        plane.invoke("echo", &json!(1)),
        plane.send(&enqueue),
        plane.get("/v1/functions/echo"),
        plane.get("/v1/functions"),
    ];
    for answer in answers {
        let answer = answer.expect_error(503, "REGISTRY_UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let health = |path| Request::get(path).send(plane.management).status;
    assert_eq!((health("/healthz"), health("/readyz")), (200, 503));
    let line = plane.log.wait(PATIENCE, |line| {
        line.contains("waiting for the Lease")
            .then(|| line.to_owned())
    });
    let line: Value = serde_json::from_str(&line.expect("the log has the reason")).expect("JSON");
    assert_eq!(line["server"], format!("http://{address}/"), "{line}");
    let since = line["since"].as_str().expect("since when");
    assert!(since.starts_with("20") && since.ends_with('Z'), "{line}");
    let message = line["message"].as_str().expect("a message");
    assert!(message.contains("did not answer within 3 s"), "{line}");
    plane.signal(Signal::SIGTERM);
    let exit = plane.exit_within(PATIENCE).expect("it ends");
    assert!(exit.success(), "{exit}");
}
