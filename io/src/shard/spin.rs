//! Lets an io thread spin after activity (`--io-spin-us`): the thread polls its I/O and its rings for a while
//! before it parks. Spinning is off by default. The spinning task yields in each round, because the loop
//! polls its I/O before it polls a task that has yielded.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use nanofaas_core::time::Uptime;

use crate::links::{Inbox, Links};
use crate::shard::inbox::pump;

/// Runs as long as the thread lives.
pub(crate) async fn run(thread: Rc<Links>, inbox: Rc<RefCell<Inbox>>) {
    let spin = &thread.spin;
    loop {
        poll_fn(|cx| {
            spin.waker.replace(Some(cx.waker().clone()));
            if thread.now() < spin.until.get() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        spin.spinning.set(true);
        // Other threads need not ring the bell when they publish, because this thread polls its rings now.
        inbox.borrow().rings.bell.awake();
        loop {
            let now = thread.now();
            if now >= spin.until.get() {
                break;
            }
            iterate(&thread, &inbox, now);
            thread.event_loop.yield_now().await;
        }
        spin.spinning.set(false);
        let bell = inbox.borrow().rings.bell.clone();
        // If a message came before the sleep was announced, its sender has rung no bell. The thread then
        // rings its own bell.
        if !bell.sleep(|| inbox.borrow().has_mail()) {
            let _announced = bell.sleep(|| false);
            bell.ring();
        }
    }
}

fn iterate(thread: &Rc<Links>, inbox: &Rc<RefCell<Inbox>>, now: Uptime) {
    thread.alarms.advance(now);
    let has_mail = inbox.borrow().has_mail();
    if has_mail || thread.turn_left.get() {
        pump(thread, inbox);
        thread.tick(now);
    }
}
