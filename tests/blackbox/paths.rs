//! These tests check the answers to unknown paths, wrong methods, foreign origins, invalid hosts and HEAD
//! requests.

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane};
use nanofaas_testkit::functions::local;
use serde_json::json;

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

#[test]
fn the_api_description_is_served_unchanged() {
    let answer = plane().get("/openapi.yaml").expect(200);
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml"));
    assert!(answer.body == file.expect("the file"), "another text");
    assert_eq!(answer.header("content-type"), Some("application/yaml"));
}

#[test]
fn an_unknown_path_is_404() {
    for path in [
        "/",
        "/v1",
        "/v1/function",
        "/v1/functions/a/b",
        "/v2/functions",
        "/metrics",
        "/v1/functions/a:run",
        "/v1/executions",
        "//v1/functions",
        "/v1/internal/x",
    ] {
        let answer = plane().get(path).expect(404);
        assert!(answer.json()["error"].is_string(), "{path}");
    }
}

#[test]
fn a_wrong_method_is_405_naming_others() {
    plane().register(&local("routes-method"));
    let call = "/v1/functions/routes-method:invoke";
    for (method, path, allowed) in [
        ("DELETE", "/v1/functions", "GET HEAD POST"),
        (
            "PATCH",
            "/v1/functions/routes-method",
            "DELETE GET HEAD PUT",
        ),
        ("POST", "/v1/functions/routes-method", "DELETE GET HEAD PUT"),
        ("GET", call, "POST"),
        ("DELETE", "/v1/functions/routes-method:enqueue", "POST"),
        ("GET", "/v1/functions/routes-method/replicas", "PUT"),
        (
            "POST",
            "/v1/functions/routes-method/cold-starts",
            "GET HEAD",
        ),
        ("PUT", "/v1/executions/x", "DELETE GET HEAD"),
        ("POST", "/v1/executions/x/output", "GET HEAD"),
        ("DELETE", "/openapi.yaml", "GET HEAD"),
        ("GET", "/v1/internal/t/executions/x:complete", "POST"),
        ("POST", "/v1/internal/t/executions/x/input", "GET HEAD"),
        ("GET", "/v1/internal/t/pods/p:ready", "POST"),
        ("BREW", call, "POST"),
    ] {
        let mut request = Request::new(method, path);
        if matches!(method, "POST" | "PUT" | "PATCH") {
            request = request.json(&json!({}));
        }
        let answer = plane().send(&request);
        let shown = format!("{method} {path}: {}", answer.text());
        assert_eq!(answer.status, 405, "{shown}");
        let allow = answer.header("allow").unwrap_or_default();
        let mut allow: Vec<&str> = allow.split(',').map(str::trim).collect();
        allow.sort_unstable();
        assert_eq!(allow.join(" "), allowed, "{shown}");
    }
}

#[test]
fn a_function_is_taken_only_as_application_json() {
    for (method, path) in [
        ("POST", "/v1/functions"),
        ("PUT", "/v1/functions/routes-type"),
    ] {
        for content_type in ["text/plain", "application/x-www-form-urlencoded"] {
            let body = local("routes-type").to_string();
            let request = Request::new(method, path).body(content_type, body);
            assert_eq!(
                plane().send(&request).status,
                415,
                "{method} {content_type}"
            );
        }
    }
    plane().get("/v1/functions/routes-type").expect(404);
    let request = Request::new("PUT", "/v1/functions/routes-type").body(
        "application/json; charset=utf-8",
        local("routes-type").to_string(),
    );
    plane().send(&request).expect(201);
}

#[test]
fn a_cross_site_browser_request_is_403() {
    plane().register(&local("routes-site"));
    let delete = Request::delete("/v1/functions/routes-site");
    for origin in ["http://evil.example", "null", "http://localhost:8080"] {
        plane()
            .send(&delete.clone().header("Origin", origin))
            .expect(403);
        let call = Request::invoke("routes-site", &json!(1)).header("Origin", origin);
        plane().send(&call).expect(403);
    }
    for host in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "10.0.0.1",
    ] {
        plane().send(&delete.clone().host(host)).expect(403);
        plane()
            .send(&Request::get("/v1/functions").host(host))
            .expect(403);
    }
    let port = plane().listen.port();
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "[::1]",
        &format!("127.0.0.1:{port}"),
    ] {
        plane()
            .send(&Request::get("/v1/functions/routes-site").host(host))
            .expect(200);
    }
}

#[test]
fn a_host_that_cannot_be_one_is_400() {
    for host in [
        "[::1].evil.example",
        "[::1]evil:80",
        "[::1",
        "::1",
        "[]",
        "[::1]]",
        "[[::1]]",
        "[::1%25lo]",
        "[::1%lo]",
        "[127.0.0.1]",
        "[localhost]",
        "[::1]:",
        "[::1]:x",
        "localhost:",
        "localhost:abc",
        "localhost:80:80",
        "localhost:65536",
        "localhost:-1",
        "localhost:+80",
        "localhost:000080",
        "localhost:80 ,evil.example",
        "localhost evil.example",
        "evil.example@localhost",
        "localhost%",
        "localhost%zz",
        ":80",
    ] {
        let get = Request::get("/v1/functions").host(host);
        plane().send(&get).expect_error(400, "BAD_REQUEST");
        let call = Request::invoke("routes-host", &json!(1)).host(host);
        plane().send(&call).expect_error(400, "BAD_REQUEST");
    }
    for host in [
        "[::1]:65535",
        "[0:0:0:0:0:0:0:1]",
        "localhost:0",
        "127.1.2.3:80",
    ] {
        let get = Request::get("/v1/functions").host(host);
        plane().send(&get).expect(200);
    }
    for host in [
        "localhost.",
        "[::2]",
        "[::ffff:10.0.0.1]:80",
        "%6cocalhost",
        "",
    ] {
        let get = Request::get("/v1/functions").host(host);
        plane().send(&get).expect(403);
    }
}

#[test]
fn head_answers_like_get_without_a_body() {
    plane().register(&local("routes-head"));
    let id = plane().enqueue("routes-head", &json!(1));
    plane().ended(&id);
    for path in [
        "/v1/functions/routes-head",
        "/v1/functions/routes-head/cold-starts",
        "/openapi.yaml",
        &format!("/v1/executions/{id}"),
        &format!("/v1/executions/{id}/output"),
        "/nowhere",
    ] {
        let got = plane().get(path);
        // A body behind the answer to HEAD would make the next answer on the connection invalid.
        let mut wire = Request::new("HEAD", path).begin(plane().listen);
        let head = wire.read(false).expect("an answer");
        assert_eq!(
            (head.status, head.header("content-length")),
            (got.status, got.header("content-length")),
            "{path}"
        );
        wire.send(&Request::get("/v1/functions/routes-head").bytes());
        wire.answer().expect(200);
    }
}

#[test]
fn names_in_paths_may_be_escaped() {
    plane().register(&local("routes.dot_under-1"));
    plane()
        .get("/v1/functions/routes%2Edot%5Funder-1")
        .expect(200);
    let call = Request::new("POST", "/v1/functions/routes%2Edot_under-1:invoke")
        .json(&json!({"input": 1}));
    plane().send(&call).expect(200);
    for bad in [
        "/v1/functions/a%zz",
        "/v1/functions/a%00",
        "/v1/functions/%ff",
    ] {
        let status = plane().get(bad).status;
        assert!(matches!(status, 400 | 404), "{bad}: {status}");
    }
}
