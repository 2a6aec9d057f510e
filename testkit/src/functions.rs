//! Functions to register: specs for every mode, and programs for the local backend. Each program is
//! in a folder of its own, which is deleted when the test ends. This module registers nothing.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::built;
use crate::pod::Pod;

/// `function`, extended or overwritten by the fields of `more`.
pub fn with(mut function: Value, more: &Value) -> Value {
    let fields = function.as_object_mut().expect("an object");
    for (name, value) in more.as_object().expect("an object") {
        fields.insert(name.clone(), value.clone());
    }
    function
}

/// An echo inside the plane.
pub fn local(name: &str) -> Value {
    json!({"name": name, "executionMode": "LOCAL"})
}

/// A POOL function that sends its calls to the pod, one at a time and without retries.
pub fn pool(name: &str, pod: &Pod) -> Value {
    json!({
        "name": name, "executionMode": "POOL", "endpointUrl": pod.url,
        "concurrency": 1, "maxRetries": 0, "retryOn": [],
    })
}

/// A folder for one test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn create() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("blackbox-{}-{number}", std::process::id());
        let path = built::scratch().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in this folder.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// The content of a file in this folder; `None` while it is absent or empty.
    pub fn read(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.0.join(name)).ok()?;
        (!text.is_empty()).then_some(text)
    }

    /// A Python function in this folder.
    pub fn python(&self, name: &str, mode: &str, source: &str) -> Value {
        self.write("handler.py", source);
        let runtime = built::repository().join("python-runtime/src");
        json!({
            "name": name, "executionMode": mode,
            "local": {
                "command": [interpreter(), "-m", "nanofaas_runtime"],
                "env": {"PYTHONPATH": runtime, "PYTHONDONTWRITEBYTECODE": "1"},
                "directory": self.0,
            },
        })
    }

    /// A Python program in this folder that uses none of our code.
    pub fn program(&self, name: &str, mode: &str, source: &str) -> Value {
        let path = self.write("program.py", source);
        json!({
            "name": name, "executionMode": mode,
            "local": {"command": [interpreter(), path], "directory": self.0},
        })
    }

    /// A shell script in this folder.
    pub fn shell(&self, name: &str, mode: &str, script: &str) -> Value {
        json!({
            "name": name, "executionMode": mode,
            "local": {"command": ["/bin/sh", "-c", script], "directory": self.0},
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The Python program that `python3` runs. Under a version manager `python3` is a script that forks
/// about thirty times per start, and on a busy machine that takes longer than a call may wait.
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

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.is_empty() && !state.starts_with('Z') && kill(Pid::from_raw(pid), None).is_ok()
}
