//! A call's attempts: a grant is dispatched to a scripted pod, ends in one of its ways, and is
//! followed by another one where the retry rules say so.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use nanofaas_core::retry::{AttemptFailure, Next, RetryRule, Tried, decide};
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::{Class, Done, Grant, PodRef, PodVerdict, Ticket};

use super::{Act, End, IoThread, OTHER, State};
use crate::hall::Hall;
use crate::scenario::MS;
use crate::shadow::key;

impl IoThread {
    pub(super) fn granted(&mut self, grant: Grant, hall: &mut Hall) {
        let place = &mut self.places[grant.call.index as usize];
        let live = place.generation == grant.call.generation;
        let Some(call) = place.call.as_mut().filter(|_| live) else {
            hall.show(|| format!("io finds {:?} gone", grant.call));
            return hall.done(unused(&grant));
        };
        assert!(matches!(call.state, State::Queued), "granted while it runs");
        let newest = self.functions.get(call.function.name());
        if let Some(newest) = newest.filter(|newest| newest.lane == grant.lane) {
            call.function = newest.clone();
        }
        if grant.pod.is_some() != (call.function.spec.execution_mode == ExecutionMode::Warm) {
            // Granted under another spec, whose calls run elsewhere: this one has not begun.
            call.attempts += 1;
            call.state = State::BackingOff;
            hall.done(unused(&grant));
            return self.failed(grant.call.index, AttemptFailure::NotBegun, hall);
        }
        self.dispatch(grant, hall);
    }

    fn dispatch(&mut self, grant: Grant, hall: &mut Hall) {
        let index = grant.call.index;
        let now = hall.now;
        let function = self.call(index).function.clone();
        let call = self.call(index);
        call.attempts += 1;
        call.state = State::Running {
            lane: grant.lane,
            pod: grant.pod,
            sent_ns: now,
        };
        if call.class == Class::Async {
            let at = now + u64::from(function.spec.timeout_ms) * MS;
            let timer = self.wheel.set(at, OTHER << 32 | u64::from(index));
            self.call(index).timer = Some(timer);
        }
        *hall.running_in.entry(key(grant.pod)).or_default() += 1;
        if function.spec.execution_mode == ExecutionMode::Local {
            self.end_attempt(index, PodVerdict::Healthy, Some(1), hall);
            return self.finish(index, End::Ok, hall);
        }
        if grant.pod.is_some() && !hall.is_alive(grant.pod) {
            return self.later(index, now, Act::NotBegun);
        }
        let nature = hall.natures[function.name()];
        let service = hall.rng.time_ns(nature.service_ns_max);
        let faults = [Act::Fails, Act::Lost, Act::NotBegun, Act::NotBegun];
        let mut dice = hall.rng.below(1000);
        for (at, share) in nature.faults.into_iter().enumerate() {
            if dice < share {
                // The last one never answers.
                if let Some(fault) = faults.get(at) {
                    let after = if at < 2 { service } else { service.min(20_000) };
                    self.later(index, now + after, *fault);
                }
                return;
            }
            dice -= share;
        }
        self.later(index, now + service, Act::Answers);
    }

    pub(super) fn later(&mut self, index: u32, at: u64, act: Act) {
        self.sequence += 1;
        let generation = self.places[index as usize].generation;
        let attempt = self.call(index).attempts;
        let due = (at, self.sequence, index, generation, attempt, act);
        self.acts.push(Reverse(due));
    }

    /// Its pod is dead: connections break.
    pub(crate) fn pod_died(&mut self, dead: PodRef, hall: &mut Hall) {
        let running = self
            .calls()
            .filter(|(_, call)| matches!(call.state, State::Running { pod, .. } if pod == dead));
        let running: Vec<_> = running.map(|(call, _)| call.index).collect();
        for index in running {
            let at = hall.now + hall.rng.time_ns(100_000);
            self.later(index, at, Act::Lost);
        }
    }

