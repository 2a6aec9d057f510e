//! Plots as SVG text, and numbers as people read them. maud writes the elements and escapes the texts. It reads
//! nothing and knows nothing of what it shows. Reports of load tests, simulations and soaks are drawn with it.
//!
//! Axes, ticks and lines are drawn here and not by a plotting crate. plotters (0.3.7) places everything on
//! whole pixels (its issue 128), which shows as steps in a picture that is enlarged, and would take the
//! percentile axis and the ticks from us in any case. Other crates draw in a browser by scripts, which
//! these files do without.

mod drawing;
mod plot;
mod range;
pub mod show;

pub use drawing::Drawing;
pub use plot::{Axis, COLOURS, Plot, Scale, Series, SeriesMark, Unit};
