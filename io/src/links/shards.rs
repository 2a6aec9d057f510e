//! Messages between io threads. Each execution and each key belongs to one io thread, and the other threads
//! ask that thread.
//!
//! - A question may be refused: if the inbox is full, the client gets a 503, and may ask again.
//! - An answer has a reserved place, because a thread has at most `QUESTIONS_MAX` questions without an
//!   answer.
//! - A notice is never lost, because no later message would make up for it. If the inbox is full, the notice
//!   is owed: the sender keeps it, and sends it when there is room.
//!
//! This module decides nothing about keys and executions; `idempotency` and `api::executions` do.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::limits::{ANSWERS_DEPTH, MESSAGES_DEPTH};
use nanofaas_core::ring::{Consumer, Producer, channel};
use nanofaas_core::shard::ShardId;
use nanofaas_core::time::{Nanos, Uptime};

use crate::http::error::HttpError;
use crate::http::response::Response;
use crate::links::questions::{About, JoinWaiter, NotJoined};
use crate::links::{Links, OWED};
use crate::state::executions::IdempotencyKey;
use crate::state::idempotency::{Asker, Claim};

/// The longest wait of a question for its answer. It exceeds every long poll and the deadline of every
/// waiter.
const ANSWER_WAIT_MAX: Nanos = Nanos::from_s(330);

/// The sending ends of the queues to one io thread.
#[derive(Clone)]
pub(crate) struct ShardPost {
    messages: Producer<ShardMessage>,
    answers: Producer<(u64, ShardAnswer)>,
    bell: Arc<Doorbell>,
}

/// The receiving ends of the queues to one io thread.
pub(crate) struct ShardInbox {
    pub(crate) messages: Consumer<ShardMessage>,
    /// The answers, each with the token of its question.
    pub(crate) answers: Consumer<(u64, ShardAnswer)>,
}

/// The link of one io thread to another one, or to itself.
pub(crate) struct ShardLink {
    post: ShardPost,
    /// The notices for which the other thread's inbox had no room, the oldest first. Their number is bounded:
    /// a key leads to at most two notices, and an exceeded store budget to one. While a notice is owed, this
    /// thread claims no further key at the other thread.
    owed: RefCell<VecDeque<ShardNotice>>,
}

/// A message of an io thread to another one.
pub(crate) enum ShardMessage {
    Ask {
        from: ShardId,
        token: u64,
        question: Box<Question>,
    },
    Notice(ShardNotice),
}

/// A question to the owner of an execution or a key.
pub(crate) enum Question {
    Execution {
        id: ExecutionId,
        about: About,
    },
    /// A repeat of a keyed call asks for the result of the call that has the key.
    Join {
        id: ExecutionId,
        waiter: JoinWaiter,
    },
    Claim {
        key: IdempotencyKey,
        body: [u8; 32],
        id: ExecutionId,
    },
}

/// The owner's answer to a question.
pub(crate) enum ShardAnswer {
    Response(Box<Response>),
    NotJoined(NotJoined),
    Claim(Claim),
}

/// A notice to the owner of an execution or a key.
pub(crate) enum ShardNotice {
    Key(KeyNotice),
    /// The store's budget is exceeded, and the receiver has the oldest finished execution.
    StoreFull,
}

/// A notice to the owner of a key.
pub(crate) enum KeyNotice {
    /// The execution that claimed the key was admitted.
    Admitted {
        key: Box<IdempotencyKey>,
        id: ExecutionId,
    },
    /// The execution no longer holds the key, because it was refused (`refused` is the reason), never ran, or
    /// is gone.
    Released {
        key: Box<IdempotencyKey>,
        id: ExecutionId,
        refused: Option<Box<HttpError>>,
    },
}

impl ShardPost {
    pub(crate) fn pair(bell: Arc<Doorbell>) -> (Self, ShardInbox) {
        let (messages, messages_in) = channel(MESSAGES_DEPTH);
        let (answers, answers_in) = channel(ANSWERS_DEPTH);
        let inbox = ShardInbox {
            messages: messages_in,
            answers: answers_in,
        };
        (
            Self {
                messages,
                answers,
                bell,
            },
            inbox,
        )
    }
}

impl ShardInbox {
    pub(crate) fn has_mail(&self) -> bool {
        self.messages.is_published() || self.answers.is_published()
    }
}

