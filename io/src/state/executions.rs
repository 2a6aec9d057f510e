//! The executions that this thread owns. Async, keyed and `Prefer` executions are stored with their output,
//! for a limited time and within the process's byte budget (`store`). Of each plain sync call only a small
//! record is kept, in a circular buffer. The terminal state of an execution never changes. `api::executions`
//! answers the requests about executions.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use foldhash::{HashMap, HashMapExt};
use nanofaas_core::call::Deadline;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::limits::SYNC_RECORDS;
use nanofaas_core::message::Phases;
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::shard::ShardId;
use nanofaas_core::ticket::{CallId, LaneId};
use nanofaas_core::time::{Nanos, Uptime};

use crate::http::output::Output;
use crate::runtime::waiters::{Waiter, Waiters};
use crate::state::functions::FunctionEntry;
use crate::state::idempotency::Keys;
use crate::state::store::{Budget, Oldest};

/// The states of an execution, as the contract names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Queued,
    Running,
    Success,
    Error,
    Timeout,
}

impl Status {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Success => "success",
            Self::Error => "error",
            Self::Timeout => "timeout",
        }
    }

    pub(crate) const fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// Returns the final state of a call that ended with `failure`.
    pub(crate) const fn of(failure: &ExecutionError) -> Self {
        match failure {
            ExecutionError::Timeout { .. } | ExecutionError::StartTimeout(_) => Self::Timeout,
            _ => Self::Error,
        }
    }
}

#[derive(Clone)]
pub(crate) struct ExecutionRecord {
    pub(crate) id: ExecutionId,
    pub(crate) entry: Rc<FunctionEntry>,
    pub(crate) status: Status,
    pub(crate) attempt: u32,
    pub(crate) enqueued_at: Uptime,
    pub(crate) started_at: Option<Uptime>,
    pub(crate) finished_at: Option<Uptime>,
    pub(crate) cold_start: bool,
    pub(crate) init_ms: Option<u32>,
    /// The phases of the pod's start, if an attempt had to wait for that start.
    pub(crate) start: Option<Phases>,
    pub(crate) failure: Option<ExecutionError>,
    /// The call, until it ends; a cancel ends the call by this id.
    pub(crate) call: Option<CallId>,
}

/// The key that an execution holds: the lane of the function's registration, and the client's key. A function
/// that is removed and registered again has another `LaneId`, so no execution of the first registration is
/// replayed.
pub(crate) type IdempotencyKey = (LaneId, Box<[u8]>);

/// An execution that is stored, so that clients can read its output or wait for its end.
pub(crate) struct StoredExecution {
    pub(crate) record: RefCell<ExecutionRecord>,
    /// The output. All answers that contain the output share it, on any io thread.
    pub(crate) output: RefCell<Option<Arc<Output>>>,
    /// The time by which the call has to end. When the client that made the call stops waiting, this becomes
    /// the async deadline.
    pub(crate) deadline: Cell<Deadline>,
    /// Whether the async deadline holds, because the client that made the call does not wait for the call's
    /// end. Clients that repeated the call may still wait; `joined` counts them.
    pub(crate) detached: Cell<bool>,
    /// The number of clients that repeated the call and wait for its end now.
    pub(crate) joined: Cell<u32>,
    pub(crate) key: RefCell<Option<IdempotencyKey>>,
    pub(crate) times: Cell<nanofaas_core::call::Times>,
    /// The bytes that the store's budget counts for this execution.
    weighed: Cell<u64>,
    waiters: Waiters<()>,
}

