//! Plots as SVG text, and numbers as people read them. It depends on nothing, reads nothing and knows
//! nothing of what it shows. Reports of load tests, simulations and soaks are drawn with it.

mod figure;
mod plot;
mod range;
pub mod show;

pub use figure::Figure;
pub use plot::{Axis, COLOURS, Mark, Plot, Scale, Series, Unit, escape};
