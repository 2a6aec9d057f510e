//! An io thread: it admits calls, queues them, runs what is granted in scripted pods, retries, and
//! ends each call exactly once, in time. Deadlines, backoff and attempts' times are in its wheel.

mod attempt;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use nanofaas_core::admission;
use nanofaas_core::event::Notice;
use nanofaas_core::function::Function;
use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::registry::Told;
use nanofaas_core::retry::AttemptFailure;
use nanofaas_core::ticket::{CallRef, Class, PodRef, PodVerdict, Ticket};
use nanofaas_core::wheel::{TimerRef, Wheel};

use crate::hall::{Hall, Mode, ToBridge, ToIo};
use crate::scenario::{MS, SECOND};

const ASYNC_MAX_AGE_NS: u64 = 20 * SECOND;

/// How a call can end, for the tally.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Ok,
    Failed,
    ColdStart,
    Timeout,
    Left,
    Removed,
}

pub(crate) enum State {
    /// Ticket or grant is under way.
    Queued,
    Running {
        lane: u32,
        pod: PodRef,
        sent_ns: u64,
    },
    BackingOff,
}

pub(crate) struct Call {
    pub(crate) function: Arc<Function>,
    pub(crate) state: State,
    pub(crate) deadline_ns: u64,
    class: Class,
    attempts: u32,
    lost: u32,
    avoid: u32,
    deadline: TimerRef,
    /// The attempt's time or the backoff.
    timer: Option<TimerRef>,
}

#[derive(Default)]
struct Place {
    generation: u32,
    call: Option<Call>,
}

/// What a pod or a client does at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Leaves,
    Removed,
    Answers,
    Fails,
    Lost,
    NotBegun,
}

/// An act is for one attempt of one call; later ones do not know it.
type Due = (u64, u64, u32, u32, u32, Act);

pub(crate) struct IoThread {
    number: u16,
    places: Vec<Place>,
    free: Vec<u32>,
    wheel: Wheel,
    functions: BTreeMap<Arc<str>, Arc<Function>>,
    acts: BinaryHeap<Reverse<Due>>,
    sequence: u64,
    pub(crate) ledger: ThreadLedger,
    pub(crate) next_arrival_ns: u64,
    pub(crate) arrivals_left: u32,
    pub(crate) refused: u64,
    pub(crate) retries: u64,
    pub(crate) ends: BTreeMap<End, u64>,
}

const DEADLINE: u64 = 0;
const OTHER: u64 = 1;

impl IoThread {
    pub(crate) fn new(number: u16, hall: &mut Hall) -> Self {
        Self {
            number,
            places: Vec::new(),
            free: Vec::new(),
            wheel: Wheel::new(hall.now),
            functions: BTreeMap::new(),
            acts: BinaryHeap::new(),
            sequence: 0,
            ledger: ThreadLedger::default(),
            next_arrival_ns: hall.now + hall.rng.time_ns(10 * MS),
            arrivals_left: hall.rng.within(10, 250) as u32,
            refused: 0,
            retries: 0,
            ends: BTreeMap::new(),
        }
    }

