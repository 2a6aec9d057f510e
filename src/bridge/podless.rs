//! This backend runs no pods (`--backend none`). LOCAL and POOL functions, which need no pod from a backend,
//! can be called. The start of a pod fails with a message that names the alternatives. The bridge's loop
//! passes the work queue's commands to this module.

use std::cell::RefCell;

use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::message::{BridgeError, Message, PodEnd, Reply};
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::work_queue::{BridgeCommand, WorkQueue};

const NO_PODS: &str = "this control plane runs no pods; start it with another --backend, \
                       or give the function executionMode POOL or LOCAL";

pub(super) fn take(work_queue: &RefCell<WorkQueue>, command: BridgeCommand) {
    let mut work_queue = work_queue.borrow_mut();
    match command {
        BridgeCommand::Start { pod, .. } => {
            let failure = StartFailure {
                permanent: true,
                message: NO_PODS.into(),
            };
            work_queue.event(Event::StartFailed { pod, failure });
        }
        BridgeCommand::Stop { pod }
        | BridgeCommand::Probe { pod }
        | BridgeCommand::Adopted { pod: Some(pod), .. } => {
            let message = NO_PODS.into();
            work_queue.gone(
                pod,
                &PodEnd {
                    oom: false,
                    message,
                },
            );
        }
        BridgeCommand::Job(job) => {
            let message = Message::JobEnded {
                call: job.call,
                attempt: job.attempt,
                failure: ExecutionError::ColdStart(NO_PODS.into()),
                oom: false,
            };
            work_queue.send_to(job.call.shard, message);
        }
        BridgeCommand::PodReady(ready) => {
            work_queue.reply(ready.reply, Reply::Refused(BridgeError::NotFound))
        }
        BridgeCommand::Adopted { pod: None, .. }
        | BridgeCommand::Function(_)
        | BridgeCommand::Removed { .. }
        | BridgeCommand::JobStop { .. }
        | BridgeCommand::Change { .. } => {}
    }
}
