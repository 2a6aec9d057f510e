//! Makes functions that a test can register: specs for every mode, and programs for the local backend. A test
//! writes the programs into a folder, which is deleted when the test ends. This module registers nothing.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::built;
use crate::folder::ScratchFolder;
use crate::pod::ScriptedPod;

/// Returns `function` with the fields of `more`. A field that `function` already has is replaced.
pub fn with(mut function: Value, more: &Value) -> Value {
    let fields = function.as_object_mut().expect("an object");
    for (name, value) in more.as_object().expect("an object") {
        fields.insert(name.clone(), value.clone());
    }
    function
}

/// Makes a LOCAL function: the control plane itself runs it and returns its input.
pub fn local(name: &str) -> Value {
    json!({"name": name, "executionMode": "LOCAL"})
}

/// Makes a POOL function that sends its calls to the pod, one at a time and without retries.
pub fn pool(name: &str, pod: &ScriptedPod) -> Value {
    json!({
        "name": name, "executionMode": "POOL", "endpointUrl": pod.url,
        "concurrency": 1, "maxRetries": 0, "retryOn": [],
    })
}

impl ScratchFolder {
    /// Makes a function with this Python handler, which runs in this folder.
    pub fn python(&self, name: &str, mode: &str, source: &str) -> Value {
        self.write("handler.py", source);
        let runtime = built::repository().join("python-runtime/src");
        json!({
            "name": name, "executionMode": mode,
            "local": {
                "command": [interpreter(), "-m", "nanofaas_runtime"],
                "env": {"PYTHONPATH": runtime, "PYTHONDONTWRITEBYTECODE": "1"},
                "directory": self.path(),
            },
        })
    }

    /// Makes a function that is this Python program, which contains no code of this platform. The program
    /// runs in this folder.
    pub fn program(&self, name: &str, mode: &str, source: &str) -> Value {
        let path = self.write("program.py", source);
        json!({
            "name": name, "executionMode": mode,
            "local": {"command": [interpreter(), path], "directory": self.path()},
        })
    }

    /// Makes a function that is this shell script, which runs in this folder.
    pub fn shell(&self, name: &str, mode: &str, script: &str) -> Value {
        json!({
            "name": name, "executionMode": mode,
            "local": {"command": ["/bin/sh", "-c", script], "directory": self.path()},
        })
    }
}

/// Returns the path of the Python program that `python3` starts. Tests run that program directly, because
/// with a version manager `python3` is a script that forks about thirty times. On a busy machine that script
/// takes longer than a call may wait.
pub fn interpreter() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let program = "import sys; print(sys.executable)";
        let asked = std::process::Command::new("python3")
            .args(["-c", program])
            .output();
        let output = asked.expect("python3 starts");
        String::from_utf8(output.stdout)
            .expect("a path")
            .trim()
            .to_owned()
    })
}
