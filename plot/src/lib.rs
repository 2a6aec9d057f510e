//! Draws plots as SVG text, and writes numbers in readable form. maud writes the elements and escapes the
//! texts. This crate reads nothing and knows nothing about the data. Reports of load tests, simulations and
//! soak tests use it.
//!
//! This crate draws axes, ticks and lines itself. The plotting crate plotters (0.3.7) rounds all positions to
//! whole pixels (its issue 128), which shows as steps in an enlarged picture. It also has neither a
//! percentile axis nor the ticks that are needed here. Other crates draw with scripts in a browser, but these
//! files must work without scripts.

mod drawing;
mod plot;
mod range;
pub mod show;

pub use drawing::Drawing;
pub use plot::{Axis, COLOURS, Plot, Scale, Series, SeriesMark, Unit};
