//! All backends share this part of a Job, which runs one attempt of a JOB call: the variables of its program,
//! the notice that the attempt is over, and the table of Jobs. The io thread that owns the call receives the
//! call's result and reports when the attempt is over.

use std::borrow::Borrow;
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use nanofaas_core::message::{JobStart, ReadyTimestamps};
use nanofaas_core::ticket::CallId;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How long a Job may run after its call's deadline before the backend ends it. Usually the io thread ends
/// the Job at the deadline; if a Job runs longer, no io thread knows it any more.
pub const FORGOTTEN: Duration = Duration::from_secs(60);

/// The call, and the number of the attempt.
pub type AttemptKey = (CallId, u32);

/// The part of a Job that other tasks use, too.
pub struct JobAttempt {
    pub name: String,
    pub start: Box<JobStart>,
    /// Wakes the Job's task after a change of the Job.
    pub bell: Rc<Notify>,
    stop: Cell<bool>,
    timestamps: Cell<Option<ReadyTimestamps>>,
}

impl JobAttempt {
    pub fn new(name: String, start: Box<JobStart>) -> Self {
        Self {
            name,
            start,
            bell: Rc::new(Notify::new()),
            stop: Cell::new(false),
            timestamps: Cell::new(None),
        }
    }

    pub fn key(&self) -> AttemptKey {
        (self.start.call, self.start.attempt)
    }

    /// Notes that the attempt is over. `timestamps` are the start times that the runtime reported, if any.
    pub fn stop(&self, timestamps: Option<ReadyTimestamps>) {
        self.timestamps.set(timestamps);
        self.stop.set(true);
        self.bell.notify_one();
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.get()
    }

    pub fn timestamps(&self) -> Option<ReadyTimestamps> {
        self.timestamps.get()
    }

    /// Waits for `bell`. Returns false if the deadline comes first.
    pub async fn rung_before(&self, deadline: Instant) -> bool {
        timeout_at(deadline, self.bell.notified()).await.is_ok()
    }

    /// Waits at most `time` for the report that the attempt is over; returns whether it came. The report may
    /// come a little later than the exit of the program.
    pub async fn is_stopped_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while !self.is_stopped() && self.rung_before(deadline).await {}
        self.is_stopped()
    }

    /// Returns the variables that describe the call to its program, and the URL for the result.
    pub fn env(&self, callback_base: &str) -> Vec<(&'static str, String)> {
        let start = &self.start;
        let callback = format!("{callback_base}/v1/internal/{}/executions", start.token);
        let timeout_ms = u64::from(start.function.spec.timeout_ms).min(start.deadline_ms);
        let mut env = vec![
            ("EXECUTION_ID", start.execution_id.to_string()),
            ("DISPATCH_ATTEMPT", start.attempt.to_string()),
            ("TIMEOUT_MS", start.deadline_ms.to_string()),
            ("INVOCATION_TIMEOUT_MS", timeout_ms.to_string()),
        ];
        let trace = start.trace_id.as_deref();
        env.extend(trace.map(|id| ("TRACE_ID", id.to_owned())));
        env.push(match &start.payload {
            Some(payload) => ("INVOCATION_PAYLOAD", payload.to_string()),
            None => {
                let url = format!("{callback}/{}/input", start.execution_id);
                ("INVOCATION_PAYLOAD_URL", url)
            }
        });
        env.push(("CALLBACK_URL", callback));
        env
    }
}

/// The Jobs that have a task. `J` may hold more about a Job than a `JobAttempt` does.
pub struct JobTable<J> {
    by_key: HashMap<AttemptKey, Rc<J>>,
    by_name: HashMap<String, AttemptKey>,
}

impl<J> Default for JobTable<J> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            by_name: HashMap::new(),
        }
    }
}

impl<J: Borrow<JobAttempt>> JobTable<J> {
    /// Adds a Job, and stops an earlier Job of the same attempt.
    pub fn add(&mut self, job: &Rc<J>) {
        let core: &JobAttempt = (**job).borrow();
        self.by_name.insert(core.name.clone(), core.key());
        if let Some(before) = self.by_key.insert(core.key(), job.clone()) {
            let before: &JobAttempt = (*before).borrow();
            before.stop(None);
        }
    }

    pub fn remove(&mut self, job: &J) {
        let job: &JobAttempt = job.borrow();
        self.by_name.remove(&job.name);
        self.by_key.remove(&job.key());
    }

    /// Notes that an attempt is over. Does nothing if the table does not have its Job.
    pub fn stop(&self, key: AttemptKey, timestamps: Option<ReadyTimestamps>) {
        if let Some(job) = self.by_key.get(&key) {
            let job: &JobAttempt = (**job).borrow();
            job.stop(timestamps);
        }
    }

    pub fn named(&self, name: &str) -> Option<&Rc<J>> {
        self.by_key.get(self.by_name.get(name)?)
    }

    pub fn all(&self) -> Vec<Rc<J>> {
        self.by_key.values().cloned().collect()
    }
}
