//! The table of the calls of this io thread. Each call has a place, through which grants, ends and results of
//! Jobs reach the task that serves the call. A place holds no bytes of a request. The call's task, the inbox,
//! the inline scheduler and a Job's callback write to the place, and so does code that ends a call because
//! its client left or cancelled it.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nanofaas_core::call::End;
use nanofaas_core::entries::Entries;
use nanofaas_core::limits::CALLS_PER_IO_THREAD_MAX;
use nanofaas_core::memory::Loose;
use nanofaas_core::message::{Phases, ReadyTimestamps};
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::shard::ShardId;
use nanofaas_core::ticket::{CallId, Grant, LaneId};
use nanofaas_core::time::Uptime;

use crate::http::output::Output;

/// An update of the Job that serves a call.
pub(crate) enum JobUpdate {
    Starting {
        running_since: Option<Uptime>,
        start: Phases,
        held_up: Option<Arc<str>>,
    },
    Ended {
        failure: ExecutionError,
        oom: bool,
    },
    /// The Job's callback came.
    Answered(Box<JobAnswer>),
    /// A callback came that cannot be read. The Job may post another one. If the Job's pod is lost instead,
    /// the call fails with the failure that is given here.
    Refused(ExecutionError),
}

impl JobUpdate {
    /// Returns the update to keep if `self` comes after `earlier`. If the pod is lost after an unreadable
    /// callback, and did not run out of memory, the call fails with the failure of that callback.
    fn after(self, earlier: Option<Self>) -> Self {
        match (self, earlier) {
            (
                Self::Ended {
                    failure: ExecutionError::PodLost(_),
                    oom: false,
                },
                Some(Self::Refused(failure)),
            ) => Self::Ended {
                failure,
                oom: false,
            },
            (update, _) => update,
        }
    }
}

pub(crate) struct JobAnswer {
    pub(crate) result: Result<JobOutput, ExecutionError>,
    /// The start times that the Job's runtime reported, if it reported any.
    pub(crate) timestamps: Option<ReadyTimestamps>,
}

/// An output, and the charge for the body that contains the output. The charge is `Loose`, which can be sent
/// to another thread, because another io thread may have received the body.
pub(crate) struct JobOutput {
    pub(crate) output: Output,
    pub(crate) charge: Loose,
}

#[derive(Default)]
struct CallSlot {
    generation: u32,
    /// The lane of the call that has this place; none while the place is free.
    lane: Option<LaneId>,
    /// Whether the call's task has ended before the call's grant arrived. The slot of that grant is given
    /// back when the grant arrives.
    orphan: bool,
    grant: Option<Grant>,
    end: Option<End>,
    /// The Job that serves the call, if one does. The field is boxed, because few calls have a Job, but
    /// `open` writes a whole `CallSlot` for each call.
    job: Option<Box<ExpectedJob>>,
    waker: Option<Waker>,
}

/// What is known of the Job that serves an attempt.
struct ExpectedJob {
    attempt: u32,
    /// When the Job began to run, if it did.
    running_since: Option<Uptime>,
    /// The phases of the Job's start that are over.
    start: Phases,
    /// Why the Job's start is delayed, if it is.
    held_up: Option<Arc<str>>,
    end: Option<JobUpdate>,
}

impl ExpectedJob {
    fn new(attempt: u32) -> Self {
        Self {
            attempt,
            running_since: None,
            start: Phases::default(),
            held_up: None,
            end: None,
        }
    }

    /// Applies an update of the Job of `attempt`. Drops an update that is for another attempt, or that comes
    /// after the Job's answer, and returns false.
    fn apply(&mut self, attempt: u32, update: JobUpdate) -> bool {
        if self.attempt != attempt || matches!(self.end, Some(JobUpdate::Answered(_))) {
            return false;
        }
        if let JobUpdate::Starting {
            running_since,
            start,
            held_up,
        } = update
        {
            self.running_since = running_since.or(self.running_since);
            self.start = start;
            self.held_up = held_up;
        } else {
            self.end = Some(update.after(self.end.take()));
        }
        true
    }
}

struct CallSlots {
    slots: Vec<CallSlot>,
    free: Vec<u32>,
    used: usize,
}

pub(crate) struct CallTable {
    thread: ShardId,
    inner: RefCell<CallSlots>,
}

/// What became of a grant that was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    Taken,
    /// The call's task has ended, so the caller has to give the slot back at once.
    Unwanted,
}

impl CallTable {
    pub(crate) const fn new(thread: ShardId) -> Self {
        let inner = CallSlots {
            slots: Vec::new(),
            free: Vec::new(),
            used: 0,
        };
        Self {
            thread,
            inner: RefCell::new(inner),
        }
    }

    /// Takes a place for a call of `lane`. Returns none if the table is full.
    pub(crate) fn open(&self, lane: LaneId) -> Option<CallId> {
        let mut inner = self.inner.borrow_mut();
        let index = match inner.free.pop() {
            Some(index) => index,
            None if inner.slots.len() < CALLS_PER_IO_THREAD_MAX => {
                inner.slots.push(CallSlot::default());
                u32::try_from(inner.slots.len() - 1).expect("the table is small")
            }
            None => return None,
        };
        inner.used += 1;
        let slot = &mut inner.slots[index as usize];
        let generation = slot.generation.wrapping_add(1);
        *slot = CallSlot {
            generation,
            lane: Some(lane),
            ..CallSlot::default()
        };
        Some(CallId {
            index,
            generation,
            shard: self.thread,
        })
    }

    /// Returns the number of places that are taken.
    pub(crate) fn len(&self) -> usize {
        self.inner.borrow().used
    }

