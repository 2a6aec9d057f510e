//! Runs a handler, and turns a panic of the handler into the error of its call, so that no other
//! call is affected. `connection` and `job` call this module, and stop a call at its deadline.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::call::{Context, HandlerCall, Input};
use crate::error::Error;
use crate::handler::{Handler, HandlerFuture, Running};
use crate::log;
use crate::output::Output;

thread_local! {
    // Only the panic hook gets the location. It runs on the thread of the panic before
    // `catch_unwind` returns, so a thread-local passes the location to `caught`.
    static IN_HANDLER: Cell<bool> = const { Cell::new(false) };
    static PANIC_PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs a panic hook, which logs a panic as a JSON line. A panic in a handler becomes the error
/// of its call, so the hook only keeps its location.
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

pub(crate) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, Error> {
    IN_HANDLER.set(true);
    // A panic may leave the handlers' shared state half-changed. The function's author is
    // responsible for that state.
    let result = catch_unwind(AssertUnwindSafe(f));
    IN_HANDLER.set(false);
    result.map_err(|payload| {
        let place = PANIC_PLACE.take().unwrap_or_default();
        let text = panic_text(&*payload);
        Error::new(format!("the handler panicked at {place}: {text}"))
    })
}

pub(crate) fn begin(handler: &dyn Handler, call: &Arc<HandlerCall>) -> Running {
    let input = Input::new(Arc::clone(call));
    let context = Context::new(Arc::clone(call));
    caught(|| handler.call(input, context)).unwrap_or_else(|error| Running::Ended(Err(error)))
}

/// Runs a begun call to its end. A caller that cuts off a call whose blocking handler still runs
/// increments `overrunning`. The handler's thread decrements it when the handler ends.
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
                // The deadline may have passed, or the caller may have left, while the call waited
                // for a thread.
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
            // The handler may have failed because it noticed the deadline, so an error after the
            // deadline is answered as TIMEOUT.
            match result.is_err() && call.overdue() {
                true => Err(Error::timeout()),
                false => result,
            }
        }
    }
}

async fn finish_future(future: HandlerFuture) -> Result<Output, Error> {
    finish_polls(future).await
}

/// Polls code of the handler to its end.
pub(crate) async fn finish_polls<T>(
    mut future: Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>,
) -> Result<T, Error> {
    // Each poll runs code of the handler, so each poll may panic.
    poll_fn(|task| match caught(|| future.as_mut().poll(task)) {
        Ok(poll) => poll,
        Err(error) => std::task::Poll::Ready(Err(error)),
    })
    .await
}
