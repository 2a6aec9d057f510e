//! Simulates the calls. Each call is a state machine of the product (`core/src/call.rs`), whose steps this
//! module performs in place of an io thread. The trace decides how long an attempt runs; the state machine
//! decides whether there is an attempt, and what follows.

use nanofaas_core::call::{Call, Deadline, End, NotAdmitted, Report, Step};
use nanofaas_core::event::Notice;
use nanofaas_core::limits::CALLS_PER_IO_THREAD_MAX;
use nanofaas_core::metrics::RejectReason;
use nanofaas_core::outcome::{ExecutionError, TimeLimit};
use nanofaas_core::retry::AttemptFailure;
use nanofaas_core::shard::ShardId;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::{CallId, Class, Grant, PodVerdict};
use nanofaas_core::time::{Nanos, Uptime};

use super::pods::{START_TOO_LONG, comes_up, held_for};
use super::{Admission, AttemptId, CallEnding, CallFate, SimulatedThread, Simulator, VirtualEvent};

/// The longest lifetime of an async call: the default of `serve --async-max-age-ms`.
const ASYNC_MAX_AGE_MS: u64 = 3_600_000;

/// A reusable entry for a call.
#[derive(Default)]
pub(super) struct CallPlace {
    generation: u32,
    pub(super) call: Option<LiveCall>,
}

/// A call that has not ended.
pub(super) struct LiveCall {
    /// The call's number in the trace, from 0.
    pub(super) number: usize,
    pub(super) life: Call<SimulatedThread>,
    /// When the call's attempt began to run in a pod.
    sent_at: Option<Uptime>,
    /// When the call's attempt will answer, or its Job will fail to start, unless the attempt is
    /// interrupted.
    pub(super) ends_at: Uptime,
    /// When the call's first attempt got a slot.
    granted_at: Option<Uptime>,
    timer_at: Option<Uptime>,
    job: Option<JobState>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum JobState {
    Starts { since: Uptime },
    Runs { start: Nanos },
}

fn answered(sent_at: Uptime, now: Uptime, start: Nanos) -> Report {
    Report {
        failure: None,
        verdict: PodVerdict::Healthy,
        sent_at: Some(sent_at),
        answered_at: Some(now),
        start,
    }
}

impl Simulator<'_> {
    fn open_place(&mut self) -> Option<CallId> {
        let index = self.free.pop().or_else(|| {
            let next = self.places.len();
            (next < CALLS_PER_IO_THREAD_MAX).then(|| {
                self.places.push(CallPlace::default());
                next as u32
            })
        })?;
        let generation = self.places[index as usize].generation;
        Some(CallId {
            index,
            generation,
            shard: ShardId::new(0),
        })
    }

    pub(super) fn arrive(&mut self, number: usize) {
        let Some(call_id) = self.open_place() else {
            return self.refuse(number, RejectReason::Memory);
        };
        match self.admit(number, call_id) {
            Ok(life) => {
                self.live += 1;
                self.places[call_id.index as usize].call = Some(LiveCall {
                    number,
                    life,
                    sent_at: None,
                    ends_at: Uptime::ZERO,
                    granted_at: None,
                    timer_at: None,
                    job: None,
                });
                self.drive(call_id.index);
            }
            Err(reason) => {
                self.free.push(call_id.index);
                self.refuse(number, reason);
            }
        }
    }

    /// Admits the call as the product does, or by perfect knowledge. With perfect knowledge the
    /// measured time of calls is hidden during admission, so that the product's prediction refuses
    /// no call.
    fn admit(
        &mut self,
        number: usize,
        call_id: CallId,
    ) -> Result<Call<SimulatedThread>, RejectReason> {
        let call = self.setup.calls[number];
        let limit = match call.class {
            Class::Sync => match call.timeout_ms {
                Some(ms) => TimeLimit::Client(ms),
                None => TimeLimit::Function(self.setup.spec.timeout_ms),
            },
            Class::Async => TimeLimit::Async(ASYNC_MAX_AGE_MS),
        };
        let deadline = Deadline::after(self.now, limit);
        let service = self.thread.function.stats.service_time.get();
        if self.admission == Admission::Knows {
            if !self.will_make_it(call.service, deadline.at) {
                return Err(RejectReason::EstWait);
            }
            self.thread.function.stats.service_time.set(None);
        }
        let (thread, entry) = (&self.thread, self.thread.function.clone());
        let admitted = Call::admit(thread, entry, call_id, call.class, self.now, deadline);
        self.thread.function.stats.service_time.set(service);
        match admitted {
            Ok((life, ticket)) => {
                self.plan_for(call.service, deadline.at);
                self.scheduler.ticket(ticket, self.now, &mut self.out);
                Ok(life)
            }
            Err(NotAdmitted::Refused(refusal)) => Err(refusal.reason),
            Err(NotAdmitted::FunctionRemoved) => unreachable!("the function stays"),
        }
    }

