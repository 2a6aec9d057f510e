//! These tests use HTTP servers and clients that were not written for this platform. They check how the plane
//! treats their error messages, content types, encodings, hosts and keep-alive times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::functions::{local, pool, with};
use nanofaas_testkit::pod::ScriptedPod;
use nanofaas_testkit::wait::eventually;
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn a_functions_own_error_is_the_message() {
    let long = format!("x{}", "é".repeat(10_000));
    for (name, status, headers, body, code, message) in [
        (
            "text",
            500,
            "Content-Type: text/plain\r\n",
            "plain words\n",
            "HANDLER_ERROR",
            "plain words",
        ),
        (
            "untyped",
            404,
            "",
            "no such page",
            "HANDLER_ERROR",
            "no such page",
        ),
        (
            "detail",
            422,
            JSON,
            r#"{"detail":"of FastAPI"}"#,
            "HANDLER_ERROR",
            "of FastAPI",
        ),
        (
            "list",
            422,
            JSON,
            r#"{"detail":[{"loc":["a"]}]}"#,
            "HANDLER_ERROR",
            r#"[{"loc":["a"]}]"#,
        ),
        (
            "nested",
            500,
            JSON,
            r#"{"error":{"code":"MINE","message":"words"}}"#,
            "MINE",
            "words",
        ),
        (
            "number",
            500,
            JSON,
            r#"{"code":500,"message":"words"}"#,
            "HANDLER_ERROR",
            "words",
        ),
        (
            "flat",
            500,
            JSON,
            r#"{"error":"flat"}"#,
            "HANDLER_ERROR",
            "flat",
        ),
        (
            "other",
            500,
            JSON,
            r#"{"why":[1]}"#,
            "HANDLER_ERROR",
            r#"{"why":[1]}"#,
        ),
        (
            "control",
            500,
            "",
            "a\u{1}\"b",
            "HANDLER_ERROR",
            "a\u{1}\"b",
        ),
        (
            "nothing",
            500,
            "",
            "",
            "HANDLER_ERROR",
            "the function answered with status 500",
        ),
        (
            "long",
            500,
            "",
            &long,
            "HANDLER_ERROR",
            &format!("x{}…", "é".repeat(511)),
        ),
    ] {
        let body = body.to_owned();
        let pod = ScriptedPod::tcp(move |_, line| line.answer(status, headers, body.as_bytes()));
        let name = format!("foreign-says-{name}");
        plane().register(&pool(&name, &pod));
        let answer = plane().invoke(&name, &Value::Null);
        let answer = answer.expect_failure(500, "error", code).json();
        assert_eq!(answer["error"], json!({"code": code, "message": message}));
    }
    let pod = ScriptedPod::tcp(|_, line| line.answer(500, "", b"\xffbytes"));
    plane().register(&pool("foreign-says-bytes", &pod));
    let answer = plane().invoke("foreign-says-bytes", &Value::Null);
    let answer = answer.expect_failure(500, "error", "HANDLER_ERROR").json();
    assert_eq!(answer["error"]["message"], "\u{fffd}bytes");
}

#[test]
fn a_functions_429_says_when_to_call_again() {
    for (name, status, header, passed) in [
        ("seconds", 429, "Retry-After: 7\r\n", Some("7")),
        (
            "date",
            429,
            "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\n",
            Some("Fri, 31 Dec 2100 23:59:59 GMT"),
        ),
        ("none", 429, "", None),
        ("bytes", 429, "Retry-After: \u{e9}\r\n", None),
        ("other", 500, "Retry-After: 7\r\n", None),
    ] {
        let pod = ScriptedPod::tcp(move |_, line| line.answer(status, header, b"too many"));
        let name = format!("foreign-busy-{name}");
        plane().register(&pool(&name, &pod));
        let call = Request::invoke(&name, &Value::Null);
        for call in [call.clone(), call.header("Idempotency-Key", "k")] {
            let answer = plane().send(&call);
            let answer = answer.expect_failure(500, "error", "HANDLER_ERROR");
            assert_eq!(answer.header("retry-after"), passed, "{name}");
        }
    }
}

#[test]
fn a_pod_hears_the_host_of_its_endpoint() {
    let (tcp, unix) = (
        ScriptedPod::echo(),
        ScriptedPod::unix(|_, line| line.json("1")),
    );
    let port = tcp.url.split([':', '/']).nth(4).expect("a port").to_owned();
    let url = format!("http://localhost:{port}/path");
    plane().register(&with(
        pool("foreign-host-tcp", &tcp),
        &json!({"endpointUrl": url}),
    ));
    plane().register(&pool("foreign-host-unix", &unix));
    // The plane may answer the registration before it has resolved the name.
    for name in ["foreign-host-tcp", "foreign-host-unix"] {
        eventually("the name is resolved", || {
            plane().invoke(name, &json!(1)).status == 200
        });
    }
    let host = format!("localhost:{port}");
    assert_eq!(tcp.calls()[0].header("host"), Some(&*host));
    assert_eq!(unix.calls()[0].header("host"), Some("foreign-host-unix"));
}

