//! Tests of the scheduler, each of one promise in a small scenario with a clock of its own. The promises are
//! the order of grants, and which pods are started, replaced and ended. The simulation searches for cases
//! that are missing here.
#![cfg(not(loom))]

mod absent;
mod calls;
mod ends;
mod plane;
mod pods;
mod replace;
mod scaling;
