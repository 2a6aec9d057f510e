//! The common parts of tests of the running program: the control plane as a process
//! (`control_plane`), a raw client (`client`), scripted pods (`pod`), functions to register
//! (`functions`), the metrics page (`metrics`), seeded random numbers (`rng`), and the paths of
//! built programs (`built`). Its code is independent of the code under test, and only tests depend
//! on it. A wait that ends without success fails the test.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]

pub mod built;
pub mod client;
pub mod control_plane;
pub mod functions;
pub mod metrics;
pub mod pod;
pub mod rng;
