//! What a panic ends: on an io or scheduler thread the process, since an invariant of ours is
//! broken and calls may be in a state that nobody understands; on the bridge the bridge only.
//! It never unwinds or catches. `serve` installs it once.

use std::backtrace::Backtrace;
use std::panic::{PanicHookInfo, set_hook};
use std::sync::LazyLock;
use std::thread::current;

use tokio::sync::Notify;

use crate::config::LogForm;
use crate::log;

/// The bridge's thread.
pub(crate) const BRIDGE: &str = "bridge";

/// Rings when something panicked on the bridge: a task's panic ends only the task, and what it did
/// for others is undone in the middle.
pub(crate) fn on_bridge() -> &'static Notify {
    static PANICKED: LazyLock<Notify> = LazyLock::new(Notify::new);
    &PANICKED
}

/// From now on panics are logged, and end what they have to.
pub(crate) fn install(form: LogForm) {
    set_hook(Box::new(move |panic| {
        let thread = current();
        let name = thread.name().unwrap_or("unnamed");
        let words = words(name, panic);
        if ends_the_process(name) {
            // The only chance to see how it came to that.
            let trace = Backtrace::force_capture();
            log::at_once(
                form,
                "ERROR",
                &format!("{words}; the process ends\n{trace}"),
            );
            std::process::abort();
        }
        log::at_once(form, "ERROR", &words);
        if name == BRIDGE {
            on_bridge().notify_one();
        }
    }));
}

fn ends_the_process(thread: &str) -> bool {
    thread == "scheduler" || thread == "io" || thread.starts_with("io-")
}

fn words(thread: &str, panic: &PanicHookInfo<'_>) -> String {
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
