//! What every part of an io thread is given and that knows none of them: its event loop, time, buffers.
//! It imports nothing of `io` but what stands as low as itself.

pub(crate) mod net;
pub(crate) mod clock;
pub(crate) mod date;
pub(crate) mod timers;
pub(crate) mod due;
pub(crate) mod waiters;
pub(crate) mod buffers;
pub(crate) mod shard;
