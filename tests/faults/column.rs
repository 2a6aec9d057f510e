//! Each column of the table is a kind of program, and the mode in which it runs as a function.

use std::time::Instant;

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::with;
use serde_json::{Value, json};

use crate::CallerResult;
use crate::program;

pub(crate) struct Column {
    pub(crate) name: &'static str,
    mode: &'static str,
    by: By,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Python,
    PythonAsync,
    Rust,
    Stdio,
    Http,
    Endpoint,
}

pub(crate) const COLUMNS: [Column; 9] = [
    column("WARM Python", "WARM", By::Python),
    column("WARM Python async", "WARM", By::PythonAsync),
    column("WARM Rust", "WARM", By::Rust),
    column("WARM STDIO", "WARM", By::Stdio),
    column("WARM HTTP", "WARM", By::Http),
    column("JOB Python", "JOB", By::Python),
    column("JOB Rust", "JOB", By::Rust),
    column("JOB STDIO", "JOB", By::Stdio),
    column("POOL", "POOL", By::Endpoint),
];

const fn column(name: &'static str, mode: &'static str, by: By) -> Column {
    Column { name, mode, by }
}

/// The timeouts of calls that must time out, in milliseconds: the first for a running function, the second
/// for a call that includes a start.
const SHORT_MS: &str = "500";
const WITH_START_MS: &str = "5000";

impl Column {
    /// Registers a function, lets it fail once, and removes it.
    pub(crate) fn call(&self, plane: &ControlPlane, key: &str) -> CallerResult {
        let folder = ScratchFolder::create();
        let endpoint = program::FaultyEndpoint::start();
        let name = format!("{}-{key}", self.name).replace([' ', '.'], "-");
        let mut function = with(
            self.function(&folder, &endpoint, &name),
            &json!({"timeoutMs": 20_000, "maxRetries": 3, "retryOn": ["POD"]}),
        );
        function["env"]["FAULT"] = json!(key);
        plane.register(&function);
        // A first call starts the function, so the measured time does not include the start. A function that
        // must fail at its start gets no first call.
        let fails_to_start = matches!(key, "import" | "init");
        if self.mode == "WARM" && !fails_to_start {
            plane.invoke(&name, &json!("warm")).expect(200);
        }
        let runs = || match self.by {
            By::Endpoint => endpoint.runs(),
            _ => folder.read("runs").map_or(0, |runs| runs.len()),
        };
        let before = runs();
        let input = if key == "none" {
            json!(null)
        } else {
            json!(key)
        };
        let mut request = Request::invoke(&name, &input);
        if key == "block" {
            let has_start = self.mode == "JOB" || self.by == By::Stdio;
            let time_ms = if has_start { WITH_START_MS } else { SHORT_MS };
            request = request.header("X-Timeout-Ms", time_ms);
        }
        let begun = Instant::now();
        let answer = plane.send(&request);
        let took_ms = begun.elapsed().as_millis() as u64;
        let error = &answer.json()["error"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let seen = CallerResult {
            status: answer.status,
            code: text(&error["code"]),
            message: text(&error["message"]).unwrap_or_default(),
            runs: runs() - before,
            took_ms,
        };
        plane.remove(&name);
        seen
    }

    fn function(
        &self,
        folder: &ScratchFolder,
        endpoint: &program::FaultyEndpoint,
        name: &str,
    ) -> Value {
        let python = |source: &str| folder.python(name, self.mode, source);
        let program = |command: Value, mode: &str| {
            json!({
                "name": name, "executionMode": self.mode, "runtimeMode": mode, "env": {},
                "local": {"command": command, "directory": folder.path()},
            })
        };
        let mut function = match self.by {
            By::Python => python(program::PYTHON),
            By::PythonAsync => python(&program::PYTHON.replace("def handle", "async def handle")),
            By::Rust => {
                let this = std::env::current_exe().expect("this program");
                program(json!([this, "pod"]), "HTTP")
            }
            By::Stdio => {
                let script = folder.write("program.py", program::STDIO);
                let watchdog = program::watchdog();
                program(json!([watchdog, "--", "python3", script]), "STDIO")
            }
            By::Http => {
                let script = folder.write("program.py", program::HTTP);
                let watchdog = program::watchdog();
                program(json!([watchdog, "--", "python3", script]), "HTTP")
            }
            By::Endpoint => json!({
                "name": name, "executionMode": "POOL", "endpointUrl": endpoint.url(), "env": {},
            }),
        };
        if self.mode == "WARM" {
            function["scalingConfig"] = json!({"minReplicas": 0, "maxReplicas": 1});
        }
        function
    }
}
