//! Wakes a task when a thread has ended, however it did. The starter of the thread gives it one to keep.

use std::task::Waker;

/// Wakes when it is dropped.
pub struct OnEnd(pub Waker);

impl Drop for OnEnd {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}