#[test]
fn only_space_around_an_output_is_dropped() {
    let pod = ScriptedPod::tcp(|_, line| line.answer(200, JSON, b"\r\n {\"a\": [ 1,\t2 ]} \n"));
    plane().register(&pool("foreign-space", &pod));
    let answer = plane().invoke("foreign-space", &json!(1)).expect(200);
    let output = "{\"a\": [ 1,\t2 ]}";
    let around = format!(",\"output\":{output},\"error\":null}}");
    assert!(answer.text().ends_with(&around), "{}", answer.text());
    let id = plane().enqueue("foreign-space", &json!(1));
    assert_eq!(plane().ended(&id)["output"], json!({"a": [1, 2]}));
    let kept = plane().get(&format!("/v1/executions/{id}/output"));
    assert_eq!(kept.expect(200).text(), output);
    // A LOCAL function returns its input. The plane drops the space around `input` and keeps the space inside
    // it.
    plane().register(&local("foreign-space-local"));
    let request = Request::new("POST", "/v1/functions/foreign-space-local:invoke");
    let spaced = " { \"input\" : [ 1 ]\n } \n";
    let answer = plane().send(&request.body("application/json", spaced));
    let answer = answer.expect(200).text();
    assert!(answer.contains("\"output\":[ 1 ],"), "{answer}");
}

