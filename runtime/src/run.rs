//! Runs a handler, and turns a panic of the handler into the error of its call, so that no other
//! call is affected. `connection` and `job` call this module, and stop a call at its deadline.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::call::{Context, HandlerCall, Input};
use crate::error::Error;
use crate::handler::{Handler, HandlerFuture, Running};
use crate::log;
use crate::output::Output;

thread_local! {
    // The panic hook runs on the thread of the panic before `catch_unwind` returns, and only the
    // hook gets the location. So a thread-local passes the location to `caught`.
    static IN_HANDLER: Cell<bool> = const { Cell::new(false) };
    static PANIC_PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs a panic hook. The hook logs a panic as a JSON line. For a panic in a handler the hook
/// only keeps the location, because that panic becomes the error of its call.
pub(crate) fn adopt_panics() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let place = panic.location().map(ToString::to_string);
        if IN_HANDLER.get() {
            PANIC_PLACE.set(place);
            return;
        }
        let text = panic_text(panic.payload());
        let place = place.unwrap_or_default();
        log::line("error", &format!("panicked at {place}: {text}"), None, &[]);
    }));
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("something that is no text")
}

/// Runs `f`, and turns a panic in it into an error.
pub(crate) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, Error> {
    IN_HANDLER.set(true);
    // A panic may leave the state that handlers share half-changed. The function's author is
    // responsible for that state, as after a panic of any thread.
    let result = catch_unwind(AssertUnwindSafe(f));
    IN_HANDLER.set(false);
    result.map_err(|payload| {
        let place = PANIC_PLACE.take().unwrap_or_default();
        let text = panic_text(&*payload);
        Error::new(format!("the handler panicked at {place}: {text}"))
    })
}

/// Begins the call. A panic of the handler ends the call with an error.
pub(crate) fn begin(handler: &dyn Handler, call: &Arc<HandlerCall>) -> Running {
    let input = Input::new(Arc::clone(call));
    let context = Context::new(Arc::clone(call));
    caught(|| handler.call(input, context)).unwrap_or_else(|error| Running::Ended(Err(error)))
}

/// Runs a call that `begin` has begun to its end. If the caller of `finish` cuts off a call whose
/// blocking handler still runs, the caller increments `overrunning`. The handler's thread
/// decrements `overrunning` when the handler ends.
pub(crate) async fn finish(
    running: Running,
    call: &Arc<HandlerCall>,
    overrunning: &Arc<AtomicUsize>,
) -> Result<Output, Error> {
    match running {
        Running::Ended(result) => result,
        Running::Future(future) => finish_future(future).await,
        Running::Blocking(work) => {
            let ours = Arc::clone(call);
            let overrunning = Arc::clone(overrunning);
            let thread = tokio::task::spawn_blocking(move || {
                // While the call waited for a thread, the deadline may have passed, or the caller
                // may have left. In both cases the handler does not run.
                let result = match Context::new(Arc::clone(&ours)).cancelled() {
                    true => Err(Error::timeout()),
                    false => caught(work).and_then(|result| result),
                };
                if ours.end() {
                    overrunning.fetch_sub(1, Ordering::AcqRel);
                }
                result
            });
            let lost = |_| Err(Error::new("the handler's thread was lost"));
            let result = thread.await.unwrap_or_else(lost);
            // The handler may have noticed the deadline before this thread did, and may have failed
            // for that reason. So an error after the deadline is answered as TIMEOUT.
            match result.is_err() && call.overdue() {
                true => Err(Error::timeout()),
                false => result,
            }
        }
    }
}

async fn finish_future(mut future: HandlerFuture) -> Result<Output, Error> {
    // Each poll runs code of the handler, so each poll may panic.
    poll_fn(|task| match caught(|| future.as_mut().poll(task)) {
        Ok(poll) => poll,
        Err(error) => std::task::Poll::Ready(Err(error)),
    })
    .await
}
