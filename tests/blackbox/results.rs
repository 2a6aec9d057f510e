//! These tests post the result of a Job. The plane accepts one result, and only with the token of the
//! attempt.

use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::with;
use nanofaas_testkit::wait::eventually;
use serde_json::json;

use crate::handlers;
use crate::idle_job::{IDLES, IdleJob, success};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane =
        SharedControlPlane::new(&["--rate-max-per-second", "off", "--max-response", "64KiB"]);
    PLANE.get()
}

#[test]
fn a_result_is_recorded_once() {
    let folder = ScratchFolder::create();
    let idles = folder.shell("job-twice", "JOB", IDLES);
    plane().register(&with(idles, &json!({"concurrency": 1, "maxRetries": 0})));
    let mut wire = Request::invoke("job-twice", &json!(1)).begin(plane().listen);
    let job = IdleJob::of(&folder);
    assert!(
        job.post(plane(), &success(json!({"first": 1.0})))
            .expect(204)
            .body
            .is_empty()
    );
    let answer = wire.answer().expect(200);
    assert_eq!(
        (answer.id(), &answer.json()["output"]),
        (job.id.clone(), &json!({"first": 1.0}))
    );
    let status = plane().status(&job.id);
    job.post(plane(), &success(json!("second"))).expect(409);
    job.post(
        plane(),
        &json!({"success": false, "error": {"code": "X", "message": "y"}}),
    )
    .expect(409);
    assert_eq!(
        plane().status(&job.id),
        status,
        "a terminal state never changes"
    );
    // If the results had freed more than one slot, both of the next calls would run.
    plane().wait_for("job-twice", 0, 0);
    std::fs::remove_file(folder.path().join("env.txt")).expect("a file");
    let second = plane().enqueue("job-twice", &json!(1));
    let third = plane().enqueue("job-twice", &json!(1));
    let job = IdleJob::of(&folder);
    assert_eq!(job.id, second);
    plane().wait_for("job-twice", 1, 1);
    assert_eq!(plane().status(&third)["status"], "queued");
    plane().cancel(&third).expect(202);
    plane().cancel(&second).expect(202);
    plane().ended(&second);
    job.post(plane(), &success(json!("late"))).expect(409);
    assert_eq!(plane().status(&second)["error"]["code"], "CANCELLED");
    plane().wait_for("job-twice", 0, 0);
}

#[test]
fn many_completions_at_once_free_one_slot() {
    let folder = ScratchFolder::create();
    let idles = folder.shell("job-storm", "JOB", IDLES);
    plane().register(&with(idles, &json!({"concurrency": 1, "maxRetries": 0})));
    let mut wire = Request::invoke("job-storm", &json!(1)).begin(plane().listen);
    let job = IdleJob::of(&folder);
    let mut wires: Vec<_> = (0..16)
        .map(|n| Request::new("POST", &job.complete()).json(&success(json!(n))))
        .map(|request| request.begin(plane().listen))
        .collect();
    let statuses: Vec<u16> = wires.iter_mut().map(|wire| wire.answer().status).collect();
    assert_eq!(
        statuses.iter().filter(|status| **status == 204).count(),
        1,
        "{statuses:?}"
    );
    assert!(
        statuses.iter().all(|status| matches!(status, 204 | 409)),
        "{statuses:?}"
    );
    let taken = statuses.iter().position(|status| *status == 204);
    let output = wire.answer().expect(200).json()["output"].as_u64();
    assert_eq!(
        output,
        taken.map(|at| at as u64),
        "the result of the accepted post"
    );
    plane().wait_for("job-storm", 0, 0);
    let finished = plane().metrics();
    assert_eq!(
        finished.sum("function_success_total", &[("function", "job-storm")]),
        1.0
    );
}

