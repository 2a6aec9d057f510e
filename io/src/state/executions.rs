//! The executions that this thread owns. Async, keyed and `Prefer` executions are stored with their output, for
//! a limited time and within the process's byte budget (`store`). A plain sync call leaves a small record in a
//! ring. A terminal state never changes. It answers no request by itself; `api::executions` does.

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

/// The states of the contract.
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

    /// The final state of a call with this failure.
    pub(crate) const fn of(failure: &ExecutionError) -> Self {
        match failure {
            ExecutionError::Timeout { .. } | ExecutionError::StartTimeout(_) => Self::Timeout,
            _ => Self::Error,
        }
    }
}

/// What is known of an execution, without its output.
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
    /// The start phases of the pod for which an attempt had to wait.
    pub(crate) start: Option<Phases>,
    pub(crate) failure: Option<ExecutionError>,
    /// The running call, for a cancel.
    pub(crate) call: Option<CallId>,
}

/// The key that an execution holds: its function's registration and the client's key. A function
/// that is removed and registered again is another registration, so no execution of the first one
/// is replayed.
pub(crate) type IdempotencyKey = (LaneId, Box<[u8]>);

/// A stored execution, so that clients can read its output or wait for its end.
pub(crate) struct StoredExecution {
    pub(crate) record: RefCell<ExecutionRecord>,
    /// Shared by all answers that contain it, on any io thread.
    pub(crate) output: RefCell<Option<Arc<Output>>>,
    /// When the call has to end. It becomes the async deadline when the first client stops waiting.
    pub(crate) deadline: Cell<Deadline>,
    /// Whether the client that made the call has stopped waiting for it, so that the async deadlines hold.
    /// Repeats of the call may still wait: see `joined`.
    pub(crate) detached: Cell<bool>,
    /// Repeats of the call that wait for its end now.
    pub(crate) joined: Cell<u32>,
    pub(crate) key: RefCell<Option<IdempotencyKey>>,
    pub(crate) times: Cell<nanofaas_core::call::Times>,
    /// The bytes that the store's account counts for it.
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

    /// Whether it has ended, with success or not.
    pub(crate) fn is_over(&self) -> bool {
        self.status().is_terminal()
    }

    /// A wait for the end.
    pub(crate) const fn until_over(&self) -> UntilOver<'_> {
        UntilOver {
            stored: self,
            waiter: self.waiters.wait(()),
        }
    }

    /// Wakes every task that waits for the end.
    pub(crate) fn announce(&self) {
        self.waiters.wake(());
    }

    /// The bytes of the execution, with everything that is stored for it.
    fn weight(&self) -> u64 {
        let record = self.record.borrow();
        let failure = record
            .failure
            .as_ref()
            .map_or(0, ExecutionError::text_bytes);
        let start = record.start.as_ref().map_or(0, |phases| {
            size_of_val::<[(&str, Nanos)]>(phases) + COUNTS_BYTES
        });
        // The key counts twice, because the thread that owns the key has a copy, too.
        let key = self.key.borrow();
        let key = key
            .as_ref()
            .map_or(0, |(_, key)| 2 * key.len() + Keys::ENTRY_BYTES);
        let output = self.output.borrow();
        let output = output.as_ref().map_or(0, |output| output.held_bytes());
        (STORED_BYTES + failure + start + key) as u64 + output
    }
}

/// A wait for a stored execution's end. Dropping it gives the wait up.
pub(crate) struct UntilOver<'a> {
    stored: &'a StoredExecution,
    waiter: Waiter<'a, ()>,
}

impl UntilOver<'_> {
    /// Whether the execution is over; if not, the task is woken at its end.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> bool {
        let over = self.stored.is_over();
        if !over {
            self.waiter.keep(cx);
        }
        over
    }
}

/// The two counts of an `Rc` or `Arc`.
const COUNTS_BYTES: usize = 2 * size_of::<usize>();

