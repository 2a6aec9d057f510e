//! The backend that runs no pods (`--backend none`). Functions that need no pod from this backend
//! (LOCAL, POOL) can be called. The start of a pod fails with a message that says what to do about
//! it. The bridge's loop passes it the desk's work.

use std::cell::RefCell;

use nanofaas_core::desk::{Desk, Work};
use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::message::{Message, PodEnd, Refused, Reply};
use nanofaas_core::outcome::Failure;

const NO_PODS: &str = "this control plane runs no pods; start it with another --backend, \
                       or give the function executionMode POOL or LOCAL";

/// Answers the work with an error.
pub(super) fn take(desk: &RefCell<Desk>, work: Work) {
    let mut desk = desk.borrow_mut();
    match work {
        Work::Start { pod, .. } => {
            let failure = StartFailure {
                permanent: true,
                message: NO_PODS.into(),
            };
            desk.event(Event::StartFailed { pod, failure });
        }
        Work::Stop { pod } | Work::Probe { pod } | Work::Adopted { pod: Some(pod), .. } => {
            let message = NO_PODS.into();
            desk.gone(
                pod,
                &PodEnd {
                    oom: false,
                    message,
                },
            );
        }
        Work::Job(job) => {
            let message = Message::JobEnded {
                call: job.call,
                attempt: job.attempt,
                failure: Failure::ColdStart(NO_PODS.into()),
                oom: false,
            };
            desk.tell(job.call.shard, message);
        }
        Work::PodReady(ready) => desk.reply(ready.reply, Reply::Refused(Refused::NotFound)),
        Work::Adopted { pod: None, .. }
        | Work::Function(_)
        | Work::Removed { .. }
        | Work::JobStop { .. }
        | Work::Change { .. } => {}
    }
}
