//! What keeps an io thread's deadlines when nothing else happens: it sleeps until the next one, at
//! most a second, and shows that the thread lives.

use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use crate::thread::Thread;

const BEAT_NS: u64 = 1_000_000_000;

/// Runs for ever.
pub(crate) async fn run(thread: Rc<Thread>) {
    let mut swept_ns = 0;
    loop {
        let now_ns = thread.now_ns();
        thread.ledger().beat_ns.store(now_ns, Ordering::Relaxed);
        thread.alarms.advance(now_ns);
        thread.tick(now_ns);
        if now_ns >= swept_ns + BEAT_NS {
            swept_ns = now_ns;
            thread.pods.sweep(now_ns);
            crate::invoke::expire(&thread, now_ns);
        }
        let mut planned_ns = None;
        let mut sleep = None;
        let mut pinned = pin!(std::future::poll_fn(|cx| {
            let latest_ns = now_ns + BEAT_NS;
            let until_ns = match planned_ns {
                Some(until_ns) if thread.alarms.plan_is_late(until_ns) => return Poll::Ready(()),
                Some(until_ns) => until_ns,
                None => thread.alarms.plan(latest_ns, cx.waker()),
            };
            planned_ns = Some(until_ns);
            let nap = sleep.get_or_insert_with(|| {
                let left_ns = until_ns.saturating_sub(thread.now_ns());
                Box::pin(monoio::time::sleep(Duration::from_nanos(left_ns)))
            });
            nap.as_mut().poll(cx)
        }));
        pinned.as_mut().await;
    }
}
