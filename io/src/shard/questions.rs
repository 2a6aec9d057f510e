//! Answers questions of other io threads about the executions and keys of this thread. It decides nothing
//! about them; `idempotency`, `api::executions` and `join` do.

use std::rc::Rc;

use nanofaas_core::shard::ShardId;

use crate::api::executions;
use crate::invoke::{join, stored};
use crate::links::Links;
use crate::links::shards::{self, Question, ShardAnswer, ShardMessage, ShardNotice};
use crate::state::idempotency::Asker;

pub(crate) fn take(thread: &Rc<Links>, message: ShardMessage) {
    match message {
        ShardMessage::Ask {
            from,
            token,
            question,
        } => take_question(thread, from, token, *question),
        ShardMessage::Notice(ShardNotice::Key(notice)) => shards::apply(thread, notice),
        ShardMessage::Notice(ShardNotice::StoreFull) => stored::drop_oldest(thread),
    }
}

fn take_question(thread: &Rc<Links>, from: ShardId, token: u64, question: Question) {
    let answering = thread.clone();
    match question {
        Question::Claim { key, body, id } => match thread.keys.claim(&key, body, id) {
            Some(claim) => thread.shard(from).answer(token, ShardAnswer::Claim(claim)),
            None => thread.keys.wait(
                &key,
                Asker {
                    thread: from,
                    token,
                },
            ),
        },
        Question::Execution { id, about } => thread.event_loop.spawn(async move {
            let response = executions::answer(&answering, id, about).await;
            answering
                .shard(from)
                .answer(token, ShardAnswer::Response(Box::new(response)));
        }),
        Question::Join { id, waiter } => thread.event_loop.spawn(async move {
            let answer = match join::join(&answering, id, &waiter).await {
                Ok(response) => ShardAnswer::Response(Box::new(response)),
                Err(why) => ShardAnswer::NotJoined(why),
            };
            answering.shard(from).answer(token, answer);
        }),
    }
}
