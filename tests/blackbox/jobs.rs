//! Jobs on this machine: one process for each call, its result by callback, its token, and its end.

use std::time::Duration;

use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::with;
use nanofaas_testkit::process::is_alive;
use nanofaas_testkit::wait::eventually;
use serde_json::{Value, json};

use crate::handlers;

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane =
        SharedControlPlane::new(&["--rate-max-per-second", "off", "--max-response", "64KiB"]);
    PLANE.get()
}

/// A Job that writes its environment to a file and then does nothing.
const IDLES: &str = "env > env.part; mv env.part env.txt; exec sleep 60";

/// The callback and the execution of an idle Job.
struct Seat {
    /// The path `/v1/internal/<token>/executions`.
    base: String,
    id: String,
}

impl Seat {
    #[track_caller]
    fn of(folder: &ScratchFolder) -> Self {
        eventually("the job runs", || folder.read("env.txt").is_some());
        let text = folder.read("env.txt").expect("an environment");
        let value = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name}=")));
            line.unwrap_or_else(|| panic!("no {name} in {text}"))
                .to_owned()
        };
        let url = value("CALLBACK_URL");
        let at = url.find("/v1/internal/").expect("an internal path");
        Self {
            base: url[at..].to_owned(),
            id: value("EXECUTION_ID"),
        }
    }

    fn token(&self) -> &str {
        self.base.split('/').nth(3).expect("a token")
    }

    fn complete(&self) -> String {
        format!("{}/{}:complete", self.base, self.id)
    }

    fn post(&self, result: &Value) -> Answer {
        plane().send(&Request::new("POST", &self.complete()).json(result))
    }
}

fn success(output: Value) -> Value {
    json!({"success": true, "output": output, "error": null})
}

#[test]
fn a_job_is_a_process_of_its_own_for_each_call() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("job", "JOB", handlers::JOB));
    let body = json!({"input": {"a": 1}, "metadata": {"m": "n"}});
    let request = Request::new("POST", "/v1/functions/job:invoke").json(&body);
    let first = plane().send(&request).expect(200).json()["output"].clone();
    let second = plane().send(&request).expect(200).json()["output"].clone();
    assert_ne!(first[0], second[0]);
    assert_eq!(
        (&first[1], &first[2], &first[3]),
        (&json!({"a": 1}), &json!(1), &json!({"m": "n"}))
    );
    let pid = i32::try_from(second[0].as_i64().expect("a pid")).expect("a pid");
    eventually("the Job's process ends", || !is_alive(pid));
    let id = plane().enqueue("job", &json!(2));
    let ended = plane().ended(&id);
    assert_eq!(
        (&ended["output"][1], &ended["coldStart"]),
        (&json!(2), &json!(true))
    );
    plane().wait_for("job", 0, 0);
    let metrics = plane().metrics();
    let starts = ["cold", "warm"].map(|kind| {
        metrics.sum(
            &format!("function_{kind}_start_total"),
            &[("function", "job")],
        )
    });
    assert_eq!(starts, [3.0, 0.0], "each call starts a process");
}

#[test]
fn a_stamp_that_is_null_is_not_known() {
    let folder = ScratchFolder::create();
    let function = folder.shell("job-null", "JOB", IDLES);
    plane().register(&function);
    let mut wire = Request::invoke("job-null", &json!(1)).begin(plane().listen);
    let seat = Seat::of(&folder);
    let mut result = success(json!("done"));
    for name in ["startedAt", "loadedAt", "readyAt"] {
        result[name] = Value::Null;
    }
    seat.post(&result).expect(204);
    assert_eq!(wire.answer().expect(200).json()["output"], "done");
}

#[test]
fn a_job_that_raises_is_a_handlers_error() {
    let folder = ScratchFolder::create();
    plane().register(&folder.python("job-raises", "JOB", handlers::RAISES));
    let answer = plane().invoke("job-raises", &json!(1));
    let body = answer.expect_failure(500, "error", "HANDLER_ERROR").json();
    assert_eq!(body["error"]["message"], "ValueError: not that");
}

