//! What a turn promises, one small story each, on a clock of its own: whose turn it is, which pods
//! are started, replaced and ended. The simulation looks for what these do not think of.
#![cfg(not(loom))]

mod absent;
mod calls;
mod ends;
mod plane;
mod pods;
mod replace;
mod scaling;
