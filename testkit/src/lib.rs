//! The common parts of tests of the running program: the control plane as a process (`control_plane`) in the
//! form of this test run (`form`), a raw client (`client`), scripted pods (`pod`), functions to register
//! (`functions`) with folders for their files (`folder`), the metrics page (`metrics`), processes and their
//! logs (`process`), seeded random numbers (`rng`), waits (`wait`), and the paths of built programs
//! (`built`). This crate is independent of the code under test, and only tests depend on it.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]

pub mod built;
pub mod client;
pub mod control_plane;
pub mod folder;
pub mod form;
pub mod functions;
mod keeper;
pub mod metrics;
pub mod pod;
pub mod process;
pub mod rng;
mod socket;
pub mod wait;