#[test]
fn a_job_that_exits_without_a_callback_is_pod_lost() {
    let folder = ScratchFolder::create();
    let script = "echo x >> runs; exit 0";
    let function = folder.shell("job-exits", "JOB", script);
    plane().register(&with(function.clone(), &json!({"maxRetries": 0})));
    plane()
        .invoke("job-exits", &json!(1))
        .expect_failure(502, "error", "POD_LOST");
    assert_eq!(folder.read("runs").as_deref(), Some("x\n"));
    plane().replace(&with(function, &json!({"maxRetries": 5})));
    plane()
        .invoke("job-exits", &json!(1))
        .expect_failure(502, "error", "POD_LOST");
    assert_eq!(
        folder.read("runs").as_deref(),
        Some("x\nx\nx\n"),
        "tried again once"
    );
}

#[test]
fn a_job_that_says_its_worker_was_lost_is_tried_once_more() {
    let folder = ScratchFolder::create();
    plane().register(&folder.shell("job-tells", "JOB", IDLES));
    let mut wire = Request::invoke("job-tells", &json!(1)).begin(plane().listen);
    let error = json!({"code": "POD_LOST", "message": "the worker exited with status 3"});
    let lost = json!({"success": false, "error": error});
    Seat::of(&folder).post(&lost).expect(204);
    let environment = || folder.read("env.txt").unwrap_or_default();
    eventually("the second attempt starts", || {
        environment().contains("DISPATCH_ATTEMPT=2")
    });
    Seat::of(&folder).post(&lost).expect(204);
    let answer = wire
        .answer()
        .expect_failure(502, "error", "POD_LOST")
        .json();
    assert_eq!(answer["error"], error);
}

#[test]
fn a_job_is_ended_when_its_deadline_passes_or_it_is_cancelled() {
    let folder = ScratchFolder::create();
    let script = "echo $$ > pid.part; mv pid.part pid; exec sleep 60";
    plane().register(&folder.shell("job-late", "JOB", script));
    let pid = || -> i32 {
        eventually("the Job's process runs", || folder.read("pid").is_some());
        let text = folder.read("pid").expect("a pid");
        std::fs::remove_file(folder.path().join("pid")).expect("a file");
        text.trim().parse().expect("a pid")
    };
    // Longer than the start of a process takes while other tests run.
    let late = Request::invoke("job-late", &json!(1)).header("X-Timeout-Ms", "5000");
    let mut wire = late.begin(plane().listen);
    let running = pid();
    wire.answer().expect_failure(408, "timeout", "TIMEOUT");
    eventually("the Job's process is ended", || !is_alive(running));
    let id = plane().enqueue("job-late", &json!(1));
    let running = pid();
    plane().cancel(&id).expect(202);
    assert_eq!(plane().ended(&id)["error"]["code"], "CANCELLED");
    eventually("the Job's process is ended", || !is_alive(running));
    let wire = Request::invoke("job-late", &json!(1)).begin(plane().listen);
    let running = pid();
    drop(wire);
    eventually("the Job's process is ended", || !is_alive(running));
    plane().wait_for("job-late", 0, 0);
}

#[test]
fn a_result_is_recorded_once_and_what_comes_later_changes_nothing() {
    let folder = ScratchFolder::create();
    let idles = folder.shell("job-twice", "JOB", IDLES);
    plane().register(&with(idles, &json!({"concurrency": 1, "maxRetries": 0})));
    let mut wire = Request::invoke("job-twice", &json!(1)).begin(plane().listen);
    let seat = Seat::of(&folder);
    assert!(
        seat.post(&success(json!({"first": 1.0})))
            .expect(204)
            .body
            .is_empty()
    );
    let answer = wire.answer().expect(200);
    assert_eq!(
        (answer.id(), &answer.json()["output"]),
        (seat.id.clone(), &json!({"first": 1.0}))
    );
    let status = plane().status(&seat.id);
    seat.post(&success(json!("second"))).expect(409);
    seat.post(&json!({"success": false, "error": {"code": "X", "message": "y"}}))
        .expect(409);
    assert_eq!(
        plane().status(&seat.id),
        status,
        "a terminal state never changes"
    );
    // The slot was freed only once, so two more calls do not run at the same time.
    plane().wait_for("job-twice", 0, 0);
    std::fs::remove_file(folder.path().join("env.txt")).expect("a file");
    let second = plane().enqueue("job-twice", &json!(1));
    let third = plane().enqueue("job-twice", &json!(1));
    let seat = Seat::of(&folder);
    assert_eq!(seat.id, second);
    plane().wait_for("job-twice", 1, 1);
    assert_eq!(plane().status(&third)["status"], "queued");
    plane().cancel(&third).expect(202);
    plane().cancel(&second).expect(202);
    plane().ended(&second);
    seat.post(&success(json!("late"))).expect(409);
    assert_eq!(plane().status(&second)["error"]["code"], "CANCELLED");
    plane().wait_for("job-twice", 0, 0);
}

