//! A task's share of its thread. A client that sends ahead has always more to do and would keep the
//! thread from all others: after its share a task gives way, and goes on after the loop has looked at
//! I/O. No task wakes itself for that; `inbox` wakes it, once it has read the thread's own bell.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

use crate::thread::Thread;

/// The tasks that gave way.
#[derive(Default)]
pub(crate) struct GivenWay {
    tasks: RefCell<Vec<Waker>>,
    /// How often they were woken.
    turn: Cell<u64>,
}

impl GivenWay {
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.borrow().is_empty()
    }

    /// The loop has looked at I/O: they go on, behind the tasks that it woke.
    pub(crate) fn wake(&self) {
        self.turn.set(self.turn.get() + 1);
        self.tasks.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

impl Thread {
    /// Wakes the task after the loop has looked at I/O.
    pub(crate) fn give_way(&self, cx: &Context<'_>) {
        self.given_way.tasks.borrow_mut().push(cx.waker().clone());
        // The byte in the thread's own bell is the I/O that the loop has to look at first.
        self.peers[usize::from(self.index)].ring();
    }
}

/// What is left of one task's share.
pub(crate) struct Share {
    left: Cell<usize>,
    /// The turn in which the task goes on.
    turn: Cell<u64>,
}

impl Share {
    pub(crate) const fn new() -> Self {
        Self {
            left: Cell::new(0),
            turn: Cell::new(0),
        }
    }

    /// The task is polled: it has a share of `most`; none while it waits for its turn.
    pub(crate) fn begin(&self, thread: &Thread, most: usize) -> bool {
        let goes_on = thread.given_way.turn.get() >= self.turn.get();
        if goes_on {
            self.left.set(most);
        }
        goes_on
    }

    /// Uses some of it.
    pub(crate) fn take(&self, some: usize) {
        self.left.set(self.left.get().saturating_sub(some));
    }

    pub(crate) const fn is_used_up(&self) -> bool {
        self.left.get() == 0
    }

    /// Gives way, and has the next share once it is the task's turn again.
    pub(crate) fn give_way(&self, thread: &Thread, cx: &Context<'_>) {
        self.turn.set(thread.given_way.turn.get() + 1);
        thread.give_way(cx);
    }
}
