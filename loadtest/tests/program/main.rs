//! Tests of the load tool as a process. With servers of a known service time its figures must be
//! right. With servers that stall, close or send invalid answers, no failure may be hidden or lost.

mod server;
mod tool;
mod truth;
mod faults;
mod shapes;
mod turns;
mod first;
