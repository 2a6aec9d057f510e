//! SIGTERM and SIGINT: the first signal asks the process for an orderly stop, the second one ends the process
//! at once. The signal mask is not changed, because function processes would inherit the changed mask.
//! `serve` starts this module before any work that takes long.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::{Poll, Wake, Waker};
use std::thread::Builder;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::LogForm;
use crate::log;

/// An event for the main thread.
pub(crate) enum MainEvent {
    /// The name of the signal that asks to stop.
    Signal(&'static str),
    /// A thread has ended.
    End,
}

/// The capacity of the channel of events. If the channel is full, the event `End` of a thread may be dropped,
/// because the main thread checks every thread after any event.
const EVENTS_MAX: usize = 8;

/// The events for the main thread.
pub(crate) struct Signals {
    pub(crate) events: Receiver<MainEvent>,
    /// The waker that a thread wakes when it ends.
    pub(crate) on_end: Waker,
    serving: Arc<AtomicBool>,
}

impl Signals {
    /// Makes the next signal ask for an orderly stop, because there may be calls from now on.
    pub(crate) fn serving(&self) {
        self.serving.store(true, Relaxed);
    }

    /// Returns whether a signal has come since `serving` was called. The caller must have called `serving`.
    pub(crate) fn is_asked(&self) -> bool {
        !self.serving.load(Relaxed)
    }
}

/// Starts to listen for signals on a thread of its own, so that no other work can delay a signal.
pub(crate) fn listen(form: LogForm) -> io::Result<Signals> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    // Install the handlers before this function returns, so that a later signal does not have its default
    // effect.
    let inside = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    drop(inside);
    let (ask, events) = sync_channel(EVENTS_MAX);
    let on_end = Arc::new(EndWaker(ask.clone())).into();
    let serving = Arc::new(AtomicBool::new(false));
    let seen = serving.clone();
    Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                let (name, code) = next(&mut terminate, &mut interrupt).await;
                take(form, name, code, &seen, &ask);
            }
        });
    })?;
    Ok(Signals {
        events,
        on_end,
        serving,
    })
}

struct EndWaker(SyncSender<MainEvent>);

impl Wake for EndWaker {
    fn wake(self: Arc<Self>) {
        // A full channel is ignored, because its events wake the main thread, which then checks every thread.
        let _full = self.0.try_send(MainEvent::End);
    }
}

/// Waits for the next signal. Returns the signal's name, and the exit code of a process that this signal
/// ends.
async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, i32) {
    poll_fn(|context| {
        if let Poll::Ready(Some(())) = terminate.poll_recv(context) {
            Poll::Ready(("SIGTERM", 128 + 15))
        } else if let Poll::Ready(Some(())) = interrupt.poll_recv(context) {
            Poll::Ready(("SIGINT", 128 + 2))
        } else {
            Poll::Pending
        }
    })
    .await
}

#[expect(
    clippy::disallowed_methods,
    reason = "a second signal asks for this end"
)]
fn take(
    form: LogForm,
    name: &'static str,
    code: i32,
    serving: &AtomicBool,
    ask: &SyncSender<MainEvent>,
) {
    // Only the first signal after `serving` asks for an orderly stop.
    if serving.swap(false, Relaxed) && ask.try_send(MainEvent::Signal(name)).is_ok() {
        return;
    }
    log::at_once(form, "WARN", &format!("{name}: the process ends at once"));
    std::process::exit(code);
}
