//! A complete io thread: its parts, its start, and the tasks that it always runs. This folder is the highest
//! layer of `io`.

pub mod start;

pub(crate) mod inbox;
pub(crate) mod questions;
pub(crate) mod ticker;
pub(crate) mod upkeep;
pub(crate) mod spin;
pub(crate) mod watchdog;

#[cfg(test)]
pub(crate) mod fleet;
