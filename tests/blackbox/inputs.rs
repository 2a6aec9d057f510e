//! These tests check how a Job gets the body of its call, from its environment or by a request, and how many
//! bytes the plane charges for the body.

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::with;
use nanofaas_testkit::wait::eventually;
use serde_json::json;

use crate::handlers;

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

#[test]
fn a_jobs_body_may_be_large_and_binary() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("job-large", "JOB", handlers::LENGTH));
    let answer = plane()
        .invoke("job-large", &json!("a".repeat(100_000)))
        .expect(200);
    assert_eq!(answer.json()["output"], 100_000);
    let raw = Request::new("POST", "/v1/functions/job-large:invoke");
    let answer = plane()
        .send(&raw.body("a/b", &b"\x00\xff raw"[..]))
        .expect(200);
    assert_eq!(
        answer.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(answer.body, b"\x00\xff raw");
}

#[test]
fn a_small_job_body_is_in_its_environment() {
    let folder = ScratchFolder::create();
    let script = "printf '%s' \"$INVOCATION_PAYLOAD\" > payload; echo \"$TIMEOUT_MS\" > timeout; \
                  env | grep -c '^INVOCATION_PAYLOAD_URL=' > url";
    let function = folder.shell("job-payload", "JOB", script);
    plane().register(&with(function, &json!({"maxRetries": 0})));
    let envelope = r#"{"input":""}"#.len();
    for (length, is_inline) in [(120 * 1024, true), (120 * 1024 + 1, false)] {
        let input = "x".repeat(length - envelope);
        let body = format!(r#"{{"input":"{input}"}}"#);
        let request = Request::new("POST", "/v1/functions/job-payload:invoke");
        let answer = plane().send(&request.body("application/json", body.clone()));
        answer.expect_failure(502, "error", "POD_LOST");
        let payload = folder.read("payload").unwrap_or_default();
        assert_eq!(
            payload == body,
            is_inline,
            "{length}: {} bytes",
            payload.len()
        );
        assert_eq!(
            folder.read("url").as_deref(),
            Some(if is_inline { "0\n" } else { "1\n" })
        );
        assert!(
            folder
                .read("timeout")
                .is_some_and(|text| text.trim().parse::<u32>().is_ok())
        );
    }
}

/// The plane keeps two copies of the body, and charges both: one in the call, and one for the Job's
/// environment or request.
#[test]
fn a_jobs_body_is_charged_for_each_copy() {
    let plane = ControlPlane::start(&["--rate-max-per-second", "off"]);
    let folder = ScratchFolder::create();
    plane.register(&folder.shell("job-held", "JOB", "echo x > runs; exec sleep 60"));
    for length in [100_000, 500_000] {
        let mut wire = Request::invoke("job-held", &json!("x".repeat(length))).begin(plane.listen);
        eventually("the job runs", || folder.read("runs").is_some());
        let held = plane.metrics().sum("nanofaas_inflight_bytes", &[]);
        assert!(
            held > 2.0 * length as f64,
            "{held} bytes for two of {length}"
        );
        wire.finish();
        plane.wait_for("job-held", 0, 0);
        std::fs::remove_file(folder.path().join("runs")).expect("a file");
    }
    eventually("nothing is charged", || {
        plane.metrics().sum("nanofaas_inflight_bytes", &[]) == 0.0
    });
}