#[test]
fn json_by_its_suffix_is_json() {
    let types = [
        "application/problem+json",
        "Application/Vnd.Api+JSON; ext=\"a\"",
        "application/json;charset=UTF-8",
    ];
    for (number, content_type) in types.into_iter().enumerate() {
        let pod = ScriptedPod::tcp(move |_, line| {
            let header = format!("Content-Type: {content_type}\r\n");
            line.answer(200, &header, b"{\"a\":1}")
        });
        let name = format!("foreign-suffix-{number}");
        plane().register(&pool(&name, &pod));
        let call = |body: &str| {
            let request = Request::new("POST", &format!("/v1/functions/{name}:invoke"));
            plane().send(
                &request
                    .body(content_type, body)
                    .header("Idempotency-Key", body),
            )
        };
        let envelope = "{\"input\":1}";
        let answer = call(envelope).expect(200);
        assert_eq!(answer.json()["output"], json!({"a": 1}), "{content_type}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        // The output is stored with the pod's content type.
        let kept = plane().get(&format!("/v1/executions/{}/output", answer.id()));
        assert_eq!(kept.expect(200).header("content-type"), Some(content_type));
        call("{\"a\":1}").expect_error(400, "BAD_REQUEST");
        let got = &pod.calls()[0];
        assert_eq!(got.header("content-type"), Some(content_type));
        assert_eq!(got.body, envelope.as_bytes());
        let said = ScriptedPod::tcp(move |_, line| {
            let header = format!("Content-Type: {content_type}\r\n");
            line.answer(200, &header, b"no JSON")
        });
        let name = format!("foreign-suffix-{number}-bad");
        plane().register(&pool(&name, &said));
        let answer = plane().invoke(&name, &json!(1));
        answer.expect_failure(502, "error", "BAD_OUTPUT");
    }
}

/// The bytes of an encoded body, which the plane must not decode.
const ENCODED: &[u8] = b"\x1f\x8b\x08\x00 whatever";

fn encoded(name: &str, action: &str, content_type: &str) -> Request {
    let request = Request::new("POST", &format!("/v1/functions/{name}:{action}"));
    let request = request.body(content_type, ENCODED);
    request.header("Content-Encoding", "gzip")
}

#[test]
fn a_body_that_passes_untouched_keeps_its_encoding() {
    let pod = ScriptedPod::tcp(|got, line| {
        let encoding = got.header("content-encoding").unwrap_or("identity");
        let headers = format!("Content-Type: text/html\r\nContent-Encoding: {encoding}\r\n");
        line.answer(200, &headers, &got.body)
    });
    plane().register(&pool("foreign-encoded", &pod));
    plane().register(&local("foreign-encoded-local"));
    for (name, content_type, back) in [
        ("foreign-encoded", "text/plain", "text/html"),
        ("foreign-encoded", "a/b", "text/html"),
        ("foreign-encoded-local", "a/b", "a/b"),
    ] {
        let answer = plane().send(&encoded(name, "invoke", content_type));
        let answer = answer.expect(200);
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        assert_eq!(answer.header("content-type"), Some(back));
        assert_eq!(answer.body, ENCODED);
        // A stored output keeps its encoding, too. The second answer comes from the store.
        let keyed = encoded(name, "invoke", content_type).header("Idempotency-Key", content_type);
        for _ in 0..2 {
            let answer = plane().send(&keyed).expect(200);
            assert_eq!(answer.header("content-encoding"), Some("gzip"));
            assert_eq!(answer.body, ENCODED);
        }
        let id = plane().send(&encoded(name, "enqueue", content_type)).id();
        let base64 = "H4sIACB3aGF0ZXZlcg==";
        let shown = json!({"contentType": back, "contentEncoding": "gzip", "base64": base64});
        assert_eq!(plane().ended(&id)["output"], shown);
        let kept = plane().get(&format!("/v1/executions/{id}/output"));
        let kept = kept.expect(200);
        assert_eq!(kept.header("content-encoding"), Some("gzip"));
        assert_eq!(kept.body, ENCODED);
        // The same bytes in another encoding count as another body.
        let other = Request::new("POST", &format!("/v1/functions/{name}:invoke"));
        let other = other
            .body(content_type, ENCODED)
            .header("Idempotency-Key", content_type);
        plane()
            .send(&other)
            .expect_error(422, "IDEMPOTENCY_MISMATCH");
    }
    assert!(
        pod.calls()
            .iter()
            .all(|got| got.header("content-encoding") == Some("gzip"))
    );
    // `identity` means that the body is not encoded, so neither pod nor client gets a Content-Encoding.
    let plain = Request::new("POST", "/v1/functions/foreign-encoded:invoke");
    let plain = plain
        .body("a/b", "x")
        .header("Content-Encoding", "identity");
    let answer = plane().send(&plain).expect(200);
    assert_eq!(answer.header("content-encoding"), None);
    let calls = pod.calls();
    let got = calls.last().expect("a call");
    assert_eq!(got.header("content-encoding"), None);
}

#[test]
fn what_is_read_here_must_not_be_encoded() {
    plane().register(&local("foreign-envelope"));
    for content_type in ["application/json", "application/a+json; charset=utf-8"] {
        for action in ["invoke", "enqueue"] {
            let answer = plane().send(&encoded("foreign-envelope", action, content_type));
            let answer = answer.expect_error(415, "UNSUPPORTED_MEDIA_TYPE");
            assert_eq!(answer.header("accept-encoding"), Some("identity"));
            assert!(
                answer.text().contains("Content-Encoding"),
                "{}",
                answer.text()
            );
        }
    }
    let identity = Request::invoke("foreign-envelope", &json!(1));
    let identity = identity.header("Content-Encoding", "identity");
    plane().send(&identity).expect(200);
    let function = Request::new("POST", "/v1/functions").json(&local("foreign-never"));
    let answer = plane().send(&function.header("Content-Encoding", "gzip"));
    answer.expect_error(415, "UNSUPPORTED_MEDIA_TYPE");
    for (name, headers) in [
        ("json", JSON),
        ("untyped", ""),
        ("text", "Content-Type: text/plain\r\n"),
    ] {
        let headers = format!("{headers}Content-Encoding: br\r\n");
        let pod = ScriptedPod::tcp(move |_, line| line.answer(200, &headers, b"1"));
        let name = format!("foreign-encoded-{name}");
        plane().register(&pool(&name, &pod));
        let answer = plane().invoke(&name, &json!(1));
        let answer = answer.expect_failure(502, "error", "BAD_OUTPUT").json();
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.contains("encoded (br)"), "{message}");
    }
    // The plane does not decode an encoded body, so it takes no error message from such a body.
    let headers = format!("{JSON}Content-Encoding: br\r\n");
    let pod = ScriptedPod::tcp(move |_, line| line.answer(500, &headers, b"\"words\""));
    plane().register(&pool("foreign-encoded-words", &pod));
    let answer = plane().invoke("foreign-encoded-words", &json!(1));
    let answer = answer.expect_failure(500, "error", "HANDLER_ERROR").json();
    assert_eq!(
        answer["error"]["message"],
        "the function answered with status 500"
    );
}

