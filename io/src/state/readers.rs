//! Clients that have not taken all of their answer. While tasks wait for memory, clients that take nothing
//! are ended, beginning with the one that has been without progress for the longest. `sending` registers
//! clients, and cuts the answer of a client that is ended.
//!
//! A client is ended only after two periods have passed without progress: one second, which begins when its
//! request comes, and the time of `patience`, which begins when the client is registered. After progress both
//! begin anew. No client is ended while the waiting tasks get memory from other sources, because a pause may
//! have another cause. For example, a hundred clients that share a processor read in turns.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use nanofaas_core::time::{Nanos, Uptime};

use crate::runtime::timers::{Alarm, Alarms};
use crate::state::Tables;
use crate::state::patience::Patience;

/// A client is ended only after this long without progress, counted from its request if it made none.
const IDLE: Nanos = Nanos::from_s(1);
/// The time between two polls of the clients while memory is short.
const POLL_EVERY: Nanos = Nanos::from_ms(50);
/// Clients are ended only when no waiting task has got memory for this long.
const STILL: Nanos = Nanos::from_ms(150);

pub(crate) struct SlowReader {
    /// The count of bytes that the client's socket has sent.
    moved: Rc<Cell<u64>>,
    /// The value of `moved` at the last poll.
    seen: Cell<u64>,
    /// When a poll last found `moved` changed; before that, when the client was registered.
    seen_at: Cell<Uptime>,
    /// When a poll last found progress; before that, when the client's request came.
    active_at: Cell<Uptime>,
    round_trip: Option<Nanos>,
    /// The bytes of memory that the client's answer holds.
    bytes: u64,
    is_ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl SlowReader {
    /// Returns whether the client was ended. If it was not, the task of `cx` is woken when the client is
    /// ended.
    pub(crate) fn poll_ended(&self, cx: &Context<'_>) -> bool {
        if !self.is_ended.get() {
            self.waker.replace(Some(cx.waker().clone()));
        }
        self.is_ended.get()
    }

    fn poll(&self, now: Uptime, patience: &Patience) {
        let moved = self.moved.get();
        if moved != self.seen.replace(moved) {
            self.active_at.set(now);
            let silent_for = now.since(self.seen_at.replace(now));
            patience.took_after(silent_for);
        }
    }

    /// Returns since when the client has made no progress, if that is long enough to end the client.
    fn idle_since(&self, now: Uptime, patience: &Patience) -> Option<Uptime> {
        let is_idle = now >= self.active_at.get() + IDLE
            && now >= self.seen_at.get() + patience.span(self.round_trip)
            && !self.is_ended.get();
        is_idle.then_some(self.active_at.get())
    }

    fn end(&self) {
        self.is_ended.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The slow readers of a thread.
pub(crate) struct Readers {
    /// The alarm for the next poll of the clients.
    alarm: Alarm,
    all: RefCell<Vec<Rc<SlowReader>>>,
    patience: Patience,
    is_polled: Cell<bool>,
    /// The value of the account's `moved` at the last poll. That number grows when waiting tasks get bytes
    /// from other sources than ended clients.
    moved: Cell<u64>,
    /// When `moved` last grew.
    still_since: Cell<Uptime>,
}

/// The registration of a client, which ends when this value is dropped.
pub(crate) struct RegisteredReader<'a> {
    readers: &'a Readers,
    pub(crate) reader: Rc<SlowReader>,
}

impl Drop for RegisteredReader<'_> {
    fn drop(&mut self) {
        let mut all = self.readers.all.borrow_mut();
        all.retain(|one| !Rc::ptr_eq(one, &self.reader));
    }
}

impl Readers {
    pub(crate) fn new(alarms: &Rc<Alarms>) -> Self {
        Self {
            alarm: alarms.alarm(),
            all: RefCell::default(),
            patience: Patience::default(),
            is_polled: Cell::new(false),
            moved: Cell::new(0),
            still_since: Cell::new(Uptime::ZERO),
        }
    }

    /// Registers a client whose answer was not sent at once. The answer holds `bytes`; the request came at
    /// `arrived_at`.
    pub(crate) fn register(
        &self,
        thread: &Tables,
        moved: Rc<Cell<u64>>,
        bytes: u64,
        arrived_at: Uptime,
        round_trip: Option<Nanos>,
    ) -> RegisteredReader<'_> {
        let reader = Rc::new(SlowReader {
            seen: Cell::new(moved.get()),
            moved,
            seen_at: Cell::new(thread.recent()),
            active_at: Cell::new(arrived_at),
            round_trip,
            bytes,
            is_ended: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.all.borrow_mut().push(reader.clone());
        self.plan(thread);
        RegisteredReader {
            readers: self,
            reader,
        }
    }

    /// Returns whether a poll has to be planned. This is so if a task waits for memory, this thread has
    /// clients that have not taken all of their answer, and no poll is planned yet.
    pub(crate) fn is_wanted(&self, thread: &Tables) -> bool {
        !self.is_polled.get() && thread.account.is_short() && !self.all.borrow().is_empty()
    }

    /// Plans a poll of the clients, if one has to be planned.
    pub(crate) fn plan(&self, thread: &Tables) {
        if self.is_wanted(thread) {
            self.is_polled.set(true);
            self.note_moved(thread, thread.recent());
            self.alarm.set(thread.recent() + POLL_EVERY);
        }
    }

    fn note_moved(&self, thread: &Tables, now: Uptime) {
        // Only a higher count shows that a waiting task got memory. The count falls when clients are ended,
        // and rises again when the waiting tasks get the freed bytes.
        let moved = thread.account.moved();
        if moved > self.moved.get() {
            self.moved.set(moved);
            self.still_since.set(now);
        }
    }

    /// Polls all clients. If no waiting task has got memory for `STILL`, ends idle clients, until the ended
    /// ones hold the missing bytes or no idle client is left.
    fn poll(&self, thread: &Tables, now: Uptime) {
        let all = self.all.borrow();
        all.iter()
            .for_each(|reader| reader.poll(now, &self.patience));
        self.note_moved(thread, now);
        if now < self.still_since.get() + STILL {
            return;
        }
        let mut missing = thread.account.awaited();
        let mut idle: Vec<_> = all
            .iter()
            .filter_map(|reader| Some((reader.idle_since(now, &self.patience)?, reader)))
            .collect();
        idle.sort_by_key(|(since, _)| *since);
        for (_, reader) in idle {
            if missing == 0 {
                break;
            }
            thread.account.reclaim(missing.min(reader.bytes));
            missing = missing.saturating_sub(reader.bytes.max(1));
            reader.end();
            self.patience.ended();
        }
    }

    /// Polls the clients whenever memory is short, as long as the thread lives.
    pub(crate) async fn watch(&self, thread: &Tables) {
        loop {
            std::future::poll_fn(|cx| self.alarm.poll(cx)).await;
            self.alarm.unset();
            self.is_polled.set(false);
            self.poll(thread, thread.now());
            self.plan(thread);
            if !thread.account.is_short() {
                // The count is read anew. A task may leave before it gets the bytes that were reclaimed for
                // it, and such a task lowers the count permanently.
                self.moved.set(thread.account.moved());
            }
        }
    }
}
