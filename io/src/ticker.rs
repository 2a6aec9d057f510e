//! What keeps an io thread's deadlines when nothing else happens: it sleeps until the next one, at
//! most a second, and shows that the thread lives.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::runtime::net::Timer;
use crate::thread::Thread;

const BEAT_NS: u64 = 1_000_000_000;

/// Runs for ever.
pub(crate) async fn run(thread: Rc<Thread>) {
    let timer = Timer::new(&thread.event_loop).expect("the system has timers");
    let mut swept_ns = 0;
    loop {
        let now_ns = thread.now_ns();
        thread.ledger().beat_ns.store(now_ns, Ordering::Relaxed);
        thread.alarms.advance(now_ns);
        thread.tick(now_ns);
        crate::peer::pay(&thread);
        if now_ns >= swept_ns + BEAT_NS {
            swept_ns = now_ns;
            thread.pods.sweep(now_ns);
            crate::kept::expire(&thread, now_ns);
        }
        let plan = |cx: &mut Context<'_>| {
            let until_ns = thread.alarms.plan(now_ns + BEAT_NS, cx.waker());
            Poll::Ready(until_ns)
        };
        let until_ns = poll_fn(plan).await;
        let left_ns = until_ns.saturating_sub(thread.now_ns());
        timer.set(Duration::from_nanos(left_ns));
        poll_fn(|cx| {
            if thread.alarms.plan_is_late(until_ns) {
                return Poll::Ready(());
            }
            timer.poll(cx)
        })
        .await;
    }
}