#[track_caller]
fn epoch_s(date: &str) -> u64 {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let words: Vec<&str> = date.split([' ', ':']).collect();
    let [weekday, day, month, year, hour, minute, second, "GMT"] = words[..] else {
        panic!("{date}");
    };
    assert_eq!(date.len(), "Sun, 06 Nov 1994 08:49:37 GMT".len(), "{date}");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let month = MONTHS.find(month).expect("a month") as u64 / 3 + 1;
    // In this calculation the year begins in March, so that a leap day is the last day of its year.
    let (year, month) = if month > 2 {
        (number(year), month - 3)
    } else {
        (number(year) - 1, month + 9)
    };
    let of_years = 365 * year + year / 4 - year / 100 + year / 400;
    let days = of_years + (153 * month + 2) / 5 + number(day) - 1 - 719_468;
    let weekdays = ["Thu,", "Fri,", "Sat,", "Sun,", "Mon,", "Tue,", "Wed,"];
    assert_eq!(weekday, weekdays[days as usize % 7], "{date}");
    days * 86_400 + number(hour) * 3600 + number(minute) * 60 + number(second)
}

#[test]
fn every_answer_has_its_date() {
    assert_eq!(epoch_s("Sun, 06 Nov 1994 08:49:37 GMT"), 784_111_777);
    let pod = ScriptedPod::tcp(|got, line| match &*got.input().to_string() {
        "1" => line.answer(200, "Content-Type: a/b\r\n", b"raw"),
        "2" => line.answer(200, "", &[b'1'; 200_000]),
        _ => line.answer(500, "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", b"no"),
    });
    plane().register(&pool("foreign-date", &pod));
    plane().register(&local("foreign-date-local"));
    let invoke = |input: u32| Request::invoke("foreign-date", &json!(input));
    let here = [
        (200, Request::invoke("foreign-date-local", &json!(1))),
        (200, invoke(1)),
        (200, invoke(2)),
        (500, invoke(3)),
        (200, invoke(2).header("Idempotency-Key", "k")),
        (202, Request::enqueue("foreign-date-local", &json!(1))),
        (200, Request::get("/v1/functions")),
        (404, Request::get("/nowhere")),
        (405, Request::delete("/v1/functions")),
        (
            400,
            Request::get("/v1/functions").header("Content-Length", "x"),
        ),
        (403, Request::get("/v1/functions").header("Origin", "null")),
    ];
    let managed = [
        (200, Request::get("/healthz")),
        (200, Request::get("/metrics")),
        (404, Request::get("/nowhere")),
    ];
    let here = here.map(|(status, request)| (plane().listen, status, request));
    let managed = managed.map(|(status, request)| (plane().management, status, request));
    for (to, status, request) in here.into_iter().chain(managed) {
        let now_s = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("after 1970")
        };
        let before_s = now_s().as_secs();
        let answer = request.send(to).expect(status);
        let date = answer
            .header("date")
            .unwrap_or_else(|| panic!("{request:?}"));
        // The plane updates the date at most once a second, so the date may be a second older than the
        // request.
        let allowed = before_s - 1..=now_s().as_secs();
        assert!(allowed.contains(&epoch_s(date)), "{date} {request:?}");
    }
}

#[test]
fn a_pods_keep_alive_is_kept_to() {
    // The plane subtracts a second for the transfer from the pod's `timeout`. The plane uses a connection
    // again only if a second or more is left.
    for (name, header, connections) in [
        ("none", "", 1),
        ("long", "Keep-Alive: timeout=60, max=100\r\n", 1),
        ("zero", "Keep-Alive: timeout=0\r\n", 3),
        ("one", "Keep-Alive: max=5, timeout=1\r\n", 3),
    ] {
        let pod = ScriptedPod::tcp(move |_, line| line.answer(200, header, b"1"));
        let name = format!("foreign-keeps-{name}");
        plane().register(&pool(&name, &pod));
        // Each io thread has its own connections to the pod. The test uses one client connection, so one io
        // thread serves it.
        let request = Request::invoke(&name, &json!(1));
        let mut wire = request.begin(plane().listen);
        wire.answer().expect(200);
        for _ in 0..2 {
            wire.send(&request.bytes());
            wire.answer().expect(200);
        }
        assert_eq!(pod.connections(), connections, "{name}");
    }
    let pod = ScriptedPod::tcp(move |_, line| line.answer(200, "Keep-Alive: timeout=2\r\n", b"1"));
    plane().register(&pool("foreign-keeps-two", &pod));
    let request = Request::invoke("foreign-keeps-two", &json!(1));
    let mut wire = request.begin(plane().listen);
    wire.answer().expect(200);
    std::thread::sleep(Duration::from_millis(1100));
    wire.send(&request.bytes());
    wire.answer().expect(200);
    assert_eq!(pod.connections(), 2);
}