impl ShardLink {
    pub(crate) fn new(post: ShardPost) -> Self {
        Self {
            post,
            owed: RefCell::default(),
        }
    }

    /// Wakes the thread at the end of this link. A thread may ring its own bell; its inbox is then served
    /// after the loop has polled its I/O.
    pub(crate) fn ring(&self) {
        self.post.bell.ring();
    }

    /// Sends a question; returns false if the inbox is full or is owed a notice. A question must not overtake
    /// an owed notice, because a claim that came before the release of its key would join an execution that
    /// is gone.
    fn ask(&self, from: ShardId, token: u64, question: Question) -> bool {
        let question = Box::new(question);
        let ask = ShardMessage::Ask {
            from,
            token,
            question,
        };
        let sent = self.owed.borrow().is_empty() && self.post.messages.push(ask).is_ok();
        self.ring();
        sent
    }

    pub(crate) fn answer(&self, token: u64, answer: ShardAnswer) {
        let sent = self.post.answers.push((token, answer)).is_ok();
        assert!(sent, "more answers than questions");
        self.ring();
    }

    /// Sends a notice; returns false if the inbox is full. The notice is then owed, and `pay` sends it later.
    fn notify(&self, notice: ShardNotice) -> bool {
        self.owed.borrow_mut().push_back(notice);
        self.pay()
    }

    /// Sends owed notices while there is room; returns false if some are still owed.
    fn pay(&self) -> bool {
        let mut owed = self.owed.borrow_mut();
        while let Some(notice) = owed.pop_front() {
            if let Err(ShardMessage::Notice(back)) =
                self.post.messages.push(ShardMessage::Notice(notice))
            {
                owed.push_front(back);
                break;
            }
        }
        self.ring();
        owed.is_empty()
    }
}

/// Asks another io thread; returns none if the question is refused, or if no answer comes before `until`.
async fn ask(
    thread: &Rc<Links>,
    owner: ShardId,
    question: Question,
    until: Uptime,
) -> Option<ShardAnswer> {
    let token = thread.asked_of_shards.expect()?;
    let shard = thread.shard(owner);
    if !shard.ask(thread.id, token, question) {
        thread.asked_of_shards.forget(token);
        return None;
    }
    let answer = thread.asked_of_shards.wait(token, &thread.alarms, until);
    answer.await.ok()
}

/// Asks an execution's owner; returns none if the question is refused or gets no answer in time.
pub(crate) async fn ask_about(
    thread: &Rc<Links>,
    id: ExecutionId,
    about: About,
) -> Option<Response> {
    let question = Question::Execution { id, about };
    match ask(thread, id.shard(), question, until(thread)).await? {
        ShardAnswer::Response(response) => Some(*response),
        ShardAnswer::NotJoined(_) | ShardAnswer::Claim(_) => None,
    }
}

/// Asks an execution's owner for its answer to a repeat of the call.
pub(crate) async fn join(
    thread: &Rc<Links>,
    id: ExecutionId,
    waiter: JoinWaiter,
) -> Result<Response, NotJoined> {
    let question = Question::Join { id, waiter };
    match ask(thread, id.shard(), question, until(thread)).await {
        Some(ShardAnswer::Response(response)) => Ok(*response),
        Some(ShardAnswer::NotJoined(why)) => Err(why),
        Some(ShardAnswer::Claim(_)) | None => Err(NotJoined::Busy),
    }
}

fn until(thread: &Links) -> Uptime {
    thread.now() + ANSWER_WAIT_MAX
}

/// Claims a key for `id` from the thread that owns the key; returns none if no answer comes before `until`. A
/// caller that gets `Claim::Run` has to report whether its call was admitted, by `admit_key` or `refuse_key`.
pub(crate) async fn claim(
    thread: &Rc<Links>,
    key: &IdempotencyKey,
    body: [u8; 32],
    id: ExecutionId,
    until: Uptime,
) -> Option<Claim> {
    let owner = owner_of(thread, key);
    if owner != thread.id {
        let key = key.clone();
        let question = Question::Claim { key, body, id };
        return match ask(thread, owner, question, until).await? {
            ShardAnswer::Claim(claim) => Some(claim),
            ShardAnswer::Response(_) | ShardAnswer::NotJoined(_) => None,
        };
    }
    let claimed = thread.keys.claim(key, body, id);
    if claimed.is_some() {
        return claimed;
    }
    let token = thread.asked_of_shards.expect()?;
    let asker = Asker {
        thread: thread.id,
        token,
    };
    thread.keys.wait(key, asker);
    match thread
        .asked_of_shards
        .wait(token, &thread.alarms, until)
        .await
        .ok()?
    {
        ShardAnswer::Claim(claim) => Some(claim),
        ShardAnswer::Response(_) | ShardAnswer::NotJoined(_) => None,
    }
}

