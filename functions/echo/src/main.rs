//! Returns its input unchanged: JSON as JSON, any other body with its own content type. The function never
//! parses the input.

use std::process::ExitCode;

use nanofaas_runtime::{Context, Handlers, Input, handler};

fn main() -> ExitCode {
    let echo = handler::inline(|input: Input, _: &Context| Ok(input));
    nanofaas_runtime::serve(Handlers::new().add("echo", echo))
}
