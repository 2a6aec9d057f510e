//! The load tool, checked from outside: against servers whose service time is known, its figures
//! must be right, and against servers that stall, close and lie, nothing may be hidden or lost.

mod server;
mod tool;
mod truth;
mod faults;
mod shapes;
mod turns;
mod first;
