//! Questions to other threads that wait for their answers. Bounded, and every wait has a deadline.
//! `Thread::ask` (the bridge) and `peer` (another io thread) ask; the inbox answers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::alarm::Alarms;

/// More changes at once are refused.
const WAITING_MAX: usize = 512;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Too many questions wait.
    Full,
    /// The bridge did not answer in time; the change may still happen.
    Late,
}

struct Waiting<T> {
    reply: Option<T>,
    waker: Option<Waker>,
}

/// The questions of a thread.
pub(crate) struct Replies<T> {
    next: Cell<u64>,
    waiting: RefCell<HashMap<u64, Waiting<T>>>,
}

impl<T> Default for Replies<T> {
    fn default() -> Self {
        Self {
            next: Cell::new(0),
            waiting: RefCell::default(),
        }
    }
}

impl<T> Replies<T> {
    /// A token for a new question.
    pub(crate) fn expect(&self) -> Option<u64> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= WAITING_MAX {
            return None;
        }
        let token = self.next.get();
        self.next.set(token + 1);
        waiting.insert(
            token,
            Waiting {
                reply: None,
                waker: None,
            },
        );
        Some(token)
    }

    pub(crate) fn forget(&self, token: u64) {
        self.waiting.borrow_mut().remove(&token);
    }

    /// The answer came; nobody may wait for it any more.
    pub(crate) fn answer(&self, token: u64, reply: T) {
        if let Some(waiting) = self.waiting.borrow_mut().get_mut(&token) {
            waiting.reply = Some(reply);
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
        }
    }

    pub(crate) async fn wait(
        &self,
        token: u64,
        alarms: &Rc<Alarms>,
        until_ns: u64,
    ) -> Result<T, NoAnswer> {
        /// However the wait ends, the question is forgotten.
        struct Forget<'a, T>(&'a Replies<T>, u64);
        impl<T> Drop for Forget<'_, T> {
            fn drop(&mut self) {
                self.0.forget(self.1);
            }
        }
        let _forget = Forget(self, token);
        let alarm = alarms.alarm();
        alarm.set(until_ns);
        std::future::poll_fn(|cx| {
            let mut all = self.waiting.borrow_mut();
            let waiting = all
                .get_mut(&token)
                .expect("it is forgotten only after the wait");
            if let Some(reply) = waiting.reply.take() {
                return Poll::Ready(Ok(reply));
            }
            waiting.waker = Some(cx.waker().clone());
            alarm.poll(cx).map(|()| Err(NoAnswer::Late))
        })
        .await
    }
}
