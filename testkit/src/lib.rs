//! What the tests of the running program share: the control plane as a process (`control_plane`), a raw
//! client (`client`), scripted pods (`pod`), functions to register (`functions`), the metrics page
//! (`metrics`), seeded random numbers (`rng`), and where built programs are (`built`). It uses none of the code that it helps to test, and
//! nothing but tests depends on it. A wait that ends in vain fails the test.

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