impl StoredExecution {
    pub(crate) fn new(
        record: ExecutionRecord,
        deadline: Deadline,
        key: Option<IdempotencyKey>,
        detached: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            record: RefCell::new(record),
            output: RefCell::default(),
            deadline: Cell::new(deadline),
            detached: Cell::new(detached),
            joined: Cell::new(0),
            key: RefCell::new(key),
            times: Cell::default(),
            weighed: Cell::new(0),
            waiters: Waiters::default(),
        })
    }

    pub(crate) fn status(&self) -> Status {
        self.record.borrow().status
    }

    /// Returns whether the execution has ended, with success or without.
    pub(crate) fn is_over(&self) -> bool {
        self.status().is_terminal()
    }

    /// Returns a wait for the end of the execution.
    pub(crate) const fn until_over(&self) -> UntilOver<'_> {
        UntilOver {
            stored: self,
            waiter: self.waiters.wait(()),
        }
    }

    pub(crate) fn announce(&self) {
        self.waiters.wake(());
    }

    /// Returns the bytes of the execution, including its key, failure, start phases and output.
    fn weight(&self) -> u64 {
        let record = self.record.borrow();
        let failure = record
            .failure
            .as_ref()
            .map_or(0, ExecutionError::text_bytes);
        let start = record.start.as_ref().map_or(0, |phases| {
            size_of_val::<[(&str, Nanos)]>(phases) + COUNTS_BYTES
        });
        // The key counts twice, because the thread that owns the key has a second copy.
        let key = self.key.borrow();
        let key = key
            .as_ref()
            .map_or(0, |(_, key)| 2 * key.len() + Keys::ENTRY_BYTES);
        let output = self.output.borrow();
        let output = output.as_ref().map_or(0, |output| output.held_bytes());
        (STORED_BYTES + failure + start + key) as u64 + output
    }
}

/// A wait for the end of a stored execution. Dropping this value ends the wait.
pub(crate) struct UntilOver<'a> {
    stored: &'a StoredExecution,
    waiter: Waiter<'a, ()>,
}

impl UntilOver<'_> {
    /// Returns whether the execution is over. If it is not, the task of `cx` is woken when it ends.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> bool {
        let over = self.stored.is_over();
        if !over {
            self.waiter.keep(cx);
        }
        over
    }
}

/// The bytes of the two counts of an `Rc` or `Arc`.
const COUNTS_BYTES: usize = 2 * size_of::<usize>();

/// The bytes of a stored execution, without the heap data of its record, key and output. They are the value
/// itself, its entry in the table, its entry in the list of finished executions, and the `Output`. The entry
/// in the table counts twice, because the table may be half empty.
const STORED_BYTES: usize = size_of::<StoredExecution>()
    + COUNTS_BYTES
    + 2 * size_of::<(u128, Rc<StoredExecution>)>()
    + size_of::<(Uptime, u128)>()
    + size_of::<Output>()
    + COUNTS_BYTES;

struct ExecutionMaps {
    stored: HashMap<u128, Rc<StoredExecution>>,
    /// The finished executions, each with the time of its end, in the order in which they finished.
    finished: VecDeque<(Uptime, u128)>,
    /// The records of plain sync calls, by place. A place is empty if `forget_plain` removed its record.
    ring: Vec<Option<ExecutionRecord>>,
    ring_next: u16,
}

pub(crate) struct ExecutionTable {
    budget: Budget,
    ttl: Nanos,
    inner: RefCell<ExecutionMaps>,
}

pub(crate) enum Found {
    Stored(Rc<StoredExecution>),
    /// The record of a plain sync call, whose output goes only to its client.
    Plain(Box<ExecutionRecord>),
}

impl ExecutionTable {
    pub(crate) fn new(budget: Budget, ttl_ms: u64) -> Self {
        let inner = ExecutionMaps {
            stored: HashMap::new(),
            finished: VecDeque::new(),
            ring: Vec::new(),
            ring_next: 0,
        };
        Self {
            budget,
            ttl: Nanos::from_ms(ttl_ms),
            inner: RefCell::new(inner),
        }
    }

    /// Returns the place in the circular buffer for the record of the next plain sync call. The place is part
    /// of the call's id, so `find` reads the record without a search.
    pub(crate) fn next_place(&self) -> u16 {
        self.inner.borrow().ring_next
    }

    /// Puts the record of a plain sync call into the next place of the circular buffer, which the record's id
    /// contains. In a full buffer the record replaces the oldest one.
    pub(crate) fn put_plain(&self, record: ExecutionRecord) {
        let mut inner = self.inner.borrow_mut();
        let at = inner.ring_next;
        assert!(record.id.place() == at, "a record has its id's place");
        inner.ring_next = (at + 1) % SYNC_RECORDS;
        match inner.ring.get_mut(usize::from(at)) {
            Some(old) => *old = Some(record),
            None => inner.ring.push(Some(record)),
        }
    }

