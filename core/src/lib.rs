//!
pub mod sync;
pub mod ring;
pub mod bitmap;
pub mod doorbell;
pub mod spec;
