//! The executions that this thread owns. Async, keyed and `Prefer` ones are kept with their output
//! for a time and within the process's byte budget (`store`); plain sync ones leave a small record in a ring.
//! A terminal state never changes. It answers no request by itself; `execution_api` does.

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
use nanofaas_core::outcome::Failure;
use nanofaas_core::ticket::{CallRef, LaneId};

use crate::idempotency::Keys;
use crate::output::Output;
use crate::shard::ShardId;
use crate::store::{Budget, Oldest};
use crate::thread::Known;
use crate::waiters::{Waiter, Waiters};

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

    /// The state that a failure ends in.
    pub(crate) const fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Timeout { .. } | Failure::StartTimeout(_) => Self::Timeout,
            _ => Self::Error,
        }
    }
}

/// What is known of an execution, without its output. Times in nanoseconds of the process's clock.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) id: ExecutionId,
    pub(crate) known: Rc<Known>,
    pub(crate) status: Status,
    pub(crate) attempt: u32,
    pub(crate) enqueued_ns: u64,
    pub(crate) started_ns: Option<u64>,
    pub(crate) finished_ns: Option<u64>,
    pub(crate) cold_start: bool,
    pub(crate) init_ms: Option<u32>,
    /// How the pod that its attempt had to wait for came up.
    pub(crate) start: Option<Phases>,
    pub(crate) failure: Option<Failure>,
    /// Its place among the running calls, for a cancel.
    pub(crate) call: Option<CallRef>,
}

/// The key that an execution holds: its function's registration and the client's key. A function that is
/// removed and made anew is another registration, in which nothing of the first is replayed.
pub(crate) type Key = (LaneId, Box<[u8]>);

/// An execution that somebody may ask for, or wait for.
pub(crate) struct Kept {
    pub(crate) record: RefCell<Record>,
    /// Shared by all who ask for it, on whatever thread.
    pub(crate) output: RefCell<Option<Arc<Output>>>,
    /// By when the call has to end; later once its client let go of it.
    pub(crate) deadline: Cell<Deadline>,
    /// Nobody waits as a sync client any more: the async deadlines hold.
    pub(crate) detached: Cell<bool>,
    /// Clients that wait for it now.
    pub(crate) followers: Cell<u32>,
    pub(crate) key: RefCell<Option<Key>>,
    pub(crate) times: Cell<nanofaas_core::call::Times>,
    /// What the store's account has for it.
    weighed: Cell<u64>,
    waiters: Waiters<()>,
}

impl Kept {
    pub(crate) fn new(
        record: Record,
        deadline: Deadline,
        key: Option<Key>,
        detached: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            record: RefCell::new(record),
            output: RefCell::default(),
            deadline: Cell::new(deadline),
            detached: Cell::new(detached),
            followers: Cell::new(0),
            key: RefCell::new(key),
            times: Cell::default(),
            weighed: Cell::new(0),
            waiters: Waiters::default(),
        })
    }

    pub(crate) fn status(&self) -> Status {
        self.record.borrow().status
    }

    /// Whether it has ended, one way or another.
    pub(crate) fn is_over(&self) -> bool {
        self.status().is_terminal()
    }

    /// A wait for the end.
    pub(crate) const fn until_over(&self) -> UntilOver<'_> {
        UntilOver {
            kept: self,
            waiter: self.waiters.wait(()),
        }
    }

    /// Wakes everybody who waits for the end.
    pub(crate) fn announce(&self) {
        self.waiters.wake(());
    }

    /// Bytes that it takes, all that is kept for it counted.
    fn weight(&self) -> u64 {
        let record = self.record.borrow();
        let failure = record.failure.as_ref().map_or(0, Failure::text_bytes);
        let start = record.start.as_ref().map_or(0, |phases| {
            size_of_val::<[(&str, u64)]>(phases) + COUNTS_BYTES
        });
        // The thread that owns the key has it, too.
        let key = self.key.borrow();
        let key = key
            .as_ref()
            .map_or(0, |(_, key)| 2 * key.len() + Keys::ENTRY_BYTES);
        let output = self.output.borrow();
        let output = output.as_ref().map_or(0, |output| output.held_bytes());
        (KEPT_BYTES + failure + start + key) as u64 + output
    }
}

/// A wait for a kept execution's end, which may be given up.
pub(crate) struct UntilOver<'a> {
    kept: &'a Kept,
    waiter: Waiter<'a, ()>,
}

impl UntilOver<'_> {
    /// Whether it is over; else the task is woken when it is.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> bool {
        let over = self.kept.is_over();
        if !over {
            self.waiter.keep(cx);
        }
        over
    }
}

/// The two counts of an `Rc` or `Arc`.
const COUNTS_BYTES: usize = 2 * size_of::<usize>();

