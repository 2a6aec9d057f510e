//! This module has a Job that only waits, so that a test can post the Job's result.

use nanofaas_testkit::client::{Answer, Request};
use nanofaas_testkit::control_plane::ControlPlane;
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::wait::eventually;
use serde_json::{Value, json};

/// Writes its environment to a file and then sleeps.
pub(crate) const IDLES: &str = "env > env.part; mv env.part env.txt; exec sleep 60";

/// The callback path and the execution of an idle Job.
pub(crate) struct IdleJob {
    /// The path `/v1/internal/<token>/executions`.
    pub(crate) base: String,
    pub(crate) id: String,
}

impl IdleJob {
    #[track_caller]
    pub(crate) fn of(folder: &ScratchFolder) -> Self {
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

    pub(crate) fn token(&self) -> &str {
        self.base.split('/').nth(3).expect("a token")
    }

    pub(crate) fn complete(&self) -> String {
        format!("{}/{}:complete", self.base, self.id)
    }

    pub(crate) fn post(&self, plane: &ControlPlane, result: &Value) -> Answer {
        plane.send(&Request::new("POST", &self.complete()).json(result))
    }
}

pub(crate) fn success(output: Value) -> Value {
    json!({"success": true, "output": output, "error": null})
}
