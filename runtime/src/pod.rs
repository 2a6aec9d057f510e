//! What all connections of this pod share: whether it is ready, what runs, when it may go.
//! One writer for the phase: `server`. Asked by every connection, per request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::handler::Handler;

/// Calls at once; one function has at most 1,024 in flight on the whole platform.
pub(crate) const CALLS_MAX: usize = 1024;
/// How long it must have been quiet before a stopping pod goes.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Starting,
    Ready,
    Stopping,
}

pub(crate) struct Pod {
    pub(crate) handler: Arc<dyn Handler>,
    phase: AtomicU8,
    /// Calls whose answer is not sent yet.
    calls: AtomicUsize,
    /// Blocking handlers that were cut off and run on.
    pub(crate) overrunning: Arc<AtomicUsize>,
    cold: AtomicBool,
    init_ms: AtomicU64,
    made: Instant,
    /// The last call's end while stopping, in milliseconds since `made`.
    last_call_ms: AtomicU64,
}

/// A call's place in the pod; free again when it is dropped.
pub(crate) struct Place(Arc<Pod>);

impl Pod {
    pub(crate) fn new(handler: Arc<dyn Handler>) -> Self {
        Self {
            handler,
            phase: AtomicU8::new(Phase::Starting as u8),
            calls: AtomicUsize::new(0),
            overrunning: Arc::default(),
            cold: AtomicBool::new(true),
            init_ms: AtomicU64::new(0),
            made: Instant::now(),
            last_call_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Stopping,
        }
    }

    pub(crate) fn ready(&self, init_ms: u64) {
        self.init_ms.store(init_ms, Ordering::Relaxed);
        self.phase.store(Phase::Ready as u8, Ordering::Release);
    }

    pub(crate) fn stop(&self) {
        self.last_call_ms.store(self.now_ms(), Ordering::Relaxed);
        self.phase.store(Phase::Stopping as u8, Ordering::Release);
    }

    /// What `/health` says: 200 or 503, and why.
    pub(crate) fn health(&self) -> (u16, &'static str) {
        match self.phase() {
            Phase::Starting => (503, r#"{"status":"STARTING"}"#),
            Phase::Stopping => (503, r#"{"status":"STOPPING"}"#),
            // The platform asks before it trusts a pod again in which it cut a call off.
            Phase::Ready if self.overrunning.load(Ordering::Acquire) > 0 => {
                (503, r#"{"status":"OVERRUNNING"}"#)
            }
            Phase::Ready => (200, r#"{"status":"UP"}"#),
        }
    }

    /// A place for one call, or why there is none.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Place, &'static str> {
        if self.phase() == Phase::Starting {
            return Err("the function is not initialised yet");
        }
        if self.calls.fetch_add(1, Ordering::AcqRel) >= CALLS_MAX {
            self.calls.fetch_sub(1, Ordering::AcqRel);
            return Err("1024 calls run in this pod already");
        }
        Ok(Place(Arc::clone(self)))
    }

    /// The initialisation's milliseconds, for the first answer alone.
    pub(crate) fn first_answer(&self) -> Option<u64> {
        let first = self.cold.load(Ordering::Relaxed) && self.cold.swap(false, Ordering::AcqRel);
        first.then(|| self.init_ms.load(Ordering::Relaxed))
    }

    /// Nothing runs, and nothing came for long enough.
    pub(crate) fn quiet(&self) -> bool {
        let last = self.last_call_ms.load(Ordering::Relaxed);
        let since = Duration::from_millis(self.now_ms() - last);
        self.calls.load(Ordering::Acquire) == 0 && since >= QUIET
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.phase() == Phase::Stopping {
            let now = self.0.now_ms();
            self.0.last_call_ms.fetch_max(now, Ordering::Relaxed);
        }
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}
