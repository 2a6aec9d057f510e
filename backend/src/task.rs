//! Tasks of the bridge's thread that are aborted when their owner is dropped. It starts no task.

use tokio::task::JoinHandle;

/// A task that is aborted when this is dropped.
pub struct AbortOnDrop<T>(pub JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