    fn refuse(&mut self, number: usize, reason: RejectReason) {
        self.fates[number] = Some(CallFate {
            ending: CallEnding::Refused(reason),
            wait: None,
            total: Nanos::ZERO,
        });
    }

    fn live(&mut self, index: u32) -> &mut LiveCall {
        let call = self.places[index as usize].call.as_mut();
        call.expect("a call that is not over")
    }

    pub(super) fn grant(&mut self, grant: Grant) {
        let now = self.now;
        let place = &mut self.places[grant.call.index as usize];
        assert_eq!(
            place.generation, grant.call.generation,
            "a grant of a call that is over"
        );
        let live = place.call.as_mut().expect("a call that waits");
        live.granted_at.get_or_insert(now);
        live.life.granted(grant, now, &self.thread);
        self.drive(grant.call.index);
    }

    /// Performs the steps that the call's state machine returns, until the call waits or is over.
    fn drive(&mut self, index: u32) {
        let now = self.now;
        loop {
            match self.live(index).life.step() {
                Step::Wait => break,
                Step::Run(_) => self.begin(index),
                Step::Stop => {
                    self.end_job(index);
                    let place = &mut self.places[index as usize];
                    let live = place.call.as_mut().expect("it is driven");
                    let sent_at = live.sent_at.take();
                    live.life.stopped(sent_at, now, &self.thread);
                }
                Step::Release(done) => self.apply(nanofaas_core::event::Event::Done(done)),
                Step::Queue(ticket) => self.scheduler.ticket(ticket, now, &mut self.out),
                Step::Over => return self.over(index),
            }
        }
        let live = self.live(index);
        let until = live.life.until();
        if live.timer_at != Some(until) {
            live.timer_at = Some(until);
            let generation = self.places[index as usize].generation;
            self.at(until, VirtualEvent::Time { index, generation });
        }
    }

    fn attempt(&mut self, index: u32) -> AttemptId {
        AttemptId {
            index,
            generation: self.places[index as usize].generation,
            attempt: self.live(index).life.attempt(),
        }
    }

    /// Begins an attempt: its request reaches a pod at once, or its Job starts.
    fn begin(&mut self, index: u32) {
        let (attempt, now) = (self.attempt(index), self.now);
        let is_job = self.setup.spec.execution_mode == ExecutionMode::Job;
        let start = self.setup.start.filter(|_| is_job);
        let start = start.map(|start| start.draw(&mut self.pods.dice));
        let number = self.live(index).number;
        let held_for = held_for(start, self.setup.calls[number].service);
        let live = self.live(index);
        live.ends_at = now + held_for;
        let Some(start) = start else {
            return self.send(attempt);
        };
        live.job = Some(JobState::Starts { since: now });
        self.learn_job_start(start);
        self.pods.jobs_starting += 1;
        self.history.start(now.since(self.origin));
        if comes_up(start) {
            self.at(now + start, VirtualEvent::JobRuns(attempt));
        } else {
            self.at(now + held_for, VirtualEvent::JobFails(attempt));
        }
    }

    fn send(&mut self, attempt: AttemptId) {
        let now = self.now;
        let live = self.live(attempt.index);
        live.sent_at = Some(now);
        let ends_at = live.ends_at;
        self.at(ends_at, VirtualEvent::Answers(attempt));
    }

    /// Returns whether this attempt still runs.
    fn is_running(&self, attempt: AttemptId) -> bool {
        let place = &self.places[attempt.index as usize];
        let live = place.call.as_ref();
        place.generation == attempt.generation
            && live.is_some_and(|live| {
                live.life.is_running() && live.life.attempt() == attempt.attempt
            })
    }