/// Reports to the key's owner that the execution that claimed the key was admitted.
pub(crate) fn admit_key(thread: &Links, key: &IdempotencyKey, id: ExecutionId) {
    let key = Box::new(key.clone());
    send_to_owner(
        thread,
        owner_of(thread, &key),
        KeyNotice::Admitted { key, id },
    );
}

/// Reports to the key's owner that the execution that claimed the key was refused. The claims that wait for
/// this decision are refused, too.
pub(crate) fn refuse_key(thread: &Links, key: IdempotencyKey, id: ExecutionId, why: &HttpError) {
    let (key, refused) = (Box::new(key), Some(Box::new(why.clone())));
    let owner = owner_of(thread, &key);
    send_to_owner(thread, owner, KeyNotice::Released { key, id, refused });
}

/// Reports to the key's owner that the execution no longer holds the key.
pub(crate) fn release_key(thread: &Links, key: IdempotencyKey, id: ExecutionId) {
    let (key, refused) = (Box::new(key), None);
    let owner = owner_of(thread, &key);
    send_to_owner(thread, owner, KeyNotice::Released { key, id, refused });
}

fn owner_of(thread: &Links, key: &IdempotencyKey) -> ShardId {
    crate::state::idempotency::owner(key, thread.threads)
}

fn send_to_owner(thread: &Links, owner: ShardId, notice: KeyNotice) {
    if owner == thread.id {
        apply(thread, notice);
    } else {
        notify(thread, owner, ShardNotice::Key(notice));
    }
}

/// Asks `owner`, which has the oldest finished execution of the process, to drop that execution.
pub(crate) fn ask_to_drop(thread: &Links, owner: ShardId) {
    notify(thread, owner, ShardNotice::StoreFull);
}

fn notify(thread: &Links, owner: ShardId, notice: ShardNotice) {
    if !thread.shard(owner).notify(notice) {
        thread.owed_alarm.set(thread.recent() + OWED);
    }
}

/// Sends the owed notices. The ticker calls this function, and `owed_alarm` wakes the ticker.
pub(crate) fn pay(thread: &Links) {
    let mut paid = true;
    // The loop goes on after a full inbox, so that notices to other threads are not held up.
    for shard in &thread.shards {
        let owes = !shard.owed.borrow().is_empty();
        paid &= !owes || shard.pay();
    }
    if !paid {
        thread.owed_alarm.set(thread.now() + OWED);
    }
}

/// Applies a notice about a key that this thread owns.
pub(crate) fn apply(thread: &Links, notice: KeyNotice) {
    match notice {
        KeyNotice::Admitted { key, id } => {
            for asker in thread.keys.admit(&key, id) {
                decide(thread, asker, Claim::Join(id));
            }
        }
        KeyNotice::Released { key, id, refused } => {
            // A release without a reason leaves no execution to join, so the waiting claims are refused as if
            // the control plane were busy.
            let why = refused.unwrap_or_else(|| Box::new(HttpError::Busy));
            for asker in thread.keys.release(&key, id) {
                decide(thread, asker, Claim::Refused(why.clone()));
            }
        }
    }
}

/// Answers a claim that waited for a decision about its key.
fn decide(thread: &Links, asker: Asker, claim: Claim) {
    let Asker {
        thread: asking,
        token,
    } = asker;
    if asking == thread.id {
        take_answer(thread, token, ShardAnswer::Claim(claim));
    } else {
        thread
            .shard(asking)
            .answer(token, ShardAnswer::Claim(claim));
    }
}

/// Delivers the answer to a question that this thread asked.
pub(crate) fn take_answer(thread: &Links, token: u64, answer: ShardAnswer) {
    if let Err(ShardAnswer::Claim(Claim::Run { key, id })) =
        thread.asked_of_shards.answer(token, answer)
    {
        // The claim succeeded, but its call does not wait for it any more, for example because the call's
        // deadline has passed. The key is released, because no call will run under it.
        refuse_key(thread, *key, id, &HttpError::Busy);
    }
}
