//! These tests run the original's images as processes of this machine, and register fields of the original's
//! specs that this platform does not have. The module `original` has the original's client.

use nanofaas_testkit::folder::ScratchFolder;
use serde_json::json;

use crate::original::{
    ONE_SHOT, enqueue_and_watch, get, invoke, local, register, sdk_server, spec,
};

/// The server of an SDK image. It listens on `PORT`, and contains no code of this platform.
const SDK: &str = r#"
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cold = True
    def answer(self, status, value, headers=()):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in [("Content-Type", "application/json"), *headers]:
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(200 if self.path == "/health" else 404, {"status": "ok"})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.headers["X-Execution-Id"]:
            return self.answer(400, {"detail": "Execution ID required"})
        headers = []
        if Handler.cold:
            Handler.cold = False
            headers = [("X-Cold-Start", "true"), ("X-Init-Duration-Ms", "12")]
        how = body["input"]
        if how == "coded":
            error = {"code": "HANDLER_TIMEOUT", "message": "Handler exceeded configured timeout"}
            return self.answer(504, {"error": error})
        if how == "detail":
            return self.answer(400, {"detail": "not that"})
        if how == "env":
            names = ["FUNCTION_NAME", "TIMEOUT_MS", "EXECUTION_MODE", "PORT", "CALLBACK_URL"]
            how = {name: os.environ.get(name) for name in names}
        self.answer(200, how if isinstance(how, (dict, list)) else {"result": how}, headers)
    def log_message(self, *_): pass
port = int(os.environ.get("PORT", "8080"))
http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
"#;

#[test]
fn its_sdk_images_are_warm_pods() {
    let folder = ScratchFolder::create();
    let mode = json!({"executionMode": "DEPLOYMENT", "timeoutMs": 20_000});
    register(&local(&folder, "orig-warm", SDK, &mode)).expect(201);
    let first = enqueue_and_watch("orig-warm", &json!([1]));
    assert_eq!(
        (&first["output"], &first["coldStart"]),
        (&json!([1]), &json!(true))
    );
    let second = invoke("orig-warm", &json!("a")).expect(200).json();
    assert_eq!(second["output"], json!({"result": "a"}));
    let env = invoke("orig-warm", &json!("env")).expect(200).json()["output"].clone();
    assert_eq!(env["FUNCTION_NAME"], "orig-warm");
    assert_eq!(env["TIMEOUT_MS"], "20000");
    assert_eq!(env["EXECUTION_MODE"], "HTTP");
    assert!(
        env["PORT"].is_string() && env["CALLBACK_URL"].is_null(),
        "{env}"
    );
    let coded = invoke("orig-warm", &json!("coded"));
    coded.expect_failure(500, "error", "HANDLER_TIMEOUT");
    let detail = invoke("orig-warm", &json!("detail"));
    let detail = detail.expect_failure(500, "error", "HANDLER_ERROR").json();
    assert_eq!(detail["error"]["message"], "not that");
    assert_eq!(
        get("orig-warm").expect(200).json()["executionMode"],
        "DEPLOYMENT"
    );
}

#[test]
fn a_100_kib_job_is_in_its_environment() {
    let folder = ScratchFolder::create();
    let mode = json!({"executionMode": "REMOTE"});
    register(&local(&folder, "orig-large", ONE_SHOT, &mode)).expect(201);
    let input = json!("a".repeat(100 * 1024));
    let output = invoke("orig-large", &input).expect(200).json()["output"].clone();
    assert_eq!(output["echo"], input);
}

#[test]
fn superfluous_spec_fields_are_warned_of() {
    let pod = sdk_server();
    let more = json!({"executionMode": "POOL", "endpointUrl": pod.url, "runtimeMode": "FILE",
        "resources": {"requests": {"cpu": 0.25}, "limits": {"memoryMiB": 128}},
        "scalingConfig": {"strategy": "INTERNAL", "minReplicas": 0},
        "offload": {"enabled": false}, "x-cli": {"build": {"context": "."}}});
    let answer = register(&spec("orig-more", &more)).expect(201);
    assert_eq!(answer.json()["runtimeMode"], "FILE");
    let warnings: Vec<&str> = answer
        .headers
        .iter()
        .filter(|(name, _)| name == "warning")
        .map(|(_, text)| text.as_str())
        .collect();
    let fields = [
        "offload",
        "x-cli",
        "resources.requests",
        "resources.limits",
        "scalingConfig.strategy",
    ];
    for field in fields {
        let named = warnings.iter().any(|text| text.contains(field));
        assert!(named, "{field}: {warnings:?}");
    }
}
