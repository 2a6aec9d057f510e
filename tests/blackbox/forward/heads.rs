//! These tests check what reaches the pod from a client's head, and what reaches the client from the pod's
//! head.

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::local;
use nanofaas_testkit::pod::ScriptedPod;
use serde_json::json;

use super::{get, mirror, plane, register};

const FIRST_LINE: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = self.requestline.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

#[test]
fn rule_1_paths_reach_a_pod_unchanged() {
    let folder = ScratchFolder::create();
    let function = folder.program("fn-paths", "WARM", FIRST_LINE);
    plane().register(&function);
    for (target, seen) in [
        ("/fn/fn-paths", "/"),
        ("/fn/fn-paths/", "/"),
        ("/fn/fn-paths?a=b", "/?a=b"),
        ("/fn/fn-paths/?", "/?"),
        ("/fn/fn%2Dpaths/x", "/x"),
        ("/fn/fn-paths//a/../%2e%2F", "//a/../%2e%2F"),
        (
            "/fn/fn-paths/:@!$&'()*+,;=-._~/%41?q=/?%20",
            "/:@!$&'()*+,;=-._~/%41?q=/?%20",
        ),
        ("http://localhost/fn/fn-paths/abs", "/abs"),
    ] {
        let answer = plane().send(&get(target)).expect(200);
        assert_eq!(answer.text(), format!("GET {seen} HTTP/1.1"), "{target}");
    }
    plane()
        .send(&get("/fn/fn-paths%2Fx"))
        .expect_error(404, "FUNCTION_NOT_FOUND");
    plane()
        .send(&get("/fn/"))
        .expect_error(404, "FUNCTION_NOT_FOUND");
}

#[test]
fn rule_1_an_endpoints_path_cannot_be_left() {
    let pod = mirror();
    let url = pod.url.replace("/invoke", "/base/");
    register("fn-base", &pod, &json!({"endpointUrl": url}));
    for (path, seen) in [("", "/base/"), ("/", "/base/"), ("/a//b?c", "/base/a//b?c")] {
        let answer = plane()
            .send(&get(&format!("/fn/fn-base{path}")))
            .expect(200);
        assert!(
            answer.text().starts_with(&format!("GET {seen} ")),
            "{}",
            answer.text()
        );
    }
    for path in [
        "/..",
        "/a/../b",
        "/%2e%2E/x",
        "/.",
        "/a\\..\\b",
        "/a%5C..%5cb",
    ] {
        let answer = plane().send(&get(&format!("/fn/fn-base{path}")));
        answer.expect_error(400, "BAD_REQUEST");
    }
}

#[test]
fn rule_1_modes_without_http_are_refused() {
    plane().register(&local("fn-local"));
    plane()
        .send(&get("/fn/fn-local/"))
        .expect_error(501, "NOT_HTTP");
    let pod = mirror();
    register("fn-closed", &pod, &json!({"http": null}));
    plane()
        .send(&get("/fn/fn-closed/"))
        .expect_error(404, "NOT_HTTP");
    assert!(pod.calls().is_empty());
}

#[test]
fn rule_2_headers_of_one_hop_stop_here() {
    let pod = mirror();
    register("fn-hop", &pod, &json!({}));
    let own = [
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "Proxy",
        "TE",
        "Trailer",
        "Upgrade",
        "HTTP2-Settings",
        "X-Execution-Id",
        "X-Deadline-Ms",
        "X-Dispatch-Attempt",
        "X-Nanofaas-Call",
        "X-Nanofaas-Other",
        "X_Nanofaas_Call",
        "Keep_Alive",
        "X_Execution-Id",
        "X-Forwarded_For",
        "X_Forwarded_Host",
        "X_Real_IP",
        "X-Named",
    ];
    let mut request = get("/fn/fn-hop/").header("Connection", "X-Named, keep-alive");
    for name in own {
        request = request.header(name, "forged");
    }
    let request = request.headers(&[
        ("Accept", "a"),
        ("accept", "b"),
        ("X-Forwarded-Port", "1"),
        ("cOOKIE", "c=d"),
    ]);
    let text = plane().send(&request).expect(200).text();
    assert!(!text.contains("forged"), "{text}");
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| {
            line.starts_with("accept") || line.contains("cookie") || line.contains("-port")
        })
        .collect();
    assert_eq!(
        kept,
        [
            "accept: a",
            "accept: b",
            "x-forwarded-port: 1",
            "cookie: c=d"
        ]
    );
    assert!(
        text.contains("\nhost: localhost\n") || text.contains("\nhost: 127.0.0.1"),
        "{text}"
    );
    assert!(text.contains("\nx-nanofaas-call: http\n"), "{text}");
    assert!(text.contains("\nvia: 1.1 nanofaas\n"), "{text}");
}