    pub(super) fn acts(&mut self, hall: &mut Hall) {
        while let Some(Reverse((at, _, index, generation, attempt, act))) =
            self.acts.peek().copied()
        {
            if at > hall.now {
                return;
            }
            self.acts.pop();
            let place = &self.places[index as usize];
            let Some(call) = place
                .call
                .as_ref()
                .filter(|_| place.generation == generation)
            else {
                continue;
            };
            if let Act::Leaves | Act::Removed = act {
                let removed = act == Act::Removed;
                let end = if removed { End::Removed } else { End::Left };
                self.end_anywhere(index, end, hall);
                continue;
            }
            let State::Running { sent_ns, .. } = call.state else {
                continue;
            };
            if call.attempts != attempt {
                continue;
            }
            let took = Some(hall.now.saturating_sub(sent_ns));
            let (verdict, sample, failure) = match act {
                Act::Answers => (PodVerdict::Healthy, took, None),
                Act::Fails => (PodVerdict::Healthy, took, Some(AttemptFailure::Handler)),
                Act::NotBegun => (PodVerdict::Lost, None, Some(AttemptFailure::NotBegun)),
                _ => {
                    let oom = hall.rng.chance(200);
                    (PodVerdict::Lost, None, Some(AttemptFailure::Lost { oom }))
                }
            };
            self.end_attempt(index, verdict, sample, hall);
            match failure {
                None => self.finish(index, End::Ok, hall),
                Some(failure) => self.failed(index, failure, hall),
            }
        }
    }

    pub(super) fn end_attempt(
        &mut self,
        index: u32,
        verdict: PodVerdict,
        function_ns: Option<u64>,
        hall: &mut Hall,
    ) {
        let call = self.call(index);
        let State::Running { lane, pod, .. } = call.state else {
            panic!("an attempt that does not run ended");
        };
        // Until it is queued, backs off or ends, which the caller says next.
        call.state = State::BackingOff;
        call.avoid = pod.index;
        if let Some(timer) = call.timer.take() {
            self.wheel.cancel(timer);
        }
        *hall.running_in.get_mut(&key(pod)).expect("it ran") -= 1;
        hall.done(Done {
            lane,
            pod,
            verdict,
            function_ns,
        });
    }

    pub(super) fn failed(&mut self, index: u32, failure: AttemptFailure, hall: &mut Hall) {
        let call = self.call(index);
        let spec = &call.function.spec;
        let rule = RetryRule {
            max_retries: spec.max_retries,
            retry_on: spec.retry_on,
            class: call.class,
        };
        let tried = Tried {
            attempts: call.attempts,
            lost: call.lost,
            other_pod: hall.rng.chance(500),
        };
        call.lost += u32::from(matches!(failure, AttemptFailure::Lost { .. }));
        match decide(failure, rule, tried, hall.rng.next()) {
            Next::Give if failure == AttemptFailure::TimedOut => {
                self.finish(index, End::Timeout, hall);
            }
            Next::Give => self.finish(index, End::Failed, hall),
            Next::Retry(0) => self.requeue(index, hall),
            Next::Retry(after_ns) => {
                let at = hall.now + after_ns;
                let timer = self.wheel.set(at, OTHER << 32 | u64::from(index));
                self.call(index).timer = Some(timer);
                self.ledger.backing_off.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn left_backoff(&self) {
        let was = self.ledger.backing_off.fetch_sub(1, Ordering::Relaxed);
        assert!(was > 0, "more calls left backoff than were in it");
    }

    pub(super) fn requeue(&mut self, index: u32, hall: &mut Hall) {
        let reference = self.reference(index);
        let old = self.call(index).function.clone();
        let (lane, newest) = (old.lane, self.functions.get(old.name()).cloned());
        let Some(newest) = newest.filter(|newest| newest.lane == lane) else {
            return self.finish(index, End::Removed, hall);
        };
        self.retries += 1;
        let call = self.call(index);
        call.function = newest;
        call.state = State::Queued;
        call.timer = None;
        let ticket = Ticket {
            queued_ns: hall.now,
            index,
            generation: reference.generation,
            lane,
            avoid: call.avoid,
            thread: reference.thread,
            class: call.class,
        };
        call.function.view.reenter();
        hall.entries.queue(reference);
        hall.post_again(ticket);
    }
}

/// The end of a grant that nobody used.
const fn unused(grant: &Grant) -> Done {
    Done {
        lane: grant.lane,
        pod: grant.pod,
        verdict: PodVerdict::Healthy,
        function_ns: None,
    }
}