    pub(crate) fn calls(&self) -> impl Iterator<Item = (CallRef, &Call)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let call = place.call.as_ref()?;
            Some((self.reference(index as u32), call))
        })
    }

    fn reference(&self, index: u32) -> CallRef {
        CallRef {
            index,
            generation: self.places[index as usize].generation,
            thread: self.number,
        }
    }

    fn call(&mut self, index: u32) -> &mut Call {
        let place = &mut self.places[index as usize];
        place.call.as_mut().expect("a call that lives")
    }

    pub(crate) fn next_ns(&self) -> Option<u64> {
        let arrival = (self.arrivals_left > 0).then_some(self.next_arrival_ns);
        let act = self.acts.peek().map(|Reverse(due)| due.0);
        [arrival, act, self.wheel.next_ns()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn is_due(&self, hall: &Hall) -> bool {
        let number = usize::from(self.number);
        hall.grants[number].has_some()
            || hall.to_io[number].has_some()
            || self.next_ns().is_some_and(|at| at <= hall.now)
            || (hall.mode == Mode::Inline && hall.scheduler_is_due())
    }

    /// One pass over everything that is due.
    pub(crate) fn pass(&mut self, hall: &mut Hall) {
        let first = hall.rng.below(5);
        for part in 0..5 {
            match (first + part) % 5 {
                0 => self.timers(hall),
                1 => self.messages(hall),
                2 => self.grants(hall),
                3 => self.acts(hall),
                _ => self.arrivals(hall),
            }
            if hall.mode == Mode::Inline {
                self.grants(hall);
            }
        }
        hall.pass_inline();
        if hall.mode == Mode::Inline {
            self.grants(hall);
        }
        // What came due meanwhile waits for the next pass; what was due at its start does not.
        let now = hall.now;
        let late = self
            .calls()
            .find(|(_, call)| call.deadline_ns + 2 * MS < now);
        assert!(
            late.is_none(),
            "{:?} outlives its deadline",
            late.map(|(call, _)| call)
        );
    }

    fn timers(&mut self, hall: &mut Hall) {
        let mut due = Vec::new();
        self.wheel.advance(hall.now, |key| due.push(key));
        for key in due {
            let index = key as u32;
            // An earlier one of the same moment may have ended the call.
            if self.places[index as usize].call.is_none() {
                continue;
            }
            if key >> 32 == DEADLINE {
                assert!(
                    self.call(index).deadline_ns <= hall.now,
                    "a timer fired early"
                );
                self.end_anywhere(index, End::Timeout, hall);
                continue;
            }
            match self.call(index).state {
                State::BackingOff => {
                    self.left_backoff();
                    self.requeue(index, hall);
                }
                State::Running { .. } => {
                    self.end_attempt(index, PodVerdict::CutOff, None, hall);
                    self.failed(index, AttemptFailure::TimedOut, hall);
                }
                State::Queued => {}
            }
        }
    }

    fn messages(&mut self, hall: &mut Hall) {
        let most = hall.rng.pick(&[1, 3, usize::MAX]);
        for _ in 0..most {
            let Some(message) = hall.to_io[usize::from(self.number)].pop() else {
                return;
            };
            match message {
                ToIo::Event(event) => hall.feed_inline(event),
                ToIo::Notice(Notice::StartsFail { lane, .. }) => {
                    self.end_waiting(lane, End::ColdStart, hall);
                }
                ToIo::Told(Told::Function(function)) => {
                    let version = function.version;
                    self.functions.insert(function.name().clone(), function);
                    hall.to_bridge.push(ToBridge::Ack(version));
                }
                ToIo::Told(Told::Removed {
                    lane,
                    name,
                    version,
                }) => {
                    self.functions.remove(&name).expect("it was told of");
                    self.end_backing_off(lane, hall);
                    if hall.rng.chance(500) {
                        self.end_waiting(lane, End::Removed, hall);
                    } else {
                        self.end_waiting_soon(lane, hall);
                    }
                    hall.to_bridge.push(ToBridge::Ack(version));
                }
            }
        }
    }

    fn grants(&mut self, hall: &mut Hall) {
        let most = match hall.mode {
            Mode::Inline => usize::MAX,
            Mode::Pinned => hall.rng.pick(&[1, 4, usize::MAX]),
        };
        for _ in 0..most {
            let Some(grant) = hall.grants[usize::from(self.number)].pop() else {
                return;
            };
            hall.grants_in_flight -= 1;
            self.granted(grant, hall);
        }
    }

    /// Ends a call wherever it is: its deadline passed, or nobody wants it any more.
    fn end_anywhere(&mut self, index: u32, end: End, hall: &mut Hall) {
        let reference = self.reference(index);
        let call = self.call(index);
        match call.state {
            State::Queued => {
                // Where a grant came first, it will find the call gone.
                if hall.entries.leave(reference) {
                    call.function.view.leave();
                }
            }
            State::Running { .. } => self.end_attempt(index, PodVerdict::CutOff, None, hall),
            State::BackingOff => self.left_backoff(),
        }
        self.finish(index, end, hall);
    }

    /// Ends what waits for a slot in a lane; what was granded meanwhile runs.
    fn end_waiting(&mut self, lane: u32, end: End, hall: &mut Hall) {
        let waiting = self
            .calls()
            .filter(|(_, call)| call.function.lane == lane && matches!(call.state, State::Queued));
        let waiting: Vec<_> = waiting.map(|(call, _)| call).collect();
        for call in waiting {
            if hall.entries.leave(call) {
                self.call(call.index).function.view.leave();
                self.finish(call.index, end, hall);
            }
        }
    }

    /// The same when each call's own task sees to it, after the change was acknowledged.
    fn end_waiting_soon(&mut self, lane: u32, hall: &mut Hall) {
        let waiting = self
            .calls()
            .filter(|(call, known)| known.function.lane == lane && hall.entries.is_queued(*call));
        let waiting: Vec<_> = waiting.map(|(call, _)| call.index).collect();
        for index in waiting {
            let at = hall.now + hall.rng.time_ns(MS);
            self.later(index, at, Act::Removed);
        }
    }

    fn end_backing_off(&mut self, lane: u32, hall: &mut Hall) {
        let waiting = self.calls().filter(|(_, call)| {
            call.function.lane == lane && matches!(call.state, State::BackingOff)
        });
        let waiting: Vec<_> = waiting.map(|(call, _)| call.index).collect();
        for index in waiting {
            self.left_backoff();
            self.finish(index, End::Removed, hall);
        }
    }

    fn finish(&mut self, index: u32, end: End, hall: &mut Hall) {
        let reference = self.reference(index);
        hall.show(|| format!("io ends {reference:?} {end:?}"));
        let place = &mut self.places[index as usize];
        let call = place.call.take().expect("a call ends once");
        place.generation = place.generation.wrapping_add(1);
        self.wheel.cancel(call.deadline);
        if let Some(timer) = call.timer {
            self.wheel.cancel(timer);
        }
        hall.entries.free(reference);
        self.free.push(index);
        self.ledger.finished.add();
        *self.ends.entry(end).or_default() += 1;
    }

    fn arrivals(&mut self, hall: &mut Hall) {
        while self.arrivals_left > 0 && self.next_arrival_ns <= hall.now {
            let burst = if hall.rng.chance(60) {
                hall.rng.within(5, 40)
            } else {
                1
            };
            for _ in 0..burst.min(u64::from(self.arrivals_left)) {
                self.arrivals_left -= 1;
                self.arrive(hall);
            }
            let most = hall.rng.pick(&[100_000, 10 * MS, 300 * MS]);
            let quiet = if hall.rng.chance(10) { 3 * SECOND } else { 0 };
            self.next_arrival_ns = hall.now + hall.rng.time_ns(most) + quiet;
        }
    }

    fn arrive(&mut self, hall: &mut Hall) {
        if self.functions.is_empty() {
            return;
        }
        let at = hall.rng.below(self.functions.len() as u64) as usize;
        let function = self.functions.values().nth(at).expect("below len").clone();
        let nature = hall.natures[function.name()];
        let class = if hall.rng.chance(nature.async_share) {
            Class::Async
        } else {
            Class::Sync
        };
        let left_ns = match class {
            Class::Sync => u64::from(function.spec.timeout_ms) * MS,
            Class::Async => ASYNC_MAX_AGE_NS,
        };
        let (view, most) = (function.view.clone(), function.spec.queue_size);
        if hall.bucket.take(hall.now).is_err() {
            self.refused += 1;
            return;
        }
        if let Err(refusal) = admission::admit(&view, most, class, left_ns) {
            assert!(refusal.retry_after_s >= 1);
            self.refused += 1;
            return;
        }
        assert!(view.depth() > 0);
        self.accept(function, class, left_ns, hall);
    }

    fn accept(&mut self, function: Arc<Function>, class: Class, left_ns: u64, hall: &mut Hall) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() as u32 - 1
        });
        let deadline_ns = hall.now + left_ns;
        let deadline = self
            .wheel
            .set(deadline_ns, DEADLINE << 32 | u64::from(index));
        let (lane, view) = (function.lane, function.view.clone());
        let fickle = hall.natures[function.name()].fickle;
        self.places[index as usize].call = Some(Call {
            function,
            state: State::Queued,
            deadline_ns,
            class,
            attempts: 0,
            lost: 0,
            avoid: PodRef::NONE.index,
            deadline,
            timer: None,
        });
        let reference = self.reference(index);
        if hall.rng.chance(fickle) {
            let at = hall.now + hall.rng.time_ns(SECOND);
            self.later(index, at, Act::Leaves);
        }
        hall.entries.queue(reference);
        self.ledger.accepted.add();
        let ticket = Ticket {
            queued_ns: hall.now,
            index,
            generation: reference.generation,
            lane,
            avoid: PodRef::NONE.index,
            thread: self.number,
            class,
        };
        hall.show(|| format!("io accepts {ticket:?}"));
        if !hall.post(&view, ticket) {
            // A full mailbox is a refusal, though it is counted here as the end of an accepted call.
            self.refused += 1;
            self.end_anywhere(index, End::Left, hall);
        }
    }
}
