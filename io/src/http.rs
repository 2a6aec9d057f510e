//! Interprets requests and writes answers. This folder opens no socket and reads no clock.

pub mod json;
pub(crate) mod route;
pub(crate) mod error;
pub(crate) mod output;
pub(crate) mod response;
pub(crate) mod shown;
