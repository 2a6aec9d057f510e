//! The interface for a function's author: closures of three kinds, or a type of the author's own,
//! each under a name. This module never runs a handler; `run` does.
//!
//! - `inline`: quick work, on the thread that read the request. Until the work ends, this thread
//!   serves no other call.
//! - `blocking`: work on the CPU, or blocking system calls. Each call has a thread of its own. The
//!   closure should check [`Context::cancelled`] regularly, because a thread cannot be stopped from
//!   outside.
//! - `future`: `async` work. Its future is dropped at the deadline, or when the caller leaves.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use crate::call::{Context, FromInput, Input};
use crate::error::Error;
use crate::output::{IntoOutput, Output};
use crate::service::HttpService;
pub use crate::service::{http, tower};

/// One function. The constructors of this module make a handler from a closure.
pub trait Handler: Send + Sync + 'static {
    /// Begins a call. Work of more than a few microseconds belongs in the returned future or
    /// blocking closure.
    fn call(&self, input: Input, context: Context) -> Running;

    /// Returns the service if this handler takes bodies as they come; see [`http`].
    #[doc(hidden)]
    fn service(&self) -> Option<&dyn HttpService> {
        None
    }
}

pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<Output, Error>> + Send>>;

/// A call that has begun.
pub enum Running {
    Ended(Result<Output, Error>),
    Future(HandlerFuture),
    Blocking(Box<dyn FnOnce() -> Result<Output, Error> + Send>),
}

/// Makes a handler for quick work. The closure takes an [`Input`] or any type that serde reads from
/// JSON. It returns an [`Output`], an [`Input`] or any type that serde writes.
pub fn inline<F, T, R>(handler: F) -> impl Handler
where
    F: Fn(T, &Context) -> Result<R, Error> + Send + Sync + 'static,
    T: FromInput + 'static,
    R: IntoOutput + 'static,
{
    Inline(handler, PhantomData)
}

/// Makes a handler for long work. The closure runs on a thread of its own.
pub fn blocking<F, T, R>(handler: F) -> impl Handler
where
    F: Fn(T, &Context) -> Result<R, Error> + Send + Sync + 'static,
    T: FromInput + 'static,
    R: IntoOutput + 'static,
{
    Blocking(Arc::new(handler), PhantomData)
}

/// Makes a handler from an `async` closure, or from a closure that returns a future.
pub fn future<F, T, R, Fut>(handler: F) -> impl Handler
where
    F: Fn(T, Context) -> Fut + Send + Sync + 'static,
    T: FromInput + 'static,
    R: IntoOutput + 'static,
    Fut: Future<Output = Result<R, Error>> + Send + 'static,
{
    Async(handler, PhantomData)
}

struct Inline<F, T, R>(F, PhantomData<fn(T) -> R>);

impl<F, T, R> Handler for Inline<F, T, R>
where
    F: Fn(T, &Context) -> Result<R, Error> + Send + Sync + 'static,
    T: FromInput + 'static,
    R: IntoOutput + 'static,
{
    fn call(&self, input: Input, context: Context) -> Running {
        Running::Ended(run_closure(&self.0, input, &context))
    }
}

struct Blocking<F, T, R>(Arc<F>, PhantomData<fn(T) -> R>);

impl<F, T, R> Handler for Blocking<F, T, R>
where
    F: Fn(T, &Context) -> Result<R, Error> + Send + Sync + 'static,
    T: FromInput + 'static,
    R: IntoOutput + 'static,
{
    fn call(&self, input: Input, context: Context) -> Running {
        let handler = Arc::clone(&self.0);
        Running::Blocking(Box::new(move || run_closure(&*handler, input, &context)))
    }
}

fn run_closure<F, T, R>(handler: &F, input: Input, context: &Context) -> Result<Output, Error>
where
    F: Fn(T, &Context) -> Result<R, Error>,
    T: FromInput,
    R: IntoOutput,
{
    handler(T::from_input(input)?, context)?.into_output()
}

struct Async<F, T, R>(F, PhantomData<fn(T) -> R>);

