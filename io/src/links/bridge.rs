//! An io thread's link to the bridge: applies the bridge's messages, and asks the bridge for changes. It
//! decides nothing about functions and pods.

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::task::Waker;

use nanofaas_core::call::End;
use nanofaas_core::message::{BridgeMessage, BridgeRequest, Message, Reply, ReplyTo};

use nanofaas_core::time::Nanos;

use crate::links::pending_requests::NoAnswer;
use crate::links::{Links, OWED};
use crate::runtime::phase::ShutdownPhase;
use crate::state::call_table::JobUpdate;
use crate::state::functions::FunctionEntry;

/// The largest number of messages that are applied in a row before the loop polls its I/O.
pub(crate) const BATCH_MAX: usize = 512;
/// The longest wait of a request to the bridge for its answer.
const ANSWER_WAIT_MAX: Nanos = Nanos::from_s(30);

impl Links {
    /// Asks the bridge and waits for its answer.
    pub(crate) async fn ask(&self, request: BridgeRequest) -> Result<Reply, NoAnswer> {
        let token = self.asked_of_bridge.expect().ok_or(NoAnswer::Full)?;
        let reply = ReplyTo {
            shard: self.id,
            token,
        };
        if self
            .bridge
            .send(BridgeMessage::Request { request, reply })
            .is_err()
        {
            self.asked_of_bridge.forget(token);
            return Err(NoAnswer::Full);
        }
        self.asked_of_bridge
            .wait(token, &self.alarms, self.now() + ANSWER_WAIT_MAX)
            .await
    }
}

/// Applies the messages that the bridge has sent to this thread. The inbox calls this function, and `to_pod`
/// calls it for a grant that names an unknown pod, because one of the messages may introduce the pod.
pub(crate) fn take_messages(thread: &Links) {
    let Some(inbox) = thread.inbox.get() else {
        return;
    };
    for _ in 0..BATCH_MAX {
        let Some(message) = inbox.borrow_mut().rings.messages.pop() else {
            break;
        };
        take(thread, message);
    }
    pay(thread);
}

fn take(thread: &Links, message: Message) {
    match message {
        Message::Event(event) => thread.schedule(event, thread.now()),
        Message::Notice(notice) => thread.apply_notice(&notice),
        Message::Function(function) => {
            let version = function.version;
            let name = function.name();
            let old = thread.functions.borrow().get(name).cloned();
            let entry = FunctionEntry::new(function, old.as_deref());
            thread.functions.borrow_mut().put(Rc::new(entry));
            thread.owed_ack.set(Some(version));
        }
        Message::FunctionRemoved {
            lane,
            name,
            version,
        } => {
            thread.functions.borrow_mut().remove(&name);
            thread.calls.end_all(Some(lane), &End::Removed);
            thread.owed_ack.set(Some(version));
        }
        Message::PodAddress {
            pod,
            address,
            start,
        } => thread.pods.put(pod, address, start),
        Message::PodGone { pod, end } => thread.pods.gone(pod, end),
        Message::Endpoint { lane, address } => {
            if let Some(entry) = thread.functions.borrow().at(lane) {
                *entry.endpoint.borrow_mut() = address.map(Rc::new);
            }
        }
        Message::JobStarting {
            call,
            attempt,
            running_since,
            start,
            held_up,
        } => {
            let update = JobUpdate::Starting {
                running_since,
                start,
                held_up,
            };
            thread.calls.job(call, attempt, update);
        }
        Message::JobEnded {
            call,
            attempt,
            failure,
            oom,
        } => {
            thread
                .calls
                .job(call, attempt, JobUpdate::Ended { failure, oom });
        }
        Message::Reply { token, reply } => {
            // If the client no longer waits for the answer, the answer is dropped, although the bridge has
            // made the change.
            let _late = thread.asked_of_bridge.answer(token, reply);
        }
        Message::Begun => thread.begin(),
        Message::Drain => thread.phase.set(ShutdownPhase::Draining),
        Message::Stop => {
            thread.phase.set(ShutdownPhase::Stopping);
            let _told = thread.until_stopping.take().map(Waker::wake);
            thread.calls.end_all(None, &End::Shutdown);
        }
    }
}

/// Sends the owed acknowledgement, but only after all owed events. When every io thread has acknowledged the
/// removal of a function, the bridge sends the removal to the scheduler, which must get the function's events
/// first.
///
/// `take_messages` and the ticker call `pay`. If the acknowledgement is still owed, `owed_alarm` wakes the
/// ticker later. Meanwhile the thread goes on to take messages, because a bridge with a full backlog reads
/// its ring only after the io threads have read theirs.
pub(crate) fn pay(thread: &Links) {
    let Some(version) = thread.owed_ack.take() else {
        return;
    };
    let shard = thread.id;
    let ack = BridgeMessage::Ack { shard, version };
    if !thread.pay_events() || thread.bridge.send(ack).is_err() {
        thread.owed_ack.set(Some(version));
        thread.owed_alarm.set(thread.recent() + OWED);
    }
}
