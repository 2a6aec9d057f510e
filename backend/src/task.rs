//! An `AbortOnDrop` is the handle of a task on the bridge's thread. Dropping the handle aborts the task.

use tokio::task::JoinHandle;

pub struct AbortOnDrop<T>(pub JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
