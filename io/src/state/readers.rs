//! Clients that have an answer to read and have not taken all of it. Where tasks wait for memory those
//! that take nothing are ended, the ones longest without progress first; `client_conn` registers them, and ends
//! itself when it is told. It never ends one that goes on.
//!
//! A client that takes nothing is one that did nothing for a second, its request counted, and took nothing
//! of its answer for as long as `patience` says. While those that wait get on by themselves none is ended: a
//! hundred clients that share a processor take turns.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use nanofaas_core::time::{Nanos, Uptime};

use crate::runtime::timers::{Alarm, Alarms};
use crate::state::Tables;
use crate::state::patience::Patience;

/// Without progress for so long, the time of its call counted.
const IDLE: Nanos = Nanos::from_s(1);
/// How often they are polled while memory is short.
const POLL_EVERY: Nanos = Nanos::from_ms(50);
/// No task that waits got on for so long.
const STILL: Nanos = Nanos::from_ms(150);

/// One client, for as long as its answer waits to be taken.
pub(crate) struct SlowReader {
    /// Bytes of the answer that went out, as the socket counts them.
    moved: Rc<Cell<u64>>,
    /// What a poll found, and when that was.
    seen: Cell<u64>,
    seen_at: Cell<Uptime>,
    /// When the client did something last.
    active_at: Cell<Uptime>,
    round_trip: Option<Nanos>,
    /// What it holds.
    bytes: u64,
    is_ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl SlowReader {
    /// Whether it was ended; else the task is woken when it is.
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

    /// Since when it takes nothing, if that is long enough.
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

/// Those of a thread.
pub(crate) struct Readers {
    /// When they are polled.
    alarm: Alarm,
    all: RefCell<Vec<Rc<SlowReader>>>,
    patience: Patience,
    is_polled: Cell<bool>,
    /// How far the line of those that wait had moved by itself at a poll, and since when it stands still.
    moved: Cell<u64>,
    still_since: Cell<Uptime>,
}

/// Registers a client until it is dropped.
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

    /// A client whose answer, of `bytes`, did not go out at once. Its request came at `arrived_at`.
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

    /// Whether a task waits for memory that clients of this thread hold, and they are not polled.
    pub(crate) fn is_wanted(&self, thread: &Tables) -> bool {
        !self.is_polled.get() && thread.account.is_short() && !self.all.borrow().is_empty()
    }

    /// Has them polled while memory is short.
    pub(crate) fn plan(&self, thread: &Tables) {
        if self.is_wanted(thread) {
            self.is_polled.set(true);
            self.note_moved(thread, thread.recent());
            self.alarm.set(thread.recent() + POLL_EVERY);
        }
    }

    fn note_moved(&self, thread: &Tables, now: Uptime) {
        // It goes back where clients were ended and their bytes are not yet with those that wait.
        let moved = thread.account.moved();
        if moved > self.moved.get() {
            self.moved.set(moved);
            self.still_since.set(now);
        }
    }

    /// Polls all, and ends as many as hold what is waited for.
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

    /// Polls them whenever memory is short, for ever.
    pub(crate) async fn watch(&self, thread: &Tables) {
        loop {
            std::future::poll_fn(|cx| self.alarm.poll(cx)).await;
            self.alarm.unset();
            self.is_polled.set(false);
            self.poll(thread, thread.now());
            self.plan(thread);
            if !thread.account.is_short() {
                // What was taken for tasks that went away is not made good.
                self.moved.set(thread.account.moved());
            }
        }
    }
}