/// Bytes of a stored execution, without its record's heap data: the value itself, its entry in the table
/// (twice, because the table may be half empty), its entry in the list of finished executions, and the
/// `Output`.
const STORED_BYTES: usize = size_of::<StoredExecution>()
    + COUNTS_BYTES
    + 2 * size_of::<(u128, Rc<StoredExecution>)>()
    + size_of::<(Uptime, u128)>()
    + size_of::<Output>()
    + COUNTS_BYTES;

struct ExecutionMaps {
    stored: HashMap<u128, Rc<StoredExecution>>,
    /// Finished executions with the time of their end, in the order in which they finished.
    finished: VecDeque<(Uptime, u128)>,
    /// Records by place; none where the record was removed by `forget_plain`.
    ring: Vec<Option<ExecutionRecord>>,
    ring_next: u16,
}

/// All executions of a thread.
pub(crate) struct ExecutionTable {
    budget: Budget,
    ttl: Nanos,
    inner: RefCell<ExecutionMaps>,
}

/// Where an execution was found.
pub(crate) enum Found {
    Stored(Rc<StoredExecution>),
    /// A plain sync call, whose output went only to its client.
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

    /// The place in the ring of the next plain sync call's record. The place is part of the call's
    /// id, so the record is found without a search.
    pub(crate) fn next_place(&self) -> u16 {
        self.inner.borrow().ring_next
    }

    /// Puts the record of a plain sync call into the next place, which its id contains. It replaces
    /// the oldest record.
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

    /// Changes a plain sync call's record, if it is still remembered.
    pub(crate) fn with_plain(&self, id: ExecutionId, change: impl FnOnce(&mut ExecutionRecord)) {
        let mut inner = self.inner.borrow_mut();
        let place = inner.ring.get_mut(usize::from(id.place()));
        let record = place.and_then(Option::as_mut);
        if let Some(record) = record.filter(|record| record.id == id) {
            change(record);
        }
    }

    /// Forgets a plain sync call that was refused after it had been remembered.
    pub(crate) fn forget_plain(&self, id: ExecutionId) {
        let mut inner = self.inner.borrow_mut();
        if let Some(place) = inner.ring.get_mut(usize::from(id.place())) {
            place.take_if(|record| record.id == id);
        }
    }

    /// Stores an execution until its time to live, which begins at its end, has passed.
    pub(crate) fn put(&self, stored: &Rc<StoredExecution>) {
        let id = stored.record.borrow().id.random();
        self.inner.borrow_mut().stored.insert(id, stored.clone());
        self.weigh(stored);
    }

    /// Updates the store's account to the bytes that an execution takes.
    fn weigh(&self, stored: &StoredExecution) {
        let is = stored.weight();
        self.budget.change(stored.weighed.replace(is), is);
    }

    /// The stored execution, or the record of the plain call, if it is still remembered.
    pub(crate) fn find(&self, id: ExecutionId) -> Option<Found> {
        let inner = self.inner.borrow();
        if let Some(stored) = inner.stored.get(&id.random()) {
            let same = stored.record.borrow().id == id;
            return same.then(|| Found::Stored(stored.clone()));
        }
        let record = inner.ring.get(usize::from(id.place()))?.as_ref()?;
        (record.id == id).then(|| Found::Plain(Box::new(record.clone())))
    }

    /// Records the end of a stored execution: from now on its output counts against the budget, and its time to
    /// live runs.
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

    /// Drops executions that are past their time to live, and, while the byte budget is exceeded, those that
    /// finished first. Calls `gone` for each, with true if the budget was the reason. If another thread has the
    /// execution that finished first, this may return that thread, which the caller then has to notify.
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

    /// When the execution that finished first is past its time to live.
    pub(crate) fn next_expiry(&self) -> Option<Uptime> {
        let first = self.inner.borrow().finished.front().copied();
        first.map(|(finished_at, _)| finished_at.saturating_add(self.ttl))
    }

    pub(crate) fn is_over_budget(&self) -> bool {
        self.budget.passed().is_some()
    }

    /// Acknowledges that another thread asked this one to drop its oldest finished execution.
    pub(crate) fn acknowledge_budget(&self) {
        self.budget.acknowledge();
    }
}