#[test]
fn many_completions_at_once_free_one_slot() {
    let folder = ScratchFolder::create();
    let idles = folder.shell("job-storm", "JOB", IDLES);
    plane().register(&with(idles, &json!({"concurrency": 1, "maxRetries": 0})));
    let mut wire = Request::invoke("job-storm", &json!(1)).begin(plane().listen);
    let seat = Seat::of(&folder);
    let mut wires: Vec<_> = (0..16)
        .map(|n| Request::new("POST", &seat.complete()).json(&success(json!(n))))
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
fn a_result_may_be_an_error_or_raw_bytes() {
    let folder = ScratchFolder::create();
    let idles = folder.shell("job-forms", "JOB", IDLES);
    plane().register(&with(idles, &json!({"maxRetries": 0})));
    let run = |result: Request| -> Answer {
        let mut wire = Request::invoke("job-forms", &json!(1)).begin(plane().listen);
        let seat = Seat::of(&folder);
        std::fs::remove_file(folder.path().join("env.txt")).expect("a file");
        let bytes = String::from_utf8(result.bytes())
            .expect("text")
            .replace("PATH", &seat.complete());
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
fn a_result_that_cannot_be_taken_is_refused_and_the_call_goes_on() {
    let folder = ScratchFolder::create();
    let idles = folder.shell("job-bad", "JOB", IDLES);
    plane().register(&with(idles, &json!({"maxRetries": 0})));
    let mut wire = Request::invoke("job-bad", &json!(1)).begin(plane().listen);
    let seat = Seat::of(&folder);
    let post = |body: &str| {
        let request = Request::new("POST", &seat.complete()).body("application/json", body);
        plane().send(&request).status
    };
    for bad in ["", "{", "[]", r#"{"success":"yes"}"#, r#"{"output":1}"#] {
        assert_eq!(post(bad), 400, "{bad}");
    }
    assert_eq!(plane().status(&seat.id)["status"], "running");
    seat.post(&success(json!("fine"))).expect(204);
    assert_eq!(wire.answer().expect(200).json()["output"], "fine");
}

/// If the Job posts no other result, the wrong one is the call's error, and the call is not run
/// again.
#[test]
fn a_job_that_ends_after_a_result_that_cannot_be_taken_had_a_bad_output() {
    let folder = ScratchFolder::create();
    let until_told = "env > env.part; mv env.part env.txt; until [ -e end ]; do sleep 0.01; done";
    plane().register(&folder.shell("job-nan", "JOB", until_told));
    let mut wire = Request::invoke("job-nan", &json!(1)).begin(plane().listen);
    let seat = Seat::of(&folder);
    let body = r#"{"success":true,"output":NaN,"error":null}"#;
    let request = Request::new("POST", &seat.complete()).body("application/json", body);
    plane().send(&request).expect(400);
    std::fs::write(folder.path().join("end"), "").expect("a file");
    let answer = wire.answer().expect_failure(502, "error", "BAD_OUTPUT");
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("no result: the body must be"), "{message}");
    assert_eq!(plane().status(&seat.id)["attempt"], 1);
}

#[test]
fn a_result_over_the_limit_is_413_and_ends_the_call() {
    let folder = ScratchFolder::create();
    let idles = folder.shell("job-over", "JOB", IDLES);
    plane().register(&with(idles, &json!({"maxRetries": 0})));
    let mut wire = Request::invoke("job-over", &json!(1)).begin(plane().listen);
    let seat = Seat::of(&folder);
    // A result with another token is refused, and ends no call.
    let foreign = seat.complete().replace(seat.token(), "1.00");
    let large = success(json!("a".repeat(100_000)));
    let status = plane()
        .send(&Request::new("POST", &foreign).json(&large))
        .status;
    assert_eq!(status, 403);
    assert_eq!(plane().status(&seat.id)["status"], "running");
    seat.post(&large).expect(413);
    wire.answer()
        .expect_failure(502, "error", "OUTPUT_TOO_LARGE");
}

#[test]
fn a_wrong_token_is_403_whatever_the_rest_is() {
    let folder = ScratchFolder::create();
    plane().register(&folder.shell("job-token", "JOB", IDLES));
    let mut wire = Request::invoke("job-token", &json!({"secret": 1})).begin(plane().listen);
    let seat = Seat::of(&folder);
    let other_folder = ScratchFolder::create();
    plane().register(&other_folder.shell("job-token-other", "JOB", IDLES));
    let other_wire = Request::invoke("job-token-other", &json!(1)).begin(plane().listen);
    let other = Seat::of(&other_folder);
    let token = seat.token().to_owned();
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
            format!("/v1/internal/{wrong}/executions/{}:complete", seat.id),
            format!("/v1/internal/{wrong}/executions/nobody:complete"),
        ] {
            let request = Request::new("POST", &path).json(&success(json!(1)));
            assert_eq!(plane().send(&request).status, 403, "{path}");
        }
        let path = format!("/v1/internal/{wrong}/executions/{}/input", seat.id);
        plane().get(&path).expect(403);
        let path = format!("/v1/internal/{wrong}/pods/fn-x-abcde:ready");
        plane()
            .send(&Request::new("POST", &path).json(&json!({})))
            .expect(403);
    }
    let input = plane()
        .get(&format!("{}/{}/input", seat.base, seat.id))
        .expect(200);
    assert_eq!(input.header("content-type"), Some("application/json"));
    assert_eq!(input.json(), json!({"input": {"secret": 1}}));
    seat.post(&success(json!(1))).expect(204);
    wire.answer().expect(200);
    plane()
        .get(&format!("{}/{}/input", seat.base, seat.id))
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
    let seat = |name: &str| {
        std::fs::copy(folder.path().join(name), folder.path().join("env.txt")).expect("a file");
        Seat::of(&folder)
    };
    let (first, second) = (seat("env.0"), seat("env.1"));
    assert_eq!((&first.id, &second.id), (&id, &id));
    assert_ne!(first.token(), second.token());
    first.post(&success(json!("old"))).expect(409);
    assert_eq!(plane().status(&id)["status"], "running");
    second.post(&success(json!("new"))).expect(204);
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
    let seat = Seat::of(&folder);
    plane.cancel(&id).expect(202);
    eventually("the execution is forgotten", || {
        plane.get(&format!("/v1/executions/{id}")).status == 404
    });
    let request = Request::new("POST", &seat.complete()).json(&success(json!(1)));
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
    let seat = Seat::of(&idle_folder);
    let request = Request::new("POST", &seat.complete()).json(&success(json!(7)));
    request.send(plane.listen).expect(404);
    Request::get("/v1/functions").send(internal).expect(404);
    Request::invoke("job-internal", &json!(1))
        .send(internal)
        .expect(404);
    request.send(internal).expect(204);
    assert_eq!(wire.answer().expect(200).json()["output"], 7);
}

#[test]
fn a_job_knows_how_much_time_it_has() {
    let folder = ScratchFolder::create();
    plane().register(&with(
        folder.shell("job-env", "JOB", IDLES),
        &json!({"timeoutMs": 40_000}),
    ));
    let request = Request::invoke("job-env", &json!("x")).header("X-Trace-Id", "t-1");
    let wire = request.begin(plane().listen);
    let seat = Seat::of(&folder);
    let text = folder.read("env.txt").expect("an environment");
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_default().to_owned()
    };
    assert_eq!(value("DISPATCH_ATTEMPT"), "1");
    assert_eq!(value("TRACE_ID"), "t-1");
    assert_eq!(value("FUNCTION_NAME"), "job-env");
    assert_eq!(value("INVOCATION_PAYLOAD"), r#"{"input":"x"}"#);
    let left = value("INVOCATION_TIMEOUT_MS").parse::<u64>().ok();
    assert!(
        left.is_some_and(|ms| (20_000..=40_000).contains(&ms)),
        "{left:?}"
    );
    assert!(seat.token().starts_with("1."));
    drop(wire);
    std::thread::sleep(Duration::from_millis(10));
}