#[test]
fn rule_2_forwarding_headers_are_set_anew() {
    let pod = mirror();
    register("fn-forwarded", &pod, &json!({}));
    let forged = [
        ("X-Forwarded-For", "9.9.9.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "forged"),
        ("X-Forwarded-Prefix", "/forged"),
        ("Forwarded", "for=9.9.9.9"),
        ("X-Real-IP", "9.9.9.9"),
    ];
    let answer = plane().send(
        &get("/fn/fn-forwarded/a")
            .host("localhost:9")
            .headers(&forged),
    );
    let text = answer.expect(200).text();
    let of = |name: &str| -> Vec<String> {
        let name = format!("{name}: ");
        text.lines()
            .filter_map(|line| Some(line.strip_prefix(&name)?.to_owned()))
            .collect()
    };
    assert_eq!(of("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(of("x-forwarded-proto"), ["http"]);
    assert_eq!(of("x-forwarded-host"), ["localhost:9"]);
    assert_eq!(of("x-forwarded-prefix"), ["/fn/fn-forwarded"]);
    assert!(of("forwarded").is_empty() && of("x-real-ip").is_empty());
}

#[test]
fn rule_2_connection_may_not_name_needed_headers() {
    let pod = mirror();
    register("fn-needed", &pod, &json!({}));
    for name in ["Host", "content-length", "Content-Type"] {
        let request = get("/fn/fn-needed/").header("Connection", name);
        plane().send(&request).expect_error(400, "BAD_REQUEST");
    }
    assert!(pod.calls().is_empty());
}

#[test]
fn rule_2_an_answer_keeps_its_own_headers() {
    let pod = ScriptedPod::tcp(|_, line| {
        let headers = "Set-Cookie: a=1\r\nset-cookie: b=2\r\nServer: own\r\nServer-Timing: db;dur=1\r\n\
                       Connection: X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=9\r\nX-Nanofaas-Own: 1\r\n\
                       X-Cold-Start: true\r\nX-Init-Duration-Ms: 5\r\nX-Execution-Id: forged\r\n\
                       Service-Worker-Allowed: /\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nVia: 1.1 other\r\n";
        line.answer(418, headers, b"x")
    });
    register("fn-own", &pod, &json!({}));
    let answer = plane()
        .send(&get("/fn/fn-own/").header("X-Trace-Id", "t-1"))
        .expect(418);
    assert_eq!(answer.headers("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.header("server"), Some("own"));
    assert_eq!(answer.headers("via"), ["1.1 other", "1.1 nanofaas"]);
    assert_eq!(answer.header("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!(answer.header("x-trace-id"), Some("t-1"));
    let timings = answer.headers("server-timing");
    assert!(timings.len() == 2 && timings[0] == "db;dur=1" && timings[1].contains("function;dur="));
    for name in [
        "x-named",
        "keep-alive",
        "x-nanofaas-own",
        "x-cold-start",
        "x-init-duration-ms",
        "service-worker-allowed",
        "connection",
    ] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_ne!(answer.header("x-execution-id"), Some("forged"));
    let status = plane().status(&answer.id());
    assert_eq!(status["status"], "success", "{status}");
}

#[test]
fn rule_2_a_request_in_a_circle_ends() {
    let pod = mirror();
    register("fn-circle", &pod, &json!({}));
    let passes = |count| vec!["1.1 nanofaas"; count].join(", ");
    let via = |count| get("/fn/fn-circle/").header("Via", &passes(count));
    plane().send(&via(15)).expect(200);
    plane().send(&via(16)).expect_error(508, "LOOP");
}

#[test]
fn rule_2_no_request_line_becomes_a_header() {
    let pod = mirror();
    register("fn-crlf", &pod, &json!({}));
    let mut client = RawClient::connect(plane().listen);
    client.send(b"\r\nGET /fn/fn-crlf/a:b HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let text = client.answer().expect(200).text();
    assert!(text.starts_with("GET /a:b HTTP/1.1\n"), "{text}");
    assert!(!text.contains("get /fn"), "{text}");
}

#[test]
fn rule_3_methods_are_the_functions_own() {
    let pod = mirror();
    register("fn-methods", &pod, &json!({}));
    for method in [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "x-own",
    ] {
        let answer = plane()
            .send(&Request::new(method, "/fn/fn-methods/a"))
            .expect(200);
        assert!(
            answer.text().starts_with(&format!("{method} /a HTTP/1.1")),
            "{method}"
        );
    }
    let answer = plane().send(&Request::new("TRACE", "/fn/fn-methods/a"));
    assert!(
        answer
            .header("allow")
            .is_some_and(|allow| allow.contains("PATCH"))
    );
    answer.expect_error(405, "METHOD_NOT_ALLOWED");
}

#[test]
fn rule_5_only_the_platform_marks_calls() {
    let pod = mirror();
    register("fn-marked", &pod, &json!({}));
    let text = plane()
        .send(&get("/fn/fn-marked/invoke"))
        .expect(200)
        .text();
    assert!(
        text.starts_with("GET /invoke ") && text.contains("\nx-nanofaas-call: http"),
        "{text}"
    );
    let invoke = Request::invoke("fn-marked", &json!(1)).header("X-Nanofaas-Call", "http");
    plane().send(&invoke);
    let calls = pod.wait_calls(2);
    assert_eq!(calls[1].header("x-nanofaas-call"), None);
}

#[test]
fn rule_11_old_clients_get_no_chunks() {
    let pod = ScriptedPod::tcp(|_, line| {
        line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        nanofaas_testkit::pod::After::Keep
    });
    register("fn-old", &pod, &json!({}));
    let mut client = RawClient::connect(plane().listen);
    client.send(b"GET /fn/fn-old/ HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
    let seen = &pod.calls()[0];
    assert_eq!(seen.first_line, "GET / HTTP/1.1");
}
