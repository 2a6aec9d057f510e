//! Plays a call's attempts in scripted pods: each attempt is answered, fails, is refused, is lost, or gets no
//! answer. The bridge reports how a lost pod ended, late or not at all. The state machine decides whether
//! another attempt follows.

use std::sync::Arc;

use nanofaas_core::call::Report;
use nanofaas_core::message::PodEnd;
use nanofaas_core::outcome::{ExecutionError, HandlerError, Stage};
use nanofaas_core::retry::AttemptFailure;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::ticket::{Grant, PodVerdict};
use nanofaas_core::time::{Nanos, Uptime};

use super::{CallAct, IoThread};
use crate::environment::SharedEnvironment;
use crate::judge::Happening;
use crate::scenario::SECOND;

impl IoThread {
    pub(super) fn run(&mut self, index: u32, grant: Grant, shared: &mut SharedEnvironment) {
        let now = shared.now;
        let served = self.served(index);
        served.judge.runs(&served.life, &grant, now);
        served.running = Some(grant);
        if let Some(pod) = grant.pod {
            shared.entered_pod(pod);
        }
        let function = served.life.entry().clone();
        let mode = function.spec.execution_mode;
        if mode == ExecutionMode::Local {
            return self.later(index, now, CallAct::Answers);
        }
        if grant.pod.is_some_and(|pod| !shared.is_alive(pod)) {
            return self.later(index, now, CallAct::NotBegun);
        }
        let nature = shared.natures[function.name()];
        let mut service = shared.rng.span(nature.service_max);
        if mode == ExecutionMode::Job && shared.rng.chance(900) {
            let start = shared.rng.span(nature.start_max);
            self.later(index, now + start, CallAct::JobRuns);
            service += start;
        }
        let oom = shared.rng.chance(200);
        // The bridge always knows how a Job ended. The runtime of a warm pod either reports how its worker
        // ended, or dies with the worker.
        let is_told = mode == ExecutionMode::Job || service.as_ns().is_multiple_of(4);
        let faults = [
            CallAct::Fails,
            CallAct::Lost {
                oom: is_told.then_some(oom),
            },
            CallAct::NotBegun,
            CallAct::NotBegun,
        ];
        let mut dice = shared.rng.below(1000);
        for (at, share) in nature.faults.into_iter().enumerate() {
            if dice < share {
                // `nature.faults` has one item more than `faults`: the share of attempts that never get an
                // answer. For such an attempt no act is planned.
                if let Some(fault) = faults.get(at) {
                    let after = if at < 2 {
                        service
                    } else {
                        service.min(Nanos::from_ns(20_000))
                    };
                    self.later(index, now + after, fault.clone());
                }
                return;
            }
            dice -= share;
        }
        self.later(index, now + service, CallAct::Answers);
    }

    /// Applies an act of a pod, or the bridge's report about the end of a pod.
    pub(super) fn act_of_pod(&mut self, index: u32, act: &CallAct, shared: &mut SharedEnvironment) {
        if let CallAct::PodEnds { oom } = *act {
            if self.served(index).life.awaited_pod().is_none() {
                return;
            }
            self.happens(index, Happening::PodEnded { oom }, shared.now);
            let (life, env) = self.life(index, shared);
            let message = "it is gone".into();
            life.pod_ended(Some(&PodEnd { oom, message }), shared.now, env);
            return self.drive(index, shared);
        }
        let Some(grant) = self.served(index).running else {
            return;
        };
        if *act == CallAct::JobRuns {
            let served = self.served(index);
            served.judge.job_runs(shared.now);
            served.life.job_runs(shared.now);
            return self.drive(index, shared);
        }
        let report = report(act, &grant, shared.now);
        self.served(index).judge.attempted(&report, shared.now);
        self.happens(index, Happening::Attempted, shared.now);
        let (life, env) = self.life(index, shared);
        life.attempted(report, shared.now, env);
        self.drive(index, shared);
        self.plan_pod_end(index, shared);
    }

    /// Plans the bridge's report about the end of a lost pod, if the call waits for it. The report comes in
    /// time, too late or never.
    fn plan_pod_end(&mut self, index: u32, shared: &mut SharedEnvironment) {
        let place = &self.places[index as usize];
        let is_awaited = place
            .call
            .as_ref()
            .is_some_and(|served| served.life.awaited_pod().is_some());
        if is_awaited && shared.rng.chance(900) {
            let at = shared.now + shared.rng.span(4 * SECOND);
            let oom = shared.rng.chance(300);
            self.later(index, at, CallAct::PodEnds { oom });
        }
        // Few calls are in this phase, so their clients act more often than other clients.
        for act in [CallAct::Cancels, CallAct::ClientLeaves, CallAct::Detaches] {
            if is_awaited && shared.rng.chance(80) {
                let at = shared.now + shared.rng.span(2 * SECOND);
                self.later(index, at, act);
            }
        }
    }
}

fn report(act: &CallAct, grant: &Grant, now: Uptime) -> Report {
    let sent_at = Some(grant.granted_at.min(now));
    let lost = |oom| AttemptFailure::Lost { oom };
    let (verdict, failure) = match act {
        CallAct::Answers => (PodVerdict::Healthy, None),
        CallAct::Fails => {
            let (code, message) = ("HANDLER_ERROR".into(), "it says no".into());
            let said = HandlerError {
                code,
                message,
                retry_after: None,
            };
            let failure = ExecutionError::Handler(Arc::new(said));
            (
                PodVerdict::Healthy,
                Some((failure, AttemptFailure::Handler)),
            )
        }
        CallAct::NotBegun => {
            let failure = ExecutionError::PodUnreachable("refused".into());
            (PodVerdict::Lost, Some((failure, AttemptFailure::NotBegun)))
        }
        CallAct::Lost { oom } => {
            let failure = ExecutionError::PodLost("gone".into());
            // A pod whose runtime reports the loss of its worker can take calls again.
            let verdict = oom.map_or(PodVerdict::Lost, |_| PodVerdict::Healthy);
            (verdict, Some((failure, lost(*oom))))
        }
        _ => (
            PodVerdict::Healthy,
            Some((
                ExecutionError::Timeout {
                    stage: Stage::Running,
                    limit: None,
                },
                AttemptFailure::TimedOut,
            )),
        ),
    };
    let is_answered = matches!(
        act,
        CallAct::Answers | CallAct::Fails | CallAct::Lost { oom: Some(_) }
    );
    Report {
        answered_at: is_answered.then_some(now),
        sent_at: sent_at.filter(|_| !matches!(act, CallAct::NotBegun)),
        failure,
        verdict,
        start: Nanos::ZERO,
    }
}
