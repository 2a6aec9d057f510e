//! Takes the messages that other threads send to this one: messages of the bridge, grants of a pinned
//! scheduler, and questions, answers and notices of other io threads. It sleeps only by the doorbell's
//! protocol.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use crate::links::bridge::{BATCH_MAX, take_messages};
use crate::links::{Inbox, Links, shards};
use crate::runtime::buffers::SMALL;
use crate::runtime::net::Socket;
use crate::shard::questions;

/// Serves the inbox as long as the thread lives.
pub(crate) async fn run(thread: Rc<Links>, inbox: Rc<RefCell<Inbox>>, bell: Socket) {
    let doorbell = inbox.borrow().rings.bell.clone();
    loop {
        let now = thread.now();
        thread.ledger().beat.beat(now);
        thread.alarms.advance(now);
        pump(&thread, &inbox);
        thread.tick(now);
        make_room(&thread);
        let is_wanted = || {
            let has_mail = inbox.borrow().has_mail();
            has_mail
                || thread.turn_left.get()
                || thread.ledger().beat.is_owed()
                || thread.account.is_wanted()
                || thread.readers.is_wanted(&thread)
        };
        // If work is left, the thread rings its own bell. The read of the bell is then an I/O completion, so
        // the other tasks are polled before the work goes on.
        if !doorbell.sleep(is_wanted) {
            let _announced = doorbell.sleep(|| false);
            doorbell.ring();
        }
        let rung = poll_fn(|cx| bell.poll_recv(SMALL, cx)).await;
        doorbell.awake();
        let bytes = rung.unwrap_or_default();
        assert!(!bytes.is_empty(), "an io thread lost its bell");
        thread.buffers.give(bytes);
    }
}

/// Wakes the tasks that waited for memory and can have it. Frees what this thread can: a descriptor for
/// another thread, and memory for the tasks that still wait.
fn make_room(thread: &Links) {
    thread.account.wake();
    thread.grant_descriptor();
    if thread.account.is_short() {
        thread.account.give_back_spare();
        thread.readers.plan(thread);
    }
}

/// Takes messages from the rings. The bridge's messages are taken before grants, because a grant may name a
/// pod that a message introduces.
pub(crate) fn pump(thread: &Rc<Links>, inbox: &RefCell<Inbox>) {
    take_messages(thread);
    for _ in 0..BATCH_MAX {
        let Some(grant) = inbox.borrow_mut().rings.grants.pop() else {
            break;
        };
        thread.take_grant(grant);
    }
    for _ in 0..BATCH_MAX {
        let Some(message) = inbox.borrow_mut().shards.messages.pop() else {
            break;
        };
        questions::take(thread, message);
    }
    for _ in 0..BATCH_MAX {
        let Some((token, answer)) = inbox.borrow_mut().shards.answers.pop() else {
            break;
        };
        shards::take_answer(thread, token, answer);
    }
}
