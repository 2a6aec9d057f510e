//! The state that all connections of this pod share: whether it is ready, how many calls run, and
//! when it may exit. Only `server` changes the phase; every connection reads it for each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::handler::Handler;

/// The largest `concurrency` that a function can have.
pub(crate) const CALLS_MAX: usize = 1024;
/// How long a stopping pod must have had no call before it exits.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PodPhase {
    Starting,
    Ready,
    Stopping,
}

pub(crate) struct RuntimePod {
    pub(crate) handler: Arc<dyn Handler>,
    /// The methods of HTTP calls that the handler takes.
    pub(crate) methods: Vec<String>,
    phase: AtomicU8,
    /// The number of calls whose answer is not sent yet.
    calls: AtomicUsize,
    /// The number of blocking handlers that still run after their call was cut off.
    pub(crate) overrunning: Arc<AtomicUsize>,
    cold: AtomicBool,
    init_ms: AtomicU64,
    made: Instant,
    /// When the stop began, or when the last call after that ended; in milliseconds since `made`.
    last_call_ms: AtomicU64,
}

/// Counts one call in the pod until the permit is dropped.
pub(crate) struct CallPermit(Arc<RuntimePod>);

impl RuntimePod {
    pub(crate) fn new(handler: Arc<dyn Handler>, methods: Vec<String>) -> Self {
        Self {
            handler,
            methods,
            phase: AtomicU8::new(PodPhase::Starting as u8),
            calls: AtomicUsize::new(0),
            overrunning: Arc::default(),
            cold: AtomicBool::new(true),
            init_ms: AtomicU64::new(0),
            made: Instant::now(),
            last_call_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn phase(&self) -> PodPhase {
        match self.phase.load(Ordering::Acquire) {
            0 => PodPhase::Starting,
            1 => PodPhase::Ready,
            _ => PodPhase::Stopping,
        }
    }

    pub(crate) fn ready(&self, init_ms: u64) {
        // The Release store of the phase makes `init_ms` visible to the first answer.
        self.init_ms.store(init_ms, Ordering::Relaxed);
        self.phase.store(PodPhase::Ready as u8, Ordering::Release);
    }

    pub(crate) fn stop(&self) {
        // If no call follows, `quiet` measures from this time.
        self.last_call_ms.store(self.now_ms(), Ordering::Relaxed);
        self.phase
            .store(PodPhase::Stopping as u8, Ordering::Release);
    }

    /// Returns the status of the answer to `GET /health`, and its body.
    pub(crate) fn health(&self) -> (u16, &'static str) {
        match self.phase() {
            PodPhase::Starting => (503, r#"{"status":"STARTING"}"#),
            PodPhase::Stopping => (503, r#"{"status":"STOPPING"}"#),
            // The platform probes a pod after it cut off a call, and sends the next call only after
            // a good answer. This answer keeps calls from a pod whose handler overruns.
            PodPhase::Ready if self.overrunning.load(Ordering::Acquire) > 0 => {
                (503, r#"{"status":"OVERRUNNING"}"#)
            }
            PodPhase::Ready => (200, r#"{"status":"UP"}"#),
        }
    }

    pub(crate) fn takes_method(&self, method: &[u8]) -> bool {
        self.methods.iter().any(|one| one.as_bytes() == method)
    }

    /// Counts one call, or returns why the pod does not accept it.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<CallPermit, &'static str> {
        if self.phase() == PodPhase::Starting {
            return Err("the function is not initialised yet");
        }
        // A stopping pod accepts calls, because the platform may have sent them before it knew of
        // the stop.
        if self.calls.fetch_add(1, Ordering::AcqRel) >= CALLS_MAX {
            self.calls.fetch_sub(1, Ordering::AcqRel);
            return Err("1024 calls run in this pod already");
        }
        Ok(CallPermit(Arc::clone(self)))
    }

    /// Returns how long the initialisation took, in ms, for the first answer; none for later
    /// answers.
    pub(crate) fn first_answer(&self) -> Option<u64> {
        // A load is cheaper than a swap, and it is enough for later answers.
        let first = self.cold.load(Ordering::Relaxed) && self.cold.swap(false, Ordering::AcqRel);
        first.then(|| self.init_ms.load(Ordering::Relaxed))
    }

    /// Returns whether no call runs, and `QUIET` has passed since the stop and since the last call.
    pub(crate) fn quiet(&self) -> bool {
        let last = self.last_call_ms.load(Ordering::Relaxed);
        let since = Duration::from_millis(self.now_ms() - last);
        self.calls.load(Ordering::Acquire) == 0 && since >= QUIET
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        // Only a stopping pod needs the time of a call's end.
        if self.0.phase() == PodPhase::Stopping {
            let now = self.0.now_ms();
            self.0.last_call_ms.fetch_max(now, Ordering::Relaxed);
        }
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}
