//! Tasks of the bridge's thread that end with their owners. It starts none.

use tokio::task::JoinHandle;

/// A task that ends with its owner.
pub struct AbortOnDrop<T>(pub JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