#[test]
fn a_result_may_be_an_error_or_raw() {
    let folder = ScratchFolder::create();
    let idles = folder.shell("job-forms", "JOB", IDLES);
    plane().register(&with(idles, &json!({"maxRetries": 0})));
    let run = |result: Request| -> Answer {
        let mut wire = Request::invoke("job-forms", &json!(1)).begin(plane().listen);
        let job = IdleJob::of(&folder);
        std::fs::remove_file(folder.path().join("env.txt")).expect("a file");
        let bytes = String::from_utf8(result.bytes())
            .expect("text")
            .replace("PATH", &job.complete());
        let mut post = RawClient::connect(plane().listen);
        post.send(bytes.as_bytes());
        post.answer().expect(204);
        wire.answer()
    };
    let post = || Request::new("POST", "PATH");
    let coded = json!({"success": false, "error": {"code": "NO_MONEY", "message": "pay"}});
    run(post().json(&coded)).expect_failure(500, "error", "NO_MONEY");
    let text = json!({"success": false, "output": null, "error": "it broke"});
    let answer = run(post().json(&text)).expect_failure(500, "error", "HANDLER_ERROR");
    assert_eq!(answer.json()["error"]["message"], "it broke");
    let raw = run(post().body("image/x-test", "raw")).expect(200);
    assert_eq!(
        (raw.header("content-type"), &*raw.body),
        (Some("image/x-test"), &b"raw"[..])
    );
    let text = run(post().body("text/plain", "a \"b\"")).expect(200);
    assert_eq!(text.json()["output"], "a \"b\"");
}

#[test]
fn an_unacceptable_result_does_not_end_the_call() {
    let folder = ScratchFolder::create();
    let idles = folder.shell("job-bad", "JOB", IDLES);
    plane().register(&with(idles, &json!({"maxRetries": 0})));
    let mut wire = Request::invoke("job-bad", &json!(1)).begin(plane().listen);
    let job = IdleJob::of(&folder);
    let post = |body: &str| {
        let request = Request::new("POST", &job.complete()).body("application/json", body);
        plane().send(&request).status
    };
    for bad in ["", "{", "[]", r#"{"success":"yes"}"#, r#"{"output":1}"#] {
        assert_eq!(post(bad), 400, "{bad}");
    }
    assert_eq!(plane().status(&job.id)["status"], "running");
    job.post(plane(), &success(json!("fine"))).expect(204);
    assert_eq!(wire.answer().expect(200).json()["output"], "fine");
}

/// The Job posts only an unacceptable result. The call ends with the error of that result and does not run
/// again.
#[test]
fn ending_after_an_unacceptable_result_is_bad_output() {
    let folder = ScratchFolder::create();
    let until_told = "env > env.part; mv env.part env.txt; until [ -e end ]; do sleep 0.01; done";
    plane().register(&folder.shell("job-nan", "JOB", until_told));
    let mut wire = Request::invoke("job-nan", &json!(1)).begin(plane().listen);
    let job = IdleJob::of(&folder);
    let body = r#"{"success":true,"output":NaN,"error":null}"#;
    let request = Request::new("POST", &job.complete()).body("application/json", body);
    plane().send(&request).expect(400);
    std::fs::write(folder.path().join("end"), "").expect("a file");
    let answer = wire.answer().expect_failure(502, "error", "BAD_OUTPUT");
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("no result: the body must be"), "{message}");
    assert_eq!(plane().status(&job.id)["attempt"], 1);
}

#[test]
fn a_result_over_the_limit_is_413() {
    let folder = ScratchFolder::create();
    let idles = folder.shell("job-over", "JOB", IDLES);
    plane().register(&with(idles, &json!({"maxRetries": 0})));
    let mut wire = Request::invoke("job-over", &json!(1)).begin(plane().listen);
    let job = IdleJob::of(&folder);
    let foreign = job.complete().replace(job.token(), "1.00");
    let large = success(json!("a".repeat(100_000)));
    let status = plane()
        .send(&Request::new("POST", &foreign).json(&large))
        .status;
    assert_eq!(status, 403);
    assert_eq!(plane().status(&job.id)["status"], "running");
    job.post(plane(), &large).expect(413);
    wire.answer()
        .expect_failure(502, "error", "OUTPUT_TOO_LARGE");
}

