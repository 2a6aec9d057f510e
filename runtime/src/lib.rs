//! Makes Rust handlers a function: `serve` listens as the platform expects of a pod, or runs one
//! call and reports it (Job mode). It never retries a call and never talks to Kubernetes. Called
//! by a function's `main`:
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

/// The README's example is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

use announce::Birth;
use settings::Settings;

/// Runs the function until it is told to stop (0), or until its one call is reported where
/// `CALLBACK_URL` is set. A wrong setting is one log line and exit code 2; where it is the handler's
/// name, the call's result says so.
///
/// Everything runs on this thread; blocking handlers have threads of their own.
pub fn serve(handlers: Handlers) -> ExitCode {
    let loaded = SystemTime::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
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
    // A handler that ignores its end must not hold the process.
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
                // It would fail the same way in another try.
                Some(job) => job::report(&job, Err(Error::new(message)), &birth).await,
                None => ExitCode::from(2),
            };
        }
    };
    let init = handlers.take_init();
    match settings.job {
        Some(job) => job::work(job, handler, init, birth).await,
        None => server::listen(&settings.listen, settings.ready_url, handler, init, birth).await,
    }
}
