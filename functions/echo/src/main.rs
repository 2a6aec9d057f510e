//! Gives back what it gets, byte by byte: JSON as JSON, anything else under its own content type.
//! It never looks into it.

use std::process::ExitCode;

use nanofaas_runtime::{Context, Handlers, Input, handler};

fn main() -> ExitCode {
    let echo = handler::inline(|input: Input, _: &Context| Ok(input));
    nanofaas_runtime::serve(Handlers::new().add("echo", echo))
}
