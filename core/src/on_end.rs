//! Wakes a task when a thread has ended, whatever the reason. The thread owns it and so drops it at its end.

use std::task::Waker;

/// Wakes the task when it is dropped.
pub struct OnEnd(pub Waker);

impl Drop for OnEnd {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}