#[test]
fn a_wrong_token_is_always_403() {
    let folder = ScratchFolder::create();
    plane().register(&folder.shell("job-token", "JOB", IDLES));
    let mut wire = Request::invoke("job-token", &json!({"secret": 1})).begin(plane().listen);
    let job = IdleJob::of(&folder);
    let other_folder = ScratchFolder::create();
    plane().register(&other_folder.shell("job-token-other", "JOB", IDLES));
    let other_wire = Request::invoke("job-token-other", &json!(1)).begin(plane().listen);
    let other = IdleJob::of(&other_folder);
    let token = job.token().to_owned();
    let flipped: String =
        token[..token.len() - 1].to_owned() + if token.ends_with('0') { "1" } else { "0" };
    let later = token.replacen("1.", "2.", 1);
    let shown = other.token().to_owned();
    for wrong in [
        "x",
        "1.",
        "1.00",
        &flipped,
        &later,
        &shown,
        &token[..token.len() - 1],
    ] {
        for path in [
            format!("/v1/internal/{wrong}/executions/{}:complete", job.id),
            format!("/v1/internal/{wrong}/executions/nobody:complete"),
        ] {
            let request = Request::new("POST", &path).json(&success(json!(1)));
            assert_eq!(plane().send(&request).status, 403, "{path}");
        }
        let path = format!("/v1/internal/{wrong}/executions/{}/input", job.id);
        plane().get(&path).expect(403);
        let path = format!("/v1/internal/{wrong}/pods/fn-x-abcde:ready");
        plane()
            .send(&Request::new("POST", &path).json(&json!({})))
            .expect(403);
    }
    let input = plane()
        .get(&format!("{}/{}/input", job.base, job.id))
        .expect(200);
    assert_eq!(input.header("content-type"), Some("application/json"));
    assert_eq!(input.json(), json!({"input": {"secret": 1}}));
    job.post(plane(), &success(json!(1))).expect(204);
    wire.answer().expect(200);
    plane()
        .get(&format!("{}/{}/input", job.base, job.id))
        .expect(409);
    drop(other_wire);
    let log = plane().log.lines();
    assert!(
        !log.iter()
            .any(|line| line.contains(&token) || line.contains(&shown)),
        "logged"
    );
}

#[test]
fn an_older_attempts_token_is_409() {
    let folder = ScratchFolder::create();
    let script = "n=$(cat runs 2>/dev/null | wc -l); echo x >> runs; env > env.$n.part; \
        mv env.$n.part env.$n; [ $n = 0 ] && exit 1; exec sleep 60";
    plane().register(&folder.shell("job-older", "JOB", script));
    let id = plane().enqueue("job-older", &json!(1));
    eventually("the second attempt runs", || folder.read("env.1").is_some());
    let job = |name: &str| {
        std::fs::copy(folder.path().join(name), folder.path().join("env.txt")).expect("a file");
        IdleJob::of(&folder)
    };
    let (first, second) = (job("env.0"), job("env.1"));
    assert_eq!((&first.id, &second.id), (&id, &id));
    assert_ne!(first.token(), second.token());
    first.post(plane(), &success(json!("old"))).expect(409);
    assert_eq!(plane().status(&id)["status"], "running");
    second.post(plane(), &success(json!("new"))).expect(204);
    let ended = plane().ended(&id);
    assert_eq!(
        (&ended["output"], &ended["attempt"]),
        (&json!("new"), &json!(2))
    );
}

#[test]
fn a_token_whose_record_is_gone_is_404() {
    let plane = ControlPlane::start(&["--execution-ttl-ms", "200"]);
    let folder = ScratchFolder::create();
    plane.register(&folder.shell("job-gone", "JOB", IDLES));
    let id = plane.enqueue("job-gone", &json!(1));
    let job = IdleJob::of(&folder);
    plane.cancel(&id).expect(202);
    eventually("the execution is forgotten", || {
        plane.get(&format!("/v1/executions/{id}")).status == 404
    });
    let request = Request::new("POST", &job.complete()).json(&success(json!(1)));
    plane
        .send(&request)
        .expect_error(404, "EXECUTION_NOT_FOUND");
}

#[test]
fn callbacks_can_have_a_listener_of_their_own() {
    let plane = ControlPlane::start(&["--internal-listen", "127.0.0.1:0"]);
    let internal = plane.internal.expect("an internal address");
    let folder = ScratchFolder::create();
    plane.register(&folder.python("job-internal", "JOB", handlers::ECHO));
    assert_eq!(
        plane.invoke("job-internal", &json!(5)).expect(200).json()["output"],
        5
    );
    let idle_folder = ScratchFolder::create();
    plane.register(&idle_folder.shell("job-idles", "JOB", IDLES));
    let mut wire = Request::invoke("job-idles", &json!(1)).begin(plane.listen);
    let job = IdleJob::of(&idle_folder);
    let request = Request::new("POST", &job.complete()).json(&success(json!(7)));
    request.send(plane.listen).expect(404);
    Request::get("/v1/functions").send(internal).expect(404);
    Request::invoke("job-internal", &json!(1))
        .send(internal)
        .expect(404);
    request.send(internal).expect(204);
    assert_eq!(wire.answer().expect(200).json()["output"], 7);
}
