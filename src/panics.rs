//! Decides the effect of a panic. A panic on an io thread or the scheduler's thread ends the process, because
//! an invariant of our code is broken and calls may be in an inconsistent state. A panic on the bridge's
//! thread ends the bridge. A panic of another thread is only logged. `serve` installs this hook.

use std::backtrace::Backtrace;
use std::panic::{PanicHookInfo, set_hook};
use std::sync::LazyLock;
use std::thread::current;

use tokio::sync::Notify;

use crate::config::LogForm;
use crate::log;

pub(crate) const BRIDGE: &str = "bridge";

/// Notified when the bridge's thread has panicked. Tokio ends only the task that panicked, but other tasks
/// may depend on its work, so the whole bridge ends.
pub(crate) fn on_bridge() -> &'static Notify {
    static PANICKED: LazyLock<Notify> = LazyLock::new(Notify::new);
    &PANICKED
}

pub(crate) fn install(form: LogForm) {
    set_hook(Box::new(move |panic| {
        let thread = current();
        let name = thread.name().unwrap_or("unnamed");
        let message = message(name, panic);
        if ends_the_process(name) {
            // Take the backtrace here, because the process aborts below.
            let trace = Backtrace::force_capture();
            log::at_once(
                form,
                "ERROR",
                &format!("{message}; the process ends\n{trace}"),
            );
            std::process::abort();
        }
        log::at_once(form, "ERROR", &message);
        if name == BRIDGE {
            on_bridge().notify_one();
        }
    }));
}

fn ends_the_process(thread: &str) -> bool {
    thread == "scheduler" || thread == "io" || thread.starts_with("io-")
}

fn message(thread: &str, panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(ToString::to_string);
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    format!(
        "thread {thread} panicked at {}: {}",
        place.as_deref().unwrap_or("an unknown place"),
        text.unwrap_or("without words")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_threads_that_hold_calls_end_the_process() {
        for fatal in ["io", "io-0", "io-63", "scheduler"] {
            assert!(ends_the_process(fatal), "{fatal}");
        }
        for other in [BRIDGE, "main", "log", "signals", "unnamed", "iodine"] {
            assert!(!ends_the_process(other), "{other}");
        }
    }
}
