//! An admitted call that is being served: its request, its state machine (`core/src/call.rs`), and the events
//! that come for it. This module runs no attempt; `drive` does.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

use nanofaas_core::call::Step;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::ticket::CallId;
use nanofaas_core::time::Uptime;

use crate::invoke::charges::WaitingBody;
use crate::invoke::incoming::Incoming;
use crate::links::Links;
use crate::runtime::timers::Alarm;
use crate::state::call_machine::CallMachine;
use crate::state::executions::{ExecutionRecord, StoredExecution};
use crate::state::functions::FunctionEntry;

/// The time at which an attempt's request was sent.
#[derive(Default)]
pub(crate) struct SentTimestamp {
    pub(crate) sent_at: Cell<Option<Uptime>>,
}

pub(crate) struct ServedCall<'a> {
    pub(crate) thread: &'a Rc<Links>,
    pub(crate) life: RefCell<CallMachine>,
    pub(crate) call_id: CallId,
    pub(crate) id: ExecutionId,
    pub(crate) arrived_at: Uptime,
    pub(crate) stored: Option<Rc<StoredExecution>>,
    pub(crate) request: &'a Incoming,
    pub(crate) alarm: &'a Alarm,
    /// Counts the call's large body among the waiting bodies of its function, until the call begins.
    pub(crate) waiting: RefCell<Option<WaitingBody>>,
    /// The time at which the running attempt sent its request.
    pub(crate) timestamps: SentTimestamp,
    /// Whether an attempt waited for its pod to start, or was the first attempt on its pod.
    pub(crate) is_cold: Cell<bool>,
}

impl ServedCall<'_> {
    pub(crate) fn note(&self, change: impl FnOnce(&mut ExecutionRecord)) {
        match &self.stored {
            Some(stored) => change(&mut stored.record.borrow_mut()),
            None => self.thread.executions.with_plain(self.id, change),
        }
    }

    /// Returns the function, with the spec under which the current attempt began.
    pub(crate) fn entry(&self) -> Ref<'_, Rc<FunctionEntry>> {
        Ref::map(self.life.borrow(), CallMachine::entry)
    }

    /// Returns the number of the current attempt; 0 before the first attempt.
    pub(crate) fn attempt(&self) -> u32 {
        self.life.borrow().attempt()
    }

    pub(crate) fn step(&self) -> Step {
        self.life.borrow_mut().step()
    }

    /// Passes one event to the state machine. If there is no event, the task is woken when an event comes.
    pub(crate) fn poll_events(&self, cx: &Context<'_>) -> Poll<()> {
        let thread = self.thread;
        let life = &mut *self.life.borrow_mut();
        if let Some(stored) = &self.stored
            && stored.detached.get()
            && !life.is_async()
        {
            life.detach(stored.deadline.get());
        }
        // A call that was granted and ended before this poll must not reach the pod. For such a call
        // `take_grant_to_run` returns no grant, and `poll_end` returns its end.
        if life.is_queued()
            && let Some(grant) = thread.calls.take_grant_to_run(self.call_id)
        {
            life.granted(grant, thread.recent(), thread);
            return Poll::Ready(());
        }
        if let Poll::Ready(end) = thread.calls.poll_end(self.call_id, cx) {
            life.end(&end, thread.recent(), thread);
            return Poll::Ready(());
        }
        self.alarm.set(life.until());
        self.alarm
            .poll(cx)
            .map(|()| life.time(thread.now(), thread))
    }
}