    /// Changes the record of a plain sync call, if the circular buffer still has it.
    pub(crate) fn with_plain(&self, id: ExecutionId, change: impl FnOnce(&mut ExecutionRecord)) {
        let mut inner = self.inner.borrow_mut();
        let place = inner.ring.get_mut(usize::from(id.place()));
        let record = place.and_then(Option::as_mut);
        if let Some(record) = record.filter(|record| record.id == id) {
            change(record);
        }
    }

    /// Removes the record of a plain sync call that was refused after `put_plain` had stored the record.
    pub(crate) fn forget_plain(&self, id: ExecutionId) {
        let mut inner = self.inner.borrow_mut();
        if let Some(place) = inner.ring.get_mut(usize::from(id.place())) {
            place.take_if(|record| record.id == id);
        }
    }

    /// Stores an execution. Its time to live begins only when it ends.
    pub(crate) fn put(&self, stored: &Rc<StoredExecution>) {
        let id = stored.record.borrow().id.random();
        self.inner.borrow_mut().stored.insert(id, stored.clone());
        self.weigh(stored);
    }

    /// Updates the store's budget to the bytes that the execution takes now.
    fn weigh(&self, stored: &StoredExecution) {
        let is = stored.weight();
        self.budget.change(stored.weighed.replace(is), is);
    }

    /// Returns the stored execution or the plain call's record, if this thread still has one with this id.
    pub(crate) fn find(&self, id: ExecutionId) -> Option<Found> {
        let inner = self.inner.borrow();
        if let Some(stored) = inner.stored.get(&id.random()) {
            let same = stored.record.borrow().id == id;
            return same.then(|| Found::Stored(stored.clone()));
        }
        let record = inner.ring.get(usize::from(id.place()))?.as_ref()?;
        (record.id == id).then(|| Found::Plain(Box::new(record.clone())))
    }

    /// Records the end of a stored execution. From now on its output counts against the budget, and its time
    /// to live runs.
    pub(crate) fn finished(
        &self,
        stored: &Rc<StoredExecution>,
        output: Option<Output>,
        now: Uptime,
    ) {
        stored
            .output
            .replace(output.map(|output| Arc::new(output.fitted())));
        let id = stored.record.borrow().id.random();
        let finished = &mut self.inner.borrow_mut().finished;
        finished.push_back((now, id));
        self.budget.set_oldest(finished.front().map(|(at, _)| *at));
        self.weigh(stored);
    }

    /// Drops executions that are past their time to live. While the byte budget is exceeded, drops the
    /// execution that finished first. Calls `gone` for each dropped execution, with true if the budget was
    /// the reason.
    ///
    /// If another thread has the execution that finished first, and was not yet asked to drop it, returns
    /// that thread. The caller then has to send the request.
    pub(crate) fn expire(
        &self,
        now: Uptime,
        mut gone: impl FnMut(&StoredExecution, bool),
    ) -> Option<ShardId> {
        loop {
            let first = self.inner.borrow().finished.front().copied();
            let late = first.is_some_and(|(at, _)| at.saturating_add(self.ttl) <= now);
            if !late {
                match self.budget.passed()? {
                    Oldest::Own => {}
                    Oldest::Of(thread) => return self.budget.ask(thread).then_some(thread),
                }
            }
            let stored = {
                let inner = &mut *self.inner.borrow_mut();
                let (_, id) = inner.finished.pop_front()?;
                let next = inner.finished.front().map(|(at, _)| *at);
                self.budget.set_oldest(next);
                inner.stored.remove(&id)
            };
            if let Some(stored) = stored {
                self.budget.change(stored.weighed.take(), 0);
                gone(&stored, !late);
            }
        }
    }

    /// Returns when the execution that finished first is past its time to live.
    pub(crate) fn next_expiry(&self) -> Option<Uptime> {
        let first = self.inner.borrow().finished.front().copied();
        first.map(|(finished_at, _)| finished_at.saturating_add(self.ttl))
    }

    pub(crate) fn is_over_budget(&self) -> bool {
        self.budget.passed().is_some()
    }

    /// Notes that this thread begins to drop its oldest finished execution, as another thread has asked.
    pub(crate) fn acknowledge_budget(&self) {
        self.budget.acknowledge();
    }
}
