//! Questions between io threads: an execution or a key belongs to one thread, and whoever is asked
//! for it elsewhere asks there, one message away. Bounded: a full inbox is an error to the client.

use std::rc::Rc;
use std::sync::Arc;

use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::ring::Producer;

use crate::execution_api::{self, About};
use crate::executions::Key;
use crate::idempotency::Claim;
use crate::reply::Response;
use crate::thread::Thread;

/// Longer than any long poll or deadline of a follower.
const ANSWER_NS_MAX: u64 = 330_000_000_000;

/// The way to one io thread, for another.
#[derive(Clone)]
pub(crate) struct PeerPost {
    messages: Producer<PeerMessage>,
    bell: Arc<Doorbell>,
}

/// What an io thread says to another.
pub(crate) enum PeerMessage {
    Ask {
        from: u16,
        token: u64,
        question: Box<Question>,
    },
    Answer {
        token: u64,
        answer: Answer,
    },
    /// No answer is expected: an execution is gone, or never ran.
    ReleaseKey {
        key: Box<Key>,
        id: ExecutionId,
    },
}

/// What is asked of the owner.
pub(crate) enum Question {
    Execution {
        id: ExecutionId,
        about: About,
    },
    Claim {
        key: Key,
        body: [u8; 32],
        id: ExecutionId,
    },
}

/// The owner's answer.
pub(crate) enum Answer {
    Response(Box<Response>),
    Claim(Claim),
}

impl PeerPost {
    pub(crate) const fn new(messages: Producer<PeerMessage>, bell: Arc<Doorbell>) -> Self {
        Self { messages, bell }
    }

    /// Wakes the thread, which may be this one: then after the loop has looked at I/O.
    pub(crate) fn ring(&self) {
        self.bell.ring();
    }

    fn send(&self, message: PeerMessage) -> bool {
        let sent = self.messages.push(message).is_ok();
        self.bell.ring();
        sent
    }
}

/// Asks another io thread.
async fn ask(thread: &Rc<Thread>, owner: u16, question: Question) -> Option<Answer> {
    let token = thread.answers.expect()?;
    let ask = PeerMessage::Ask {
        from: thread.index,
        token,
        question: Box::new(question),
    };
    if !thread.peers.get(usize::from(owner))?.send(ask) {
        thread.answers.forget(token);
        return None;
    }
    let until_ns = thread.now_ns() + ANSWER_NS_MAX;
    thread
        .answers
        .wait(token, &thread.alarms, until_ns)
        .await
        .ok()
}

/// What the owner of an execution answers; none where its inbox is full.
pub(crate) async fn ask_about(
    thread: &Rc<Thread>,
    id: ExecutionId,
    about: About,
) -> Option<Response> {
    match ask(thread, id.thread(), Question::Execution { id, about }).await? {
        Answer::Response(response) => Some(*response),
        Answer::Claim(_) => None,
    }
}

/// Claims a key for `id`, wherever the key belongs.
pub(crate) async fn claim(
    thread: &Rc<Thread>,
    key: &Key,
    body: [u8; 32],
    id: ExecutionId,
) -> Option<Claim> {
    let owner = crate::idempotency::owner(key, thread.threads);
    if owner == thread.index {
        return Some(thread.keys.claim(key.clone(), body, id));
    }
    match ask(
        thread,
        owner,
        Question::Claim {
            key: key.clone(),
            body,
            id,
        },
    )
    .await?
    {
        Answer::Claim(claim) => Some(claim),
        Answer::Response(_) => None,
    }
}

/// Gives a key up, wherever it belongs.
pub(crate) fn release_key(thread: &Thread, key: Key, id: ExecutionId) {
    let owner = crate::idempotency::owner(&key, thread.threads);
    if owner == thread.index {
        return thread.keys.release(&key, id);
    }
    let key = Box::new(key);
    if !thread.peers[usize::from(owner)].send(PeerMessage::ReleaseKey { key, id }) {
        tracing::warn!(executionId = %id, "an idempotency key could not be given up: a peer is too busy");
    }
}

/// Takes what a peer says.
pub(crate) fn take(thread: &Rc<Thread>, message: PeerMessage) {
    match message {
        PeerMessage::Ask {
            from,
            token,
            question,
        } => match *question {
            Question::Claim { key, body, id } => {
                let answer = Answer::Claim(thread.keys.claim(key, body, id));
                answer_to(thread, from, token, answer);
            }
            Question::Execution { id, about } => {
                let event_loop = thread.event_loop.clone();
                let thread = thread.clone();
                event_loop.spawn(async move {
                    let response = execution_api::answer(&thread, id, about).await;
                    answer_to(&thread, from, token, Answer::Response(Box::new(response)));
                });
            }
        },
        PeerMessage::Answer { token, answer } => thread.answers.answer(token, answer),
        PeerMessage::ReleaseKey { key, id } => thread.keys.release(&key, id),
    }
}

fn answer_to(thread: &Thread, to: u16, token: u64, answer: Answer) {
    if !thread.peers[usize::from(to)].send(PeerMessage::Answer { token, answer }) {
        tracing::warn!("an answer to another io thread was lost: its inbox is full");
    }
}