impl<F, T, R, Fut> Handler for Async<F, T, R>
where
    F: Fn(T, Context) -> Fut + Send + Sync + 'static,
    T: FromInput + 'static,
    R: IntoOutput + 'static,
    Fut: Future<Output = Result<R, Error>> + Send + 'static,
{
    fn call(&self, input: Input, context: Context) -> Running {
        match T::from_input(input) {
            Ok(input) => {
                let ended = (self.0)(input, context);
                Running::Future(Box::pin(async move { ended.await?.into_output() }))
            }
            Err(error) => Running::Ended(Err(error)),
        }
    }
}

pub(crate) type Init = Box<dyn FnOnce() -> Result<(), Error> + Send>;

pub struct Handlers {
    named: Vec<(String, Arc<dyn Handler>)>,
    init: Option<Init>,
    made_at: SystemTime,
    picks: bool,
}

impl Handlers {
    /// Makes a set without handlers. Call it first in `main`, because a cold start is measured from
    /// here.
    pub fn new() -> Self {
        Self {
            named: Vec::new(),
            init: None,
            made_at: SystemTime::now(),
            picks: true,
        }
    }

    /// Makes the program ignore `FUNCTION_HANDLER`. Call it if the variable is meant for another
    /// process, for example one that the handler starts.
    #[must_use]
    pub fn without_picking(mut self) -> Self {
        self.picks = false;
        self
    }

    /// Adds a handler. `FUNCTION_HANDLER` selects a handler by its name; a program with a single
    /// handler does not need the variable.
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, handler: impl Handler) -> Self {
        self.named.push((name.into(), Arc::new(handler)));
        self
    }

    /// Sets a closure that runs one time before the first call, on a thread of its own. `/health`
    /// answers 503 until it has ended. If it fails, the program logs why and exits with code 1. In
    /// Job mode the failure becomes the call's result.
    #[must_use]
    pub fn init(mut self, init: impl FnOnce() -> Result<(), Error> + Send + 'static) -> Self {
        self.init = Some(Box::new(init));
        self
    }

    pub(crate) fn made_at(&self) -> SystemTime {
        self.made_at
    }

    pub(crate) fn take_init(&mut self) -> Option<Init> {
        self.init.take()
    }

    pub(crate) fn choose(&self, name: Option<&str>) -> Result<Arc<dyn Handler>, String> {
        let name = name.filter(|_| self.picks);
        let names: Vec<&str> = self.named.iter().map(|(name, _)| name.as_str()).collect();
        let known = names.join(", ");
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                return Err(format!("two handlers are called {name:?}: rename one"));
            }
        }
        match (name, self.named.as_slice()) {
            (_, []) => Err("no handler was added: call Handlers::add".into()),
            (None, [(_, only)]) => Ok(Arc::clone(only)),
            (None, _) => Err(format!("FUNCTION_HANDLER must name one of: {known}")),
            (Some(name), all) => {
                let found = all.iter().find(|(known, _)| known == name);
                let missing =
                    || format!("FUNCTION_HANDLER must name one of: {known}; it is {name:?}");
                found
                    .map(|(_, handler)| Arc::clone(handler))
                    .ok_or_else(missing)
            }
        }
    }
}

impl Default for Handlers {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.named.iter().map(|(name, _)| name);
        out.debug_set().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> impl Handler {
        inline(|input: Input, _: &Context| Ok(input))
    }

    #[test]
    fn a_single_one_needs_no_name() {
        let one = Handlers::new().add("a", echo());
        assert!(one.choose(None).is_ok());
        assert!(one.choose(Some("a")).is_ok());
        assert!(one.choose(Some("b")).is_err());
        assert!(one.without_picking().choose(Some("b")).is_ok());
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let two = Handlers::new().add("a", echo()).add("b", echo());
        for name in [None, Some("c")] {
            let message = two.choose(name).err().expect("nothing chosen");
            assert!(message.contains("a, b"), "{message}");
        }
        assert!(two.choose(Some("b")).is_ok());
    }

    #[test]
    fn none_and_two_of_a_name_are_refused() {
        assert!(Handlers::new().choose(None).is_err());
        let twice = Handlers::new().add("a", echo()).add("a", echo());
        assert!(twice.choose(Some("a")).is_err());
    }
}
