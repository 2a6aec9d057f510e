//! Checks whether io_uring can be used: makes a loop that connects, accepts and echoes once, and then drops
//! the loop. A set-up that succeeds does not suffice, because a sandbox may allow it and refuse
//! `io_uring_enter`, which monoio does not report. Each io thread runs this check before each io_uring driver
//! that `start` tries.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::{EventLoop, Listener, RingSetup, Socket, connect_tcp};
use crate::runtime::buffers::{Buffers, SMALL};

/// The time limit of the check, which takes less even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);
const WORD: &[u8] = b"echo";

pub(super) fn probe() -> io::Result<()> {
    let setup = RingSetup {
        entries: 256,
        deferred: false,
    };
    let event_loop = EventLoop::uring(setup, Rc::new(Buffers::default()))?;
    let outcome = Rc::new(RefCell::new(Ok(())));
    let (own, found) = (event_loop.clone(), outcome.clone());
    event_loop.run(async move {
        let echoed = awake(&own, echo(&own)).await;
        *found.borrow_mut() = echoed;
    });
    outcome.replace(Ok(()))
}

/// Runs `work` on a loop that does not sleep, because a loop that sleeps would not wake up if the kernel
/// refuses `io_uring_enter`. This task and a second task keep waking each other, and while a task is ready,
/// monoio enters the kernel without waiting.
#[expect(clippy::disallowed_methods, reason = "there is no clock yet")]
async fn awake<T>(
    event_loop: &EventLoop,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let over = Rc::new(Cell::new(false));
    let wakers: Rc<[RefCell<Option<Waker>>; 2]> = Rc::default();
    let (ended, partners) = (over.clone(), wakers.clone());
    event_loop.spawn(poll_fn(move |cx| {
        partners[1].replace(Some(cx.waker().clone()));
        wake(&partners[0]);
        if ended.get() {
            return Poll::Ready(());
        }
        Poll::Pending
    }));
    let began = Instant::now();
    let mut work = pin!(work);
    let done = poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        if began.elapsed() > PATIENCE {
            let why = "the kernel set up a ring and completes nothing on it";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        wakers[0].replace(Some(cx.waker().clone()));
        wake(&wakers[1]);
        Poll::Pending
    })
    .await;
    over.set(true);
    wake(&wakers[1]);
    done
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

async fn echo(event_loop: &Rc<EventLoop>) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = Listener::new(event_loop, listener)?;
    let early = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
    assert!(early.is_pending(), "the address is new");
    let client = connect_tcp(event_loop, address).await?;
    let served = poll_fn(|cx| listener.poll_accept(cx)).await?.socket;
    say(&client, &served).await?;
    say(&served, &client).await
}

async fn say(from: &Socket, to: &Socket) -> io::Result<()> {
    from.post(WORD.to_vec());
    let came = poll_fn(|cx| to.poll_recv(SMALL, cx)).await?;
    if came == WORD {
        Ok(())
    } else {
        Err(io::Error::other(
            "a receive brought other bytes than were sent",
        ))
    }
}