    fn with<R>(&self, call: CallId, act: impl FnOnce(&mut CallSlot) -> R) -> Option<R> {
        let mut inner = self.inner.borrow_mut();
        let slot = inner.slots.get_mut(call.index as usize)?;
        (slot.lane.is_some() && slot.generation == call.generation).then(|| act(slot))
    }

    /// Marks a call that ends before its grant has arrived. The place of the call stays taken until the grant
    /// arrives.
    pub(crate) fn orphan(&self, call: CallId) {
        self.with(call, |slot| slot.orphan = true);
    }

    /// Closes a call whose task has ended it. Its place becomes free at once, unless `orphan` marked the
    /// call.
    pub(crate) fn close(&self, call: CallId, entries: &Entries) {
        let orphan = self.with(call, |slot| {
            slot.waker = None;
            slot.job = None;
            slot.orphan
        });
        if orphan == Some(false) {
            self.free(call, entries);
        }
    }

    fn free(&self, call: CallId, entries: &Entries) {
        entries.free(call);
        let mut inner = self.inner.borrow_mut();
        inner.slots[call.index as usize].lane = None;
        inner.free.push(call.index);
        inner.used -= 1;
    }

    /// Delivers a grant to its call, and wakes the call's task.
    pub(crate) fn grant(&self, grant: Grant, entries: &Entries) -> Delivered {
        let orphan = self
            .with(grant.call, |slot| {
                if !slot.orphan {
                    slot.grant = Some(grant);
                    wake(slot);
                }
                slot.orphan
            })
            .expect("a granted call keeps its place until the grant arrives");
        if orphan {
            self.free(grant.call, entries);
            return Delivered::Unwanted;
        }
        Delivered::Taken
    }

    /// Takes the grant, if it has arrived and no end was set from outside.
    pub(crate) fn take_grant_to_run(&self, call: CallId) -> Option<Grant> {
        self.with(call, |slot| {
            let runs = slot.end.is_none();
            slot.grant.take_if(|_| runs)
        })
        .flatten()
    }

    /// Takes the grant, if it has arrived.
    pub(crate) fn take_grant(&self, call: CallId) -> Option<Grant> {
        self.with(call, |slot| slot.grant.take()).flatten()
    }

    /// Ends a call from outside its task: sets the end and wakes the task. Returns false if the table does
    /// not have the call.
    pub(crate) fn end(&self, call: CallId, end: End) -> bool {
        self.with(call, |slot| set_end(slot, end)).is_some()
    }

    /// Ends the calls of `lane`, or all calls if `lane` is none, from outside their tasks. Skips the calls
    /// that `orphan` marked.
    pub(crate) fn end_all(&self, lane: Option<LaneId>, end: &End) {
        let mut inner = self.inner.borrow_mut();
        for slot in &mut inner.slots {
            let is_meant = |own| lane.is_none_or(|lane| lane == own);
            if slot.lane.is_some_and(is_meant) && !slot.orphan {
                set_end(slot, end.clone());
            }
        }
    }

    /// Delivers an update of the Job of `attempt`. Drops the update and returns false if the call does not
    /// exist, is in another attempt, or already has the Job's answer.
    pub(crate) fn job(&self, call: CallId, attempt: u32, update: JobUpdate) -> bool {
        self.with(call, |slot| {
            let job = slot.job.as_mut();
            let is_update = job.is_some_and(|job| job.apply(attempt, update));
            if is_update {
                wake(slot);
            }
            is_update
        })
        .unwrap_or(false)
    }

    /// Begins an attempt that a Job serves. From now on `job` accepts the updates of that Job.
    pub(crate) fn expect_job(&self, call: CallId, attempt: u32) {
        let job = Box::new(ExpectedJob::new(attempt));
        self.with(call, |slot| slot.job = Some(job));
    }

    /// Ends the attempt that a Job serves. From now on `job` drops the updates of that Job.
    pub(crate) fn forget_job(&self, call: CallId) {
        self.with(call, |slot| slot.job = None);
    }

    fn with_job<R>(
        &self,
        call: CallId,
        act: impl FnOnce(&mut ExpectedJob) -> Option<R>,
    ) -> Option<R> {
        self.with(call, |slot| slot.job.as_mut().and_then(|job| act(job)))
            .flatten()
    }

    pub(crate) fn job_held_up(&self, call: CallId) -> Option<Arc<str>> {
        self.with_job(call, |job| job.held_up.clone())
    }

    pub(crate) fn job_running_since(&self, call: CallId) -> Option<Uptime> {
        self.with_job(call, |job| job.running_since)
    }

    /// Takes the phases of the Job's start that are over.
    pub(crate) fn take_job_start(&self, call: CallId) -> Phases {
        let start = self.with_job(call, |job| Some(std::mem::take(&mut job.start)));
        start.unwrap_or_default()
    }

    /// Takes the Job's end, if it has come. An unreadable callback does not count as an end.
    pub(crate) fn take_job(&self, call: CallId) -> Option<JobUpdate> {
        let is_end = |job: &mut JobUpdate| !matches!(job, JobUpdate::Refused(_));
        self.with_job(call, |job| job.end.take_if(is_end))
    }

    /// Takes the end that was set from outside. If no end was set, each later event of the call wakes the
    /// task of `cx`.
    pub(crate) fn poll_end(&self, call: CallId, cx: &Context<'_>) -> Poll<End> {
        self.with(call, |slot| {
            if let Some(end) = slot.end.take() {
                return Poll::Ready(end);
            }
            match &slot.waker {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => slot.waker = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .expect("a call that is served has its place")
    }
}

fn set_end(slot: &mut CallSlot, end: End) {
    slot.end = Some(End::merge(slot.end.take(), end));
    wake(slot);
}

fn wake(slot: &CallSlot) {
    if let Some(waker) = &slot.waker {
        waker.wake_by_ref();
    }
}
