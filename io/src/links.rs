//! What an io thread reaches by messages: the scheduler, the bridge, the other io threads.

pub(crate) mod scheduler;
pub(crate) mod shards;
pub(crate) mod pending;