    pub(super) fn job_runs(&mut self, attempt: AttemptId) {
        if !self.is_running(attempt) {
            return;
        }
        let now = self.now;
        self.pods.jobs_starting -= 1;
        self.pods.jobs_up += 1;
        let live = self.live(attempt.index);
        if let Some(JobState::Starts { since }) = live.job {
            let start = now.since(since);
            live.job = Some(JobState::Runs { start });
        }
        live.life.job_runs(now);
        self.send(attempt);
        // The attempt's own time limit begins now, so the call may need another timer.
        self.drive(attempt.index);
    }

    /// Handles a Job that took too long to start. No other attempt follows, as with the real bridges.
    pub(super) fn job_fails(&mut self, attempt: AttemptId) {
        if !self.is_running(attempt) {
            return;
        }
        let now = self.now;
        self.end_job(attempt.index);
        let failure = ExecutionError::ColdStart(START_TOO_LONG.into());
        let report = Report {
            failure: Some((failure, AttemptFailure::Final)),
            verdict: PodVerdict::Healthy,
            sent_at: None,
            answered_at: None,
            start: Nanos::ZERO,
        };
        let place = &mut self.places[attempt.index as usize];
        let live = place.call.as_mut().expect("it runs");
        live.life.attempted(report, now, &self.thread);
        self.drive(attempt.index);
    }

    /// Ends the Job of a call's attempt, if there is one. Returns the time that the Job's start took, or 0 if
    /// the Job has not come up.
    fn end_job(&mut self, index: u32) -> Nanos {
        match self.live(index).job.take() {
            None => Nanos::ZERO,
            Some(JobState::Starts { .. }) => {
                self.pods.jobs_starting -= 1;
                Nanos::ZERO
            }
            Some(JobState::Runs { start }) => {
                self.pods.jobs_up -= 1;
                start
            }
        }
    }

    pub(super) fn answers(&mut self, attempt: AttemptId) {
        if !self.is_running(attempt) {
            return;
        }
        let (index, now) = (attempt.index, self.now);
        let start = self.end_job(index);
        let place = &mut self.places[index as usize];
        let live = place.call.as_mut().expect("it runs");
        let sent_at = live.sent_at.take().expect("it was sent");
        let report = answered(sent_at, now, start);
        live.life.attempted(report, now, &self.thread);
        self.drive(index);
    }

    pub(super) fn time(&mut self, index: u32, generation: u32) {
        let now = self.now;
        let place = &mut self.places[index as usize];
        let live = place.call.as_mut();
        // The event may belong to an earlier call of this entry, or to a timer that has been replaced.
        let awaited = live.filter(|live| live.timer_at == Some(now));
        if let Some(live) = awaited.filter(|_| place.generation == generation) {
            live.life.time(now, &self.thread);
            self.drive(index);
        }
    }

    /// Handles the scheduler's notices. The only kind says that no pod can be started, so all waiting calls
    /// end.
    pub(super) fn deliver_notices(&mut self) {
        for notice in std::mem::take(&mut self.out.notices) {
            let Notice::StartsFail { why, .. } = notice;
            self.knowledge.forget();
            for index in 0..self.places.len() {
                let live = self.places[index].call.as_mut();
                if let Some(live) = live.filter(|live| live.life.is_queued()) {
                    let end = End::StartsFail(why.clone());
                    live.life.end(&end, self.now, &self.thread);
                    self.drive(index as u32);
                }
            }
        }
    }

    fn over(&mut self, index: u32) {
        let place = &mut self.places[index as usize];
        let live = place.call.take().expect("it is driven");
        assert!(
            !live.life.is_owed_a_grant(),
            "a turn's grants are delivered at once"
        );
        let ending = match live.life.outcome().expect("it is over") {
            Ok(()) => CallEnding::MadeIt,
            Err(ExecutionError::Timeout { stage, .. }) => CallEnding::TimedOut(*stage),
            Err(ExecutionError::StartTimeout(_)) => {
                CallEnding::TimedOut(nanofaas_core::outcome::Stage::Starting)
            }
            Err(ExecutionError::ColdStart(_)) => CallEnding::NoPod,
            Err(other) => unreachable!("no pod here fails so: {other:?}"),
        };
        self.thread.entries.free(live.life.call_id());
        place.generation += 1;
        self.free.push(index);
        self.live -= 1;
        let arrived_at = self.origin + self.setup.calls[live.number].at;
        self.fates[live.number] = Some(CallFate {
            ending,
            wait: live
                .granted_at
                .map(|granted_at| granted_at.since(arrived_at)),
            total: self.now.since(arrived_at),
        });
    }
}
