//! Serves Rust handlers as a function: `serve` listens as the platform expects of a pod, or runs
//! one call and reports its result (Job mode). The library retries no call and does not talk to
//! Kubernetes. A function's `main` calls `serve`:
//!
//! ```no_run
//! use nanofaas_runtime::{Context, Handlers, Input, handler};
//!
//! fn main() -> std::process::ExitCode {
//!     let echo = handler::inline(|input: Input, _: &Context| Ok(input));
//!     nanofaas_runtime::serve(Handlers::new().add("echo", echo))
//! }
//! ```

mod settings;
mod unix_stream;
mod server;
mod pod;
mod connection;
mod request;
mod call;
pub mod handler;
mod run;
mod service;
mod stream;
mod output;
mod error;
mod answer;
mod job;
pub mod announce;
pub mod client;
pub mod forward;
pub mod log;

use std::process::ExitCode;
use std::time::SystemTime;

pub use call::{Context, Input};

pub use error::Error;

pub use handler::{Handler, Handlers, Running};

pub use output::Output;

pub use stream::{ByteSender, ByteStream, PipeBody, pipe};

/// Compiles the README's example with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

use announce::Birth;
use settings::Settings;

/// Serves until SIGTERM or SIGINT, finishes the running calls, and returns 0. In Job mode
/// (`CALLBACK_URL` is set) it returns when it has reported the result of its only call. If a
/// setting is wrong, it logs one line and returns 2; but in Job mode a wrong handler name becomes
/// the call's result.
///
/// `serve` runs on the calling thread. Blocking handlers and the function's `init` have threads of
/// their own.
pub fn serve(handlers: Handlers) -> ExitCode {
    let loaded = SystemTime::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Each blocking call needs a thread.
        .max_blocking_threads(pod::CALLS_MAX)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            log::line("error", &format!("cannot start: {error}"), None, &[]);
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(live(handlers, loaded));
    // Dropping the runtime would wait for a blocking handler that ignores its cancellation.
    runtime.shutdown_background();
    code
}

async fn live(mut handlers: Handlers, loaded: SystemTime) -> ExitCode {
    run::adopt_panics();
    let settings = match Settings::read(|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(message) => {
            log::line("error", &message, None, &[]);
            return ExitCode::from(2);
        }
    };
    let birth = Birth::new(handlers.made_at(), loaded);
    let handler = match handlers.choose(settings.handler.as_deref()) {
        Ok(handler) => handler,
        Err(message) => {
            log::line("error", &message, None, &[]);
            return match settings.job {
                // Another attempt would fail in the same way, so report the error.
                Some(job) => job::report(&job, Err(Error::new(message)), &birth).await,
                None => ExitCode::from(2),
            };
        }
    };
    let init = handlers.take_init();
    match settings.job {
        Some(job) => job::work(job, handler, init, birth).await,
        None => server::listen(settings, handler, init, birth).await,
    }
}
