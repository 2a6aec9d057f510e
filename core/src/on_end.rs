//! Wakes a task when a thread ends, even if a panic ends the thread. The thread owns an `OnEnd`, which is
//! dropped at the thread's end.

use std::task::Waker;

/// A guard that wakes the task when it is dropped.
pub struct OnEnd(pub Waker);

impl Drop for OnEnd {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}
