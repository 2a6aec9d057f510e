//! Spinning after recent activity, for `--io-spin-us`: the thread looks at its I/O and its rings
//! again and again before it parks. Off unless asked for. Two tasks wake each other in turn, since
//! one that wakes itself would go to the front of the run queue and starve all others.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::inbox::Inbox;
use crate::thread::Thread;

/// Until when a thread spins.
#[derive(Default)]
pub(crate) struct Spin {
    until_ns: Cell<u64>,
    spinning: Cell<bool>,
    wakers: [RefCell<Option<Waker>>; 2],
}

impl Thread {
    /// Something happened: the thread may spin for a while from now on.
    pub(crate) fn active(&self, now_ns: u64) {
        let spin_ns = u64::from(self.config.spin_us) * 1000;
        if spin_ns == 0 {
            return;
        }
        self.spin.until_ns.set(now_ns + spin_ns);
        if !self.spin.spinning.get() {
            wake(&self.spin.wakers[0]);
        }
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = &*waker.borrow() {
        waker.wake_by_ref();
    }
}

/// Starts the two tasks.
pub(crate) fn start(thread: &Rc<Thread>, inbox: &Rc<RefCell<Inbox>>) {
    for side in 0..2 {
        monoio::spawn(run(thread.clone(), inbox.clone(), side));
    }
}

async fn run(thread: Rc<Thread>, inbox: Rc<RefCell<Inbox>>, side: usize) {
    std::future::poll_fn(|cx| {
        let spin = &thread.spin;
        let mut own = spin.wakers[side].borrow_mut();
        if !own
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *own = Some(cx.waker().clone());
        }
        drop(own);
        let now_ns = thread.now_ns();
        if now_ns < spin.until_ns.get() {
            if !spin.spinning.replace(true) {
                // Whoever publishes now need not ring: this thread looks.
                inbox.borrow().rings.bell.awake();
            }
            pass(&thread, &inbox, now_ns);
            wake(&spin.wakers[1 - side]);
        } else if spin.spinning.replace(false) {
            let bell = inbox.borrow().rings.bell.clone();
            if !bell.sleep(|| inbox.borrow().has_mail()) {
                let _announced = bell.sleep(|| false);
                bell.ring();
            }
        }
        Poll::<()>::Pending
    })
    .await;
}

fn pass(thread: &Rc<Thread>, inbox: &Rc<RefCell<Inbox>>, now_ns: u64) {
    thread.alarms.advance(now_ns);
    let has_mail = inbox.borrow().has_mail();
    if has_mail {
        crate::inbox::pump(thread, inbox);
        thread.tick(now_ns);
    }
}
