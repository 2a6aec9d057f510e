//! The handle of a task on the bridge's thread. The task is aborted when the handle is dropped. The module
//! starts no task.

use tokio::task::JoinHandle;

/// A guard that aborts its task when it is dropped.
pub struct AbortOnDrop<T>(pub JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
