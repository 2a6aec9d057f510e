//! What every part of an io thread is given and that knows none of them: its event loop. It imports
//! nothing of `io` but what stands as low as itself.

pub(crate) mod net;
