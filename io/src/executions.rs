//! The executions that this thread owns. Async, keyed and `Prefer` ones are kept with their output
//! for a time and within a byte budget; plain sync ones leave a small record in a ring.
//! A terminal state never changes. It answers no request by itself; `execution_api` does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Context;

use foldhash::{HashMap, HashMapExt};
use nanofaas_core::admission::Refusal;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::limits::SYNC_RECORDS;
use nanofaas_core::message::Phases;
use nanofaas_core::outcome::Failure;
use nanofaas_core::ticket::CallRef;

use crate::output::Output;
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
            Failure::Timeout(_) => Self::Timeout,
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

/// The key that an execution holds: its function's name and the client's key.
pub(crate) type Key = (std::sync::Arc<str>, Box<[u8]>);

/// An execution that somebody may ask for, or wait for.
pub(crate) struct Kept {
    pub(crate) record: RefCell<Record>,
    pub(crate) output: RefCell<Option<Rc<Output>>>,
    /// The budget took the output before its time.
    pub(crate) dropped: Cell<bool>,
    /// By when the call has to end; later once its client let go of it.
    pub(crate) deadline_ns: Cell<u64>,
    /// Nobody waits as a sync client any more: the async deadlines hold.
    pub(crate) detached: Cell<bool>,
    /// The first caller was refused: his followers get the same answer.
    pub(crate) refused: Cell<Option<Refusal>>,
    /// Clients that wait for it now.
    pub(crate) followers: Cell<u32>,
    pub(crate) key: RefCell<Option<Key>>,
    pub(crate) times: Cell<crate::call::Times>,
    waiters: Waiters<()>,
}

impl Kept {
    pub(crate) fn new(record: Record, deadline_ns: u64, detached: bool) -> Rc<Self> {
        Rc::new(Self {
            record: RefCell::new(record),
            output: RefCell::default(),
            dropped: Cell::new(false),
            deadline_ns: Cell::new(deadline_ns),
            detached: Cell::new(detached),
            refused: Cell::new(None),
            followers: Cell::new(0),
            key: RefCell::default(),
            times: Cell::default(),
            waiters: Waiters::default(),
        })
    }

    pub(crate) fn status(&self) -> Status {
        self.record.borrow().status
    }

    /// Whether it has ended, one way or another.
    pub(crate) fn is_over(&self) -> bool {
        self.status().is_terminal() || self.refused.get().is_some()
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

    fn held_bytes(&self) -> u64 {
        let output = self.output.borrow();
        KEPT_BYTES + output.as_ref().map_or(0, |output| output.held_bytes())
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

/// The id of a record that was taken back; no execution gets it.
const NOBODY: ExecutionId = ExecutionId::new(0, 1023, 0);

/// What a kept execution weighs besides its output.
const KEPT_BYTES: u64 = 512;

struct Inner {
    kept: HashMap<u128, Rc<Kept>>,
    /// Finished ones, the oldest first, with the time at which they go.
    leaving: VecDeque<(u64, u128)>,
    held_bytes: u64,
    ring: Vec<Record>,
    ring_next: u16,
}

/// All executions of a thread.
pub(crate) struct Executions {
    bytes_max: u64,
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
    pub(crate) fn new(bytes_max: u64, ttl_ms: u64) -> Self {
        let inner = Inner {
            kept: HashMap::new(),
            leaving: VecDeque::new(),
            held_bytes: 0,
            ring: Vec::new(),
            ring_next: 0,
        };
        Self {
            bytes_max,
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
            Some(old) => *old = record,
            None => inner.ring.push(record),
        }
    }

    /// Changes a plain sync call's record, if it is still remembered.
    pub(crate) fn with_plain(&self, id: ExecutionId, change: impl FnOnce(&mut Record)) {
        let mut inner = self.inner.borrow_mut();
        let record = inner.ring.get_mut(usize::from(id.place()));
        if let Some(record) = record.filter(|record| record.id == id) {
            change(record);
        }
    }

    /// Forgets a plain sync call that was refused after it had been remembered.
    pub(crate) fn forget_plain(&self, id: ExecutionId) {
        self.with_plain(id, |record| record.id = NOBODY);
    }

    /// Keeps an execution until some time after its end.
    pub(crate) fn put(&self, kept: &Rc<Kept>) {
        let mut inner = self.inner.borrow_mut();
        inner.held_bytes += KEPT_BYTES;
        inner
            .kept
            .insert(kept.record.borrow().id.random(), kept.clone());
    }

    /// Forgets an execution that was refused before it was queued.
    pub(crate) fn forget(&self, id: ExecutionId) {
        let mut inner = self.inner.borrow_mut();
        if let Some(kept) = inner.kept.remove(&id.random()) {
            inner.held_bytes -= kept.held_bytes();
        }
    }

    /// What is known of an execution, if it is still remembered.
    pub(crate) fn find(&self, id: ExecutionId) -> Option<Found> {
        let inner = self.inner.borrow();
        if let Some(kept) = inner.kept.get(&id.random()) {
            let same = kept.record.borrow().id == id;
            return same.then(|| Found::Kept(kept.clone()));
        }
        let record = inner.ring.get(usize::from(id.place()))?;
        (record.id == id).then(|| Found::Plain(Box::new(record.clone())))
    }

    /// A kept execution ended: its output counts from now on, and its time runs.
    pub(crate) fn finished(&self, kept: &Rc<Kept>, output: Option<Rc<Output>>, now_ns: u64) {
        let mut inner = self.inner.borrow_mut();
        if let Some(output) = output {
            inner.held_bytes += output.held_bytes();
            kept.output.replace(Some(output));
        }
        let id = kept.record.borrow().id.random();
        inner
            .leaving
            .push_back((now_ns.saturating_add(self.ttl_ns), id));
    }

    /// Drops what is past its time, and the oldest finished ones past the byte budget; `gone` hears
    /// of each, and whether the budget took it.
    pub(crate) fn expire(&self, now_ns: u64, mut gone: impl FnMut(&Kept, bool)) {
        loop {
            let (kept, early) = {
                let mut inner = self.inner.borrow_mut();
                let Some((at, id)) = inner.leaving.front().copied() else {
                    return;
                };
                let early = at > now_ns;
                if early && inner.held_bytes <= self.bytes_max {
                    return;
                }
                inner.leaving.pop_front();
                let Some(kept) = inner.kept.remove(&id) else {
                    continue;
                };
                inner.held_bytes -= kept.held_bytes();
                (kept, early)
            };
            kept.dropped.set(true);
            gone(&kept, early);
        }
    }
}
