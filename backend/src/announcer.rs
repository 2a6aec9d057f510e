//! Sends the events of pods and Jobs through the work queue: to the scheduler, to the io threads and to the
//! records of cold starts. The announcer fixes the order of messages that depend on each other.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use nanofaas_core::cold_start::Phase;
use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::function::Function;
use nanofaas_core::message::{JobStart, Message, PodAddress, PodEnd};
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::ticket::PodId;
use nanofaas_core::time::Uptime;
use nanofaas_core::work_queue::WorkQueue;

pub struct Announcer {
    work_queue: Rc<RefCell<WorkQueue>>,
    origin: Instant,
}

impl Announcer {
    pub const fn new(work_queue: Rc<RefCell<WorkQueue>>, origin: Instant) -> Self {
        Self { work_queue, origin }
    }

    pub fn now(&self) -> Uptime {
        Uptime::ZERO + self.origin.elapsed().into()
    }

    pub fn with_work_queue<T>(&self, act: impl FnOnce(&mut WorkQueue) -> T) -> T {
        act(&mut self.work_queue.borrow_mut())
    }

    pub fn begin(&self, function: &Arc<str>, pod: &str, wanted_at: Uptime) {
        self.with_work_queue(|queue| queue.starts.begin(function, pod, wanted_at));
    }

    pub fn reached(&self, function: &Function, pod: &str, phase: Phase) {
        let at = self.now();
        self.with_work_queue(|queue| queue.starts.reached(function.name(), pod, phase, at));
    }

    /// Reports that a pod takes calls. The io threads get the pod's address first, because `PodUp` allows the
    /// scheduler to grant calls to the pod at once.
    pub fn up(&self, pod: PodId, function: &Function, name: &str, address: &PodAddress) {
        self.reached(function, name, Phase::Usable);
        self.with_work_queue(|queue| {
            let start = queue.starts.phases(function.name(), name);
            queue.broadcast(|| Message::PodAddress {
                pod,
                address: address.clone(),
                start: start.clone(),
            });
            queue.event(Event::PodUp(pod));
        });
    }

    pub fn start_failed(&self, pod: PodId, failure: StartFailure) {
        self.with_work_queue(|queue| queue.event(Event::StartFailed { pod, failure }));
    }

    /// Reports that a pod could not start, for a reason that may pass.
    pub fn cannot_start(&self, pod: PodId, why: &str) {
        let failure = StartFailure {
            permanent: false,
            message: why.into(),
        };
        self.start_failed(pod, failure);
    }

    pub fn gone(&self, pod: PodId, end: &PodEnd) {
        self.with_work_queue(|queue| queue.gone(pod, end));
    }

    /// Reports the end of a pod for which this backend has no task. A second report of the same end does no
    /// harm.
    pub fn unknown(&self, pod: PodId) {
        self.gone(pod, &ended("it was gone already"));
    }

    /// Reports the progress of a Job's start. `running_since` is none until the Job's program runs.
    pub fn job_starting(
        &self,
        start: &JobStart,
        name: &str,
        running_since: Option<Uptime>,
        held_up: Option<Arc<str>>,
    ) {
        self.with_work_queue(|queue| {
            let starting = Message::JobStarting {
                call: start.call,
                attempt: start.attempt,
                running_since,
                start: queue.starts.phases(start.function.name(), name),
                held_up,
            };
            queue.send_to(start.call.shard, starting);
        });
    }

    /// Reports that a Job ended or could not start. The Job's task calls this only if the io thread has not
    /// ended the attempt.
    pub fn job_ended(&self, start: &JobStart, name: &str, failure: ExecutionError, oom: bool) {
        self.with_work_queue(|queue| {
            if let ExecutionError::ColdStart(why) = &failure {
                let function = start.function.name();
                queue.starts.failed(function, name, why.clone());
            }
            let ended = Message::JobEnded {
                call: start.call,
                attempt: start.attempt,
                failure,
                oom,
            };
            queue.send_to(start.call.shard, ended);
        });
    }
}

/// Makes the end of a pod that did not run out of memory.
pub fn ended(message: &str) -> PodEnd {
    PodEnd {
        oom: false,
        message: message.into(),
    }
}
