//! The questions of a thread to other threads. Their number is bounded, and every wait for an answer has a
//! deadline. `bridge` and `shards` ask; the inbox delivers the answers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Poll, Waker};

use nanofaas_core::limits::QUESTIONS_MAX;
use nanofaas_core::time::Uptime;

use crate::runtime::timers::Alarms;

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Too many questions are open, or the ring to the bridge is full.
    Full,
    /// The answer did not come in time. If the question asked the bridge for a change, the bridge may still
    /// make the change.
    Late,
}

enum PendingState<T> {
    /// The question has no answer yet. The value is the waker of the task that waits for the answer, if a
    /// task waits already.
    Open(Option<Waker>),
    Answered(T),
    /// The wait ended before the answer came.
    Abandoned,
}

/// The questions of a thread, by their tokens.
pub(crate) struct PendingRequests<T> {
    /// Whether every question gets an answer, however late. If so, a question keeps its place until its
    /// answer comes, so that no more than `QUESTIONS_MAX` answers can be in flight.
    certain: bool,
    next: Cell<u64>,
    waiting: RefCell<HashMap<u64, PendingState<T>>>,
}

impl<T> PendingRequests<T> {
    /// Makes a table for questions that may stay without an answer.
    pub(crate) fn uncertain() -> Self {
        Self::new(false)
    }

    /// Makes a table for questions that get exactly one answer each.
    pub(crate) fn certain() -> Self {
        Self::new(true)
    }

    fn new(certain: bool) -> Self {
        Self {
            certain,
            next: Cell::new(0),
            waiting: RefCell::default(),
        }
    }

    /// Opens a question, and returns its token; returns none if too many questions are open.
    pub(crate) fn expect(&self) -> Option<u64> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= QUESTIONS_MAX {
            return None;
        }
        let token = self.next.get();
        self.next.set(token + 1);
        waiting.insert(token, PendingState::Open(None));
        Some(token)
    }

    pub(crate) fn forget(&self, token: u64) {
        self.waiting.borrow_mut().remove(&token);
    }

    /// Ends a wait. If the question has no answer yet but is certain to get one, the question keeps its
    /// place.
    fn leave(&self, token: u64) {
        let mut all = self.waiting.borrow_mut();
        match all.get_mut(&token) {
            Some(waiting @ PendingState::Open(_)) if self.certain => {
                *waiting = PendingState::Abandoned
            }
            _ => drop(all.remove(&token)),
        }
    }

    /// Delivers an answer to the task that waits for it. Returns the answer as the error if the wait has
    /// ended.
    pub(crate) fn answer(&self, token: u64, reply: T) -> Result<(), T> {
        let mut all = self.waiting.borrow_mut();
        match all.get_mut(&token) {
            Some(waiting @ (PendingState::Open(_) | PendingState::Answered(_))) => {
                let before = std::mem::replace(waiting, PendingState::Answered(reply));
                if let PendingState::Open(Some(waker)) = before {
                    waker.wake();
                }
                Ok(())
            }
            Some(PendingState::Abandoned) | None => {
                all.remove(&token);
                Err(reply)
            }
        }
    }

    pub(crate) async fn wait(
        &self,
        token: u64,
        alarms: &Rc<Alarms>,
        until: Uptime,
    ) -> Result<T, NoAnswer> {
        /// Calls `leave` when the wait ends, also if the task of the wait is dropped.
        struct Leave<'a, T>(&'a PendingRequests<T>, u64);
        impl<T> Drop for Leave<'_, T> {
            fn drop(&mut self) {
                self.0.leave(self.1);
            }
        }
        let _leave = Leave(self, token);
        let alarm = alarms.alarm();
        alarm.set(until);
        std::future::poll_fn(|cx| {
            let mut all = self.waiting.borrow_mut();
            let waiting = all.remove(&token);
            let waiting = waiting.expect("it is forgotten only after the wait");
            if let PendingState::Answered(reply) = waiting {
                return Poll::Ready(Ok(reply));
            }
            all.insert(token, PendingState::Open(Some(cx.waker().clone())));
            alarm.poll(cx).map(|()| Err(NoAnswer::Late))
        })
        .await
    }
}
