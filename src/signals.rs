//! Handles SIGTERM and SIGINT. The first signal asks the process for an orderly stop, and the second signal
//! ends the process at once. The signal mask stays as it is, because function processes would inherit a
//! change. `serve` starts this module before any long work.

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

pub(crate) enum MainEvent {
    /// The name of the signal that asks to stop.
    Signal(&'static str),
    End,
}

/// The capacity of the channel of events. A full channel may drop `End`, because the main thread checks every
/// thread after any event.
const EVENTS_MAX: usize = 8;

pub(crate) struct Signals {
    pub(crate) events: Receiver<MainEvent>,
    /// A thread wakes this waker when it ends.
    pub(crate) on_end: Waker,
    serving: Arc<AtomicBool>,
}

impl Signals {
    /// Makes the next signal ask for an orderly stop, because calls may run after this.
    pub(crate) fn serving(&self) {
        self.serving.store(true, Relaxed);
    }

    /// Returns whether a signal has come since `serving` was called. Call `serving` before.
    pub(crate) fn is_asked(&self) -> bool {
        !self.serving.load(Relaxed)
    }
}

/// Listens for signals on its own thread, so that no other work delays a signal.
pub(crate) fn listen(form: LogForm) -> io::Result<Signals> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    // Install the handlers before this function returns, so that later signals lose their default effect.
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
        // The events of a full channel wake the main thread, too.
        let _full = self.0.try_send(MainEvent::End);
    }
}

/// Waits for the next signal. Returns its name, and the exit code of a process that it ends.
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