/// What a kept execution takes besides what it points to: itself, and its places in the table, which
/// may be half empty, and among those that are over.
const KEPT_BYTES: usize = size_of::<Kept>()
    + COUNTS_BYTES
    + 2 * size_of::<(u128, Rc<Kept>)>()
    + size_of::<(u64, u128)>()
    + size_of::<Output>()
    + COUNTS_BYTES;

struct Inner {
    kept: HashMap<u128, Rc<Kept>>,
    /// Finished ones, the oldest first, with the time of their end.
    finished: VecDeque<(u64, u128)>,
    /// By place; none where the record was taken back.
    ring: Vec<Option<Record>>,
    ring_next: u16,
}

/// All executions of a thread.
pub(crate) struct Executions {
    budget: Budget,
    ttl_ns: u64,
    inner: RefCell<Inner>,
}

/// Where an execution was found.
pub(crate) enum Found {
    Kept(Rc<Kept>),
    /// A plain sync call: its output went to its client and nowhere else.
    Plain(Box<Record>),
}

impl Executions {
    pub(crate) fn new(budget: Budget, ttl_ms: u64) -> Self {
        let inner = Inner {
            kept: HashMap::new(),
            finished: VecDeque::new(),
            ring: Vec::new(),
            ring_next: 0,
        };
        Self {
            budget,
            ttl_ns: ttl_ms.saturating_mul(1_000_000),
            inner: RefCell::new(inner),
        }
    }

    /// Where the next plain sync call's record will stand: a part of its id, so that nothing has to be
    /// searched for it.
    pub(crate) fn next_place(&self) -> u16 {
        self.inner.borrow().ring_next
    }

    /// Remembers a plain sync call, which was given the next place, instead of the oldest one.
    pub(crate) fn put_plain(&self, record: Record) {
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
    pub(crate) fn with_plain(&self, id: ExecutionId, change: impl FnOnce(&mut Record)) {
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

    /// Keeps an execution until some time after its end.
    pub(crate) fn put(&self, kept: &Rc<Kept>) {
        let id = kept.record.borrow().id.random();
        self.inner.borrow_mut().kept.insert(id, kept.clone());
        self.weigh(kept);
    }

    /// Brings the store's account up to date with what an execution weighs.
    fn weigh(&self, kept: &Kept) {
        let is = kept.weight();
        self.budget.change(kept.weighed.replace(is), is);
    }

    /// What is known of an execution, if it is still remembered.
    pub(crate) fn find(&self, id: ExecutionId) -> Option<Found> {
        let inner = self.inner.borrow();
        if let Some(kept) = inner.kept.get(&id.random()) {
            let same = kept.record.borrow().id == id;
            return same.then(|| Found::Kept(kept.clone()));
        }
        let record = inner.ring.get(usize::from(id.place()))?.as_ref()?;
        (record.id == id).then(|| Found::Plain(Box::new(record.clone())))
    }

    /// A kept execution ended: its output counts from now on, and its time runs.
    pub(crate) fn finished(&self, kept: &Rc<Kept>, output: Option<Output>, now_ns: u64) {
        kept.output
            .replace(output.map(|output| Arc::new(output.fitted())));
        let id = kept.record.borrow().id.random();
        let finished = &mut self.inner.borrow_mut().finished;
        finished.push_back((now_ns, id));
        self.budget.set_oldest(finished.front().map(|(ns, _)| *ns));
        self.weigh(kept);
    }

    /// Drops what is past its time, and what was finished first while the budget is passed; `gone`
    /// hears of each, and whether the budget took it. Where another thread has what was finished
    /// first, that one has to be told.
    pub(crate) fn expire(&self, now_ns: u64, mut gone: impl FnMut(&Kept, bool)) -> Option<ShardId> {
        loop {
            let first = self.inner.borrow().finished.front().copied();
            let late = first.is_some_and(|(ns, _)| ns.saturating_add(self.ttl_ns) <= now_ns);
            if !late {
                match self.budget.passed()? {
                    Oldest::Own => {}
                    Oldest::Of(thread) => return self.budget.ask(thread).then_some(thread),
                }
            }
            let kept = {
                let inner = &mut *self.inner.borrow_mut();
                let (_, id) = inner.finished.pop_front()?;
                let next = inner.finished.front().map(|(ns, _)| *ns);
                self.budget.set_oldest(next);
                inner.kept.remove(&id)
            };
            if let Some(kept) = kept {
                self.budget.change(kept.weighed.take(), 0);
                gone(&kept, !late);
            }
        }
    }

    /// When the one that was finished first is past its time.
    pub(crate) fn next_expiry_ns(&self) -> Option<u64> {
        let first = self.inner.borrow().finished.front().copied();
        first.map(|(finished_ns, _)| finished_ns.saturating_add(self.ttl_ns))
    }

    pub(crate) fn is_over_budget(&self) -> bool {
        self.budget.passed().is_some()
    }

    /// Another thread asked this one to drop what it finished first.
    pub(crate) fn acknowledge_budget(&self) {
        self.budget.acknowledge();
    }
}
