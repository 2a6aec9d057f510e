//! The model of an io thread admits calls, and drives the state machine of each call (`core/src/call.rs`)
//! with scripted pods on virtual time. The model passes to the state machines what clients, the bridge and
//! the scheduler do. `judge` checks each state machine by rules of its own.

mod client;
mod environment;
mod pod;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use nanofaas_core::call::{Call, Deadline, End, Step};
use nanofaas_core::event::Notice;
use nanofaas_core::function::Function;
use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::outcome::{ExecutionError, TimeLimit};
use nanofaas_core::registry::FunctionUpdate;
use nanofaas_core::shard::ShardId;
use nanofaas_core::ticket::{CallId, Grant, LaneId, PodId};
use nanofaas_core::time::{Nanos, Uptime};
use nanofaas_core::wheel::{TimerRef, Wheel};

use crate::environment::{SchedulerMode, SharedEnvironment, ToBridge, ToIo};
use crate::judge::{CallPhase, Happening, Judge, phase};
use crate::scenario::MS;
use environment::ThreadEnvironment;

const ASYNC_AGE_MAX: Nanos = Nanos::from_s(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CallEndKind {
    Ok,
    Failed,
    ColdStart,
    Timeout,
    Cancelled,
    Removed,
    Shutdown,
}

impl CallEndKind {
    const fn of(outcome: &Result<(), ExecutionError>) -> Self {
        match outcome {
            Ok(()) => Self::Ok,
            Err(ExecutionError::ColdStart(_)) => Self::ColdStart,
            Err(ExecutionError::Timeout { .. } | ExecutionError::StartTimeout(_)) => Self::Timeout,
            Err(ExecutionError::Cancelled) => Self::Cancelled,
            Err(ExecutionError::FunctionRemoved) => Self::Removed,
            Err(ExecutionError::Shutdown) => Self::Shutdown,
            Err(_) => Self::Failed,
        }
    }
}

pub(crate) struct Served {
    pub(crate) life: Call<ThreadEnvironment>,
    judge: Judge,
    pub(crate) running: Option<Grant>,
    timer: TimerRef,
    timer_at: Option<Uptime>,
}

#[derive(Default)]
struct ServedSlot {
    generation: u32,
    call: Option<Served>,
    /// True if the call is over while a grant for it is in flight. The call's place is freed when that grant
    /// arrives.
    is_owed_a_grant: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CallAct {
    Cancels,
    ClientLeaves,
    /// The time of `Prefer: wait` is over, so the client no longer waits.
    Detaches,
    /// The call's own task receives a removal a little later than the io thread does. The same holds for the
    /// notice that starts fail.
    FindsRemoved,
    FindsStartsFail,
    Answers,
    Fails,
    /// Whether the pod ran out of memory, as in `AttemptFailure::Lost`; none if the runtime does not report
    /// this.
    Lost {
        oom: Option<bool>,
    },
    NotBegun,
    JobRuns,
    PodEnds {
        oom: bool,
    },
}

/// A planned act: its time, its sequence number, the call's index and generation, the number of the attempt,
/// and the act. An act of a pod is ignored if the call has begun another attempt.
type DueAct = (Uptime, u64, u32, u32, u32, CallAct);

pub(crate) struct IoThread {
    shard: ShardId,
    places: Vec<ServedSlot>,
    free: Vec<u32>,
    wheel: Wheel,
    env: ThreadEnvironment,
    acts: BinaryHeap<Reverse<DueAct>>,
    sequence: u64,
    pub(crate) next_arrival: Uptime,
    pub(crate) arrivals_left: u32,
    pub(crate) refused: u64,
    pub(crate) retries: u64,
    pub(crate) ends: BTreeMap<CallEndKind, u64>,
    /// The number of times that each event happened to calls in each phase.
    pub(crate) happened: BTreeMap<(CallPhase, Happening), u64>,
}

impl IoThread {
    pub(crate) fn new(shard: ShardId, shared: &mut SharedEnvironment) -> Self {
        Self {
            shard,
            places: Vec::new(),
            free: Vec::new(),
            wheel: Wheel::new(shared.now),
            env: ThreadEnvironment::new(shared.entries.clone()),
            acts: BinaryHeap::new(),
            sequence: 0,
            next_arrival: shared.now + shared.rng.span(10 * MS),
            arrivals_left: shared.rng.within(10, 250) as u32,
            refused: 0,
            retries: 0,
            ends: BTreeMap::new(),
            happened: BTreeMap::new(),
        }
    }

    pub(crate) const fn ledger(&self) -> &ThreadLedger {
        &self.env.ledger
    }

    pub(crate) fn calls(&self) -> impl Iterator<Item = (CallId, &Served)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let call = place.call.as_ref()?;
            Some((self.reference(index as u32), call))
        })
    }

    fn reference(&self, index: u32) -> CallId {
        CallId {
            index,
            generation: self.places[index as usize].generation,
            shard: self.shard,
        }
    }

    fn served(&mut self, index: u32) -> &mut Served {
        let place = &mut self.places[index as usize];
        place.call.as_mut().expect("a call that lives")
    }

    fn is_live(&self, call: CallId) -> bool {
        let place = &self.places[call.index as usize];
        place.generation == call.generation && place.call.is_some()
    }

    pub(crate) fn next_at(&self) -> Option<Uptime> {
        let arrival = (self.arrivals_left > 0).then_some(self.next_arrival);
        let act = self.acts.peek().map(|Reverse(due)| due.0);
        [arrival, act, self.wheel.next_at()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn is_due(&self, shared: &SharedEnvironment) -> bool {
        let number = self.shard.index();
        shared.grants[number].has_some()
            || shared.to_io[number].has_some()
            || self.next_at().is_some_and(|at| at <= shared.now)
            || (shared.mode == SchedulerMode::Inline && shared.scheduler_is_due())
    }

    /// Runs one iteration of the io thread: its five parts, beginning with a random one.
    pub(crate) fn pass(&mut self, shared: &mut SharedEnvironment) {
        let first = shared.rng.below(5);
        for part in 0..5 {
            match (first + part) % 5 {
                0 => self.timers(shared),
                1 => self.messages(shared),
                2 => self.grants(shared),
                3 => self.acts(shared),
                _ => self.arrivals(shared),
            }
            if shared.mode == SchedulerMode::Inline {
                self.grants(shared);
            }
        }
        shared.pass_inline();
        if shared.mode == SchedulerMode::Inline {
            self.grants(shared);
        }
        // Each timer that was due when the iteration began has fired by now. A timer that this iteration set
        // may be due, and fires in the next iteration.
        let now = shared.now;
        for (_, served) in self.calls() {
            served.judge.check_in_time(&served.life, now);
        }
    }

    fn timers(&mut self, shared: &mut SharedEnvironment) {
        let mut due = Vec::new();
        self.wheel
            .advance(shared.now, |index| due.push(index as u32));
        for index in due {
            if self.places[index as usize].call.is_none() {
                continue;
            }
            let served = self.served(index);
            // The timer has fired, so `drive` must set another one.
            served.timer_at = None;
            if served.life.until() <= shared.now {
                self.happens(index, Happening::Time, shared.now);
            }
            let (life, env) = self.life(index, shared);
            life.time(shared.now, env);
            self.drive(index, shared);
        }
    }

    /// The environment gets new random numbers for each use.
    fn life(
        &mut self,
        index: u32,
        shared: &mut SharedEnvironment,
    ) -> (&mut Call<ThreadEnvironment>, &ThreadEnvironment) {
        self.env.roll(&mut shared.rng);
        let place = &mut self.places[index as usize];
        let served = place.call.as_mut().expect("a call that lives");
        (&mut served.life, &self.env)
    }

    fn happens(&mut self, index: u32, happening: Happening, now: Uptime) {
        let served = self.served(index);
        let phase = phase(&served.life);
        served.judge.on_event(happening, &served.life, now);
        *self.happened.entry((phase, happening)).or_default() += 1;
    }

    fn end(&mut self, index: u32, end: &End, shared: &mut SharedEnvironment) {
        self.happens(index, Happening::of(end), shared.now);
        let (life, env) = self.life(index, shared);
        life.end(end, shared.now, env);
        self.drive(index, shared);
    }

    fn drive(&mut self, index: u32, shared: &mut SharedEnvironment) {
        loop {
            let served = self.served(index);
            let step = served.life.step();
            shared.show(|| format!("io {} {step:?}", served.life.call_id().index));
            match step {
                Step::Wait => break,
                Step::Run(grant) => self.run(index, grant, shared),
                Step::Stop => {
                    let sent_at = shared.rng.chance(800).then_some(shared.now);
                    served.judge.stopped(sent_at.is_some(), shared.now);
                    let (life, env) = self.life(index, shared);
                    life.stopped(sent_at, shared.now, env);
                }
                Step::Release(done) => {
                    let grant = served.running.take();
                    served.judge.released(&done);
                    if let Some(pod) = grant.and_then(|grant| grant.pod) {
                        shared.left_pod(pod);
                    }
                    shared.done(done);
                }
                Step::Queue(ticket) => {
                    let now = self.env.newest(ticket.lane);
                    let served = self.served(index);
                    served.judge.queued_again(now.as_deref(), shared.now);
                    self.retries += 1;
                    shared.post_again(ticket);
                }
                Step::Over => return self.finish(index, shared),
            }
        }
        let served = self.served(index);
        let until = served.life.until();
        if served.timer_at != Some(until) {
            let old = served.timer;
            self.wheel.cancel(old);
            let timer = self.wheel.set(until, u64::from(index));
            let served = self.served(index);
            (served.timer, served.timer_at) = (timer, Some(until));
        }
    }

    fn messages(&mut self, shared: &mut SharedEnvironment) {
        let most = shared.rng.pick(&[1, 3, usize::MAX]);
        for _ in 0..most {
            let Some(message) = shared.to_io[self.shard.index()].pop() else {
                return;
            };
            match message {
                ToIo::Event(event) => shared.feed_inline(event),
                ToIo::Notice(Notice::StartsFail { lane, why }) => {
                    let end = End::StartsFail(why);
                    self.end_all(lane, &end, CallAct::FindsStartsFail, shared);
                }
                ToIo::Update(FunctionUpdate::Function(function)) => {
                    self.registered(function, shared)
                }
                ToIo::Update(FunctionUpdate::Removed {
                    lane,
                    name,
                    version,
                }) => {
                    self.env.remove(&name);
                    self.end_all(lane, &End::Removed, CallAct::FindsRemoved, shared);
                    shared.to_bridge.push(ToBridge::Ack(self.shard, version));
                }
                ToIo::Stop => {
                    self.arrivals_left = 0;
                    let all: Vec<_> = self.calls().map(|(call, _)| call).collect();
                    for call in all {
                        self.end(call.index, &End::Shutdown, shared);
                    }
                }
            }
        }
    }

    fn registered(&mut self, function: Arc<Function>, shared: &mut SharedEnvironment) {
        let (name, version) = (function.name().clone(), function.version);
        let of_name = self
            .calls()
            .filter(|(_, served)| served.life.function().name() == &name);
        let affected: Vec<_> = of_name
            .map(|(call, served)| (call.index, served.life.function().lane == function.lane))
            .collect();
        for (index, is_same) in affected {
            let happening = if is_same {
                Happening::Replaced
            } else {
                Happening::RegisteredAnew
            };
            self.happens(index, happening, shared.now);
        }
        self.env.put(function);
        shared.to_bridge.push(ToBridge::Ack(self.shard, version));
    }

    /// Ends all calls of a lane: all at once, or each a little later with the act `later`. A call's own task
    /// may receive the message later than the io thread.
    fn end_all(&mut self, lane: LaneId, end: &End, later: CallAct, shared: &mut SharedEnvironment) {
        let of_lane = self
            .calls()
            .filter(|(_, served)| served.life.function().lane == lane);
        let of_lane: Vec<_> = of_lane.map(|(call, _)| call.index).collect();
        let at_once = shared.rng.chance(500);
        for index in of_lane {
            if at_once {
                self.end(index, end, shared);
            } else {
                let at = shared.now + shared.rng.span(MS);
                self.later(index, at, later.clone());
            }
        }
    }

    fn grants(&mut self, shared: &mut SharedEnvironment) {
        let most = match shared.mode {
            SchedulerMode::Inline => usize::MAX,
            SchedulerMode::Pinned => shared.rng.pick(&[1, 4, usize::MAX]),
        };
        for _ in 0..most {
            let Some(grant) = shared.grants[self.shard.index()].pop() else {
                return;
            };
            shared.grants_in_flight -= 1;
            if self.is_live(grant.call) {
                let index = grant.call.index;
                self.happens(index, Happening::Granted, shared.now);
                let newest = self.env.newest(grant.lane);
                let served = self.served(index);
                served.judge.granted(newest.as_deref(), shared.now);
                let (life, env) = self.life(index, shared);
                life.granted(grant, shared.now, env);
                self.drive(index, shared);
            } else {
                self.give_back(grant, shared);
            }
        }
    }

    /// Gives back the slot of a grant that arrived for a call that is over.
    fn give_back(&mut self, grant: Grant, shared: &mut SharedEnvironment) {
        shared.show(|| format!("io finds {:?} gone", grant.call));
        let index = grant.call.index;
        let place = &mut self.places[index as usize];
        let is_owed = place.generation == grant.call.generation && place.is_owed_a_grant;
        assert!(is_owed, "a grant for a call that waits for none");
        place.is_owed_a_grant = false;
        self.free_place(index, shared);
        shared.done(Call::<ThreadEnvironment>::give_back(&grant));
    }

    fn free_place(&mut self, index: u32, shared: &SharedEnvironment) {
        shared.entries.free(self.reference(index));
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
    }

    fn finish(&mut self, index: u32, shared: &mut SharedEnvironment) {
        let reference = self.reference(index);
        let place = &mut self.places[index as usize];
        let served = place.call.take().expect("a call ends once");
        assert!(served.running.is_none(), "a call is over while it runs");
        self.wheel.cancel(served.timer);
        let is_current = self.env.newest(served.life.function().lane).is_some();
        served.judge.over(&served.life, is_current, shared.now);
        let outcome = served.life.outcome().expect("it is over");
        shared.show(|| format!("io ends {reference:?} {outcome:?}"));
        *self.ends.entry(CallEndKind::of(outcome)).or_default() += 1;
        self.env.ledger.finished.add();
        if served.life.is_owed_a_grant() {
            self.places[index as usize].is_owed_a_grant = true;
        } else {
            self.free_place(index, shared);
        }
    }

    fn later(&mut self, index: u32, at: Uptime, act: CallAct) {
        self.sequence += 1;
        let generation = self.places[index as usize].generation;
        let attempt = self.served(index).life.attempt();
        let due = (at, self.sequence, index, generation, attempt, act);
        self.acts.push(Reverse(due));
    }

    fn acts(&mut self, shared: &mut SharedEnvironment) {
        while let Some(Reverse(due)) = self.acts.peek() {
            if due.0 > shared.now {
                return;
            }
            let Some(Reverse((_, _, index, generation, attempt, act))) = self.acts.pop() else {
                return;
            };
            let shard = self.shard;
            let call = CallId {
                index,
                generation,
                shard,
            };
            if self.is_live(call) {
                self.act(index, attempt, &act, shared);
            }
        }
    }

    fn act(&mut self, index: u32, attempt: u32, act: &CallAct, shared: &mut SharedEnvironment) {
        match act {
            CallAct::Cancels => self.end(index, &End::Cancelled, shared),
            CallAct::ClientLeaves => self.end(index, &End::ClientLeft, shared),
            CallAct::FindsRemoved => self.end(index, &End::Removed, shared),
            CallAct::FindsStartsFail => {
                self.end(index, &End::StartsFail("heard late".into()), shared);
            }
            CallAct::Detaches => {
                self.happens(index, Happening::Detached, shared.now);
                let limit = TimeLimit::Async(ASYNC_AGE_MAX.as_ms());
                let deadline = Deadline::after(shared.now, limit);
                let served = self.served(index);
                served.judge.detached(deadline.at, shared.now);
                served.life.detach(deadline);
                self.drive(index, shared);
            }
            of_attempt if self.served(index).life.attempt() == attempt => {
                self.act_of_pod(index, of_attempt, shared);
            }
            _ => {}
        }
    }

    /// Plans the loss of all calls that run in a pod that died.
    pub(crate) fn pod_died(&mut self, dead: PodId, shared: &mut SharedEnvironment) {
        let running = self
            .calls()
            .filter(|(_, served)| served.running.is_some_and(|grant| grant.pod == Some(dead)));
        let running: Vec<_> = running.map(|(call, _)| call.index).collect();
        for index in running {
            let at = shared.now + shared.rng.span(Nanos::from_ns(100_000));
            self.later(index, at, CallAct::Lost { oom: None });
        }
    }
}
