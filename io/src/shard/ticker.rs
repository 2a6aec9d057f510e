//! Wakes an io thread at its next deadline, if no other event wakes the thread. The ticker's task sleeps
//! until that deadline, or without limit if there is none.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::links::{Links, bridge, shards};
use crate::runtime::net::Timer;
use crate::shard::upkeep;

/// Runs as long as the thread lives.
pub(crate) async fn run(thread: Rc<Links>) {
    let timer = Timer::new(&thread.event_loop).expect("the system has timers");
    loop {
        let now = thread.now();
        thread.alarms.advance(now);
        thread.tick(now);
        shards::pay(&thread);
        thread.pay_events();
        bridge::pay(&thread);
        upkeep::run(&thread, now);
        let plan = |cx: &mut Context<'_>| Poll::Ready(thread.alarms.plan(cx.waker()));
        let until = poll_fn(plan).await;
        match until {
            Some(until) => {
                let left = until.since(thread.now());
                timer.set(left.into());
            }
            None => timer.unset(),
        }
        poll_fn(|cx| {
            // An alarm that was set after the plan may be due earlier.
            if thread.alarms.is_late(until) {
                return Poll::Ready(());
            }
            timer.poll(cx)
        })
        .await;
    }
}
