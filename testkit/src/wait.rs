//! Helps tests to wait: `eventually` and `until` fail the test at a deadline, and a test opens a `Gate`.
//! `lock` locks a mutex even after a failed test.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A time limit that no step of a test should reach, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds` returns true, and fails the test after `PATIENCE`.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(2);
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Waits until `it` returns a value, and returns that value. Fails the test after `PATIENCE`.
#[track_caller]
pub fn until<T>(what: &str, mut it: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(what, || {
        found = it();
        found.is_some()
    });
    found.expect("it came")
}

/// A gate that is closed until a test opens it. The scripts of pods wait for it.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    pub(crate) fn is_open_within(&self, patience: Duration) -> bool {
        let waited = self
            .0
            .1
            .wait_timeout_while(lock(&self.0.0), patience, |open| !*open);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Locks a mutex, even if a test has panicked while it held the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
