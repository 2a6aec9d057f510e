//! One io thread put together: its parts, its start, and the tasks that it runs for ever. Nothing of `io`
//! stands above it.

pub mod start;

pub(crate) mod inbox;
pub(crate) mod questions;
pub(crate) mod ticker;
pub(crate) mod upkeep;
pub(crate) mod spin;
pub(crate) mod watchdog;

#[cfg(test)]
pub(crate) mod fleet;
