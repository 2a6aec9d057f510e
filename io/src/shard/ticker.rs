//! What keeps an io thread's deadlines when nothing else happens: it sleeps until the next one, for ever
//! where there is none.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::runtime::net::Timer;
use crate::shard::thread::Thread;

/// Runs for ever.
pub(crate) async fn run(thread: Rc<Thread>) {
    let timer = Timer::new(&thread.event_loop).expect("the system has timers");
    loop {
        let now_ns = thread.now_ns();
        thread.alarms.advance(now_ns);
        thread.tick(now_ns);
        crate::links::shards::pay(&thread);
        crate::shard::upkeep::run(&thread, now_ns);
        let plan = |cx: &mut Context<'_>| Poll::Ready(thread.alarms.plan(cx.waker()));
        let until_ns = poll_fn(plan).await;
        match until_ns {
            Some(until_ns) => {
                let left_ns = until_ns.saturating_sub(thread.now_ns());
                timer.set(Duration::from_nanos(left_ns));
            }
            None => timer.unset(),
        }
        poll_fn(|cx| {
            if thread.alarms.is_late(until_ns) {
                return Poll::Ready(());
            }
            timer.poll(cx)
        })
        .await;
    }
}
