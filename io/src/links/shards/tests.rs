//! Tests of messages between io threads that come late, find a full inbox, or cross each other.

use std::task::Poll;

use nanofaas_core::time::{Nanos, Uptime};

use super::*;
use crate::links::questions::ClientQuestion;
use crate::shard::fleet::{Fleet, exchange, settle, status, with_fleet};

/// The questions have a token for which no task waits, so their answers have no effect.
fn fill_inbox(fleet: &Fleet, from: usize, to: usize) {
    let id = fleet.threads[to].new_id();
    let asking = &fleet.threads[from];
    for _ in 0..=MESSAGES_DEPTH {
        let question = Question::Execution {
            id,
            about: About::OfClient(ClientQuestion::Output),
        };
        let question = Box::new(question);
        let ask = ShardMessage::Ask {
            from: asking.id,
            token: u64::MAX,
            question,
        };
        let _full = asking.shards[to].post.messages.push(ask);
    }
}

fn drop_messages(fleet: &Fleet, index: usize) {
    let mut inbox = fleet.inboxes[index].borrow_mut();
    while inbox.shards.messages.pop().is_some() {}
}

#[test]
fn waiters_of_a_refused_key_are_refused_everywhere() {
    with_fleet(4, async |fleet: Rc<Fleet>| {
        fleet.fill_queue();
        let key = fleet.key_of(1);
        let first = fleet.invoke(0, &key);
        settle().await;
        fleet.take(1);
        // The first call's claim has succeeded, but its thread has not read the answer yet. Three more calls
        // now claim the same key: on this thread, on the key's thread, and on a third one.
        let waiters = [0, 1, 2].map(|index| fleet.invoke(index, &key));
        settle().await;
        fleet.take(1);
        exchange(&fleet).await;
        assert_eq!(status(&first), "429");
        for waiter in &waiters {
            assert_eq!(status(waiter), "429", "{}", waiter.borrow());
        }
    });
}

#[test]
fn a_release_survives_a_full_inbox() {
    with_fleet(3, async |fleet: Rc<Fleet>| {
        let key: IdempotencyKey = (crate::shard::fleet::LANE, fleet.key_of(1).as_bytes().into());
        let keys = &fleet.threads[1].keys;
        let id = fleet.threads[0].new_id();
        assert!(matches!(
            keys.claim(&key, [0; 32], id),
            Some(Claim::Run { .. })
        ));
        fill_inbox(&fleet, 2, 1);
        admit_key(&fleet.threads[0], &key, id);
        release_key(&fleet.threads[0], key.clone(), id);
        pay(&fleet.threads[0]);
        // This call's claim must not overtake the owed notices.
        let late = fleet.invoke(0, &fleet.key_of(1));
        settle().await;
        assert_eq!(status(&late), "503");
        drop_messages(&fleet, 1);
        pay(&fleet.threads[0]);
        fleet.take(1);
        let other = fleet.threads[2].new_id();
        assert!(matches!(
            keys.claim(&key, [0; 32], other),
            Some(Claim::Run { .. })
        ));
    });
}

#[test]
fn an_answer_has_room_in_a_full_inbox() {
    with_fleet(3, async |fleet: Rc<Fleet>| {
        fleet.fill_queue();
        let first = fleet.invoke(0, &fleet.key_of(1));
        settle().await;
        fill_inbox(&fleet, 2, 0);
        fleet.take(1);
        drop_messages(&fleet, 0);
        exchange(&fleet).await;
        assert_eq!(status(&first), "429");
    });
}

#[test]
fn a_claim_answered_too_late_holds_no_key() {
    with_fleet(3, async |fleet: Rc<Fleet>| {
        let key: IdempotencyKey = (crate::shard::fleet::LANE, fleet.key_of(1).as_bytes().into());
        let thread = &fleet.threads[0];
        let (id, until) = (thread.new_id(), thread.now() + Nanos::SECOND);
        let claimed = claim(thread, &key, [0; 32], id, until);
        let mut claimed = std::pin::pin!(claimed);
        std::future::poll_fn(|cx| {
            assert!(claimed.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        thread.alarms.advance(until);
        assert!(claimed.await.is_none());
        exchange(&fleet).await;
        let other = fleet.threads[2].new_id();
        let claimed = fleet.threads[1].keys.claim(&key, [0; 32], other);
        assert!(matches!(claimed, Some(Claim::Run { .. })), "{claimed:?}");
    });
}

#[test]
fn an_abandoned_question_keeps_its_place() {
    let asked_of_bridge = crate::links::pending_requests::PendingRequests::certain();
    let alarms = crate::runtime::timers::Alarms::new(Uptime::ZERO);
    let waits = || {
        let token = asked_of_bridge.expect()?;
        let mut waiting = Box::pin(asked_of_bridge.wait(token, &alarms, Uptime::from_ns(1)));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        Some(token)
    };
    let tokens: Vec<u64> = std::iter::from_fn(waits).collect();
    assert_eq!(tokens.len(), nanofaas_core::limits::QUESTIONS_MAX);
    assert_eq!(asked_of_bridge.answer(tokens[0], "late"), Err("late"));
    assert!(waits().is_some() && waits().is_none());
}
