//! Runs the tool under test with arguments, reads its result as JSON, and times it from outside. Tests that
//! check times run one at a time, so that they do not disturb each other.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) struct ToolOutcome {
    pub(crate) json: Value,
    pub(crate) took: Duration,
}

pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_nanofaas-loadtest"))
}

fn output(arguments: &[&str]) -> Output {
    program()
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// Runs the tool, and checks that the run succeeds.
#[track_caller]
pub(crate) fn run(arguments: &[&str]) -> ToolOutcome {
    let begun = Instant::now();
    let output = output(&[&["run", "--quiet", "--json", "-"], arguments].concat());
    let took = begun.elapsed();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    let json = serde_json::from_slice(&output.stdout).expect("JSON");
    let outcome = ToolOutcome { json, took };
    outcome.adds_up();
    outcome
}

/// Runs the tool, checks that it refuses the run, and returns its error message.
#[track_caller]
pub(crate) fn refusal(arguments: &[&str]) -> String {
    let output = output(&[&["run", "--quiet"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} was not refused");
    assert!(!text.contains("panicked"), "{text}");
    text
}

impl ToolOutcome {
    #[track_caller]
    pub(crate) fn ms(&self, name: &str) -> f64 {
        self.json["latency"][name].as_f64().expect("a figure") / 1e3
    }

    #[track_caller]
    pub(crate) fn count(&self, pointer: &str) -> u64 {
        match self.json.pointer(pointer) {
            Some(value) => value.as_u64().expect("a count"),
            None => 0,
        }
    }

    /// Checks that every request ended exactly once.
    #[track_caller]
    fn adds_up(&self) {
        let sum = |name: &str| -> u64 {
            let counts = self.json[name].as_object().expect("counts").values();
            counts.map(|count| count.as_u64().expect("a count")).sum()
        };
        assert_eq!(
            self.count("/requests"),
            sum("statuses") + sum("faults"),
            "{}",
            self.json
        );
    }
}

/// Takes the lock that tests hold while they check times, so that they run one at a time.
pub(crate) fn quiet() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder that is removed at the end of the test.
pub(crate) struct ToolFolder(pub(crate) PathBuf);

impl ToolFolder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("loadtest-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a folder");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for ToolFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
