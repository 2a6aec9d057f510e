//! Draws a piece of the Mandelbrot set as a PNG: real work for one core. The function stops between two rows
//! if the call's deadline has passed or its caller has left.

mod picture;
mod view;

use std::process::ExitCode;

use nanofaas_runtime::{Context, Error, Handlers, Output, handler};

use view::{View, ViewRequest};

fn draw(request: ViewRequest, context: &Context) -> Result<Output, Error> {
    let view = View::try_from(request).map_err(Error::bad_input)?;
    let Some(pixels) = picture::draw(&view, || context.cancelled()) else {
        return Err(Error::with_code(
            "CANCELLED",
            "nobody waits for the picture any more",
        ));
    };
    Ok(Output::raw("image/png", picture::encode(&view, &pixels)?))
}

fn main() -> ExitCode {
    nanofaas_runtime::serve(Handlers::new().add("mandelbrot", handler::blocking(draw)))
}
