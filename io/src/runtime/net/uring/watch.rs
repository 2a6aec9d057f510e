//! Readiness on io_uring: at most one poll of the descriptor is in flight, made by one future that lives as
//! long as the watch.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use monoio::net::UnixStream;

use super::Uring;

pub(crate) struct Watch {
    uring: Rc<Uring>,
    readable: Rc<Cell<bool>>,
    watcher: RefCell<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Watch {
    /// Takes a descriptor of any kind. It is wrapped in monoio's `UnixStream`, which holds a descriptor and
    /// nothing else.
    pub(in crate::runtime::net) fn new(uring: &Rc<Uring>, fd: OwnedFd) -> io::Result<Self> {
        let stream = UnixStream::from_std(StdStream::from(fd))?;
        let readable = Rc::new(Cell::new(false));
        let watcher = Box::pin(watch(uring.clone(), stream, readable.clone()));
        Ok(Self {
            uring: uring.clone(),
            readable,
            watcher: RefCell::new(watcher),
        })
    }

    pub(in crate::runtime::net) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        let cx = &mut Context::from_waker(cx.waker());
        let _goes_on = self.watcher.borrow_mut().as_mut().poll(cx);
        if self.readable.take() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The poll is cancelled, and the descriptor is closed, by an operation each.
        self.uring.push(2);
    }
}

/// Polls again and again; the next poll is made when the last result was taken.
async fn watch(uring: Rc<Uring>, stream: UnixStream, readable: Rc<Cell<bool>>) {
    loop {
        uring.push(1);
        // After an error the descriptor counts as readable, so that the caller's own read reports it.
        let _ = stream.readable(true).await;
        readable.set(true);
        poll_fn(|_| {
            if readable.get() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }
}
