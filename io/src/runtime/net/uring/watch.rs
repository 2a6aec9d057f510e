//! Reports when a descriptor becomes readable, on io_uring. At most one poll of the descriptor is in flight.
//! The future that makes the polls lives as long as the watch.

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
    /// Makes a watch of a descriptor of any kind. monoio's `UnixStream` can wrap it, because a `UnixStream`
    /// only holds its descriptor.
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
        // Two operations follow: one cancels the poll, and one closes the descriptor.
        self.uring.push(2);
    }
}

/// Polls again and again. The next poll is made only after the result of the last one was taken.
async fn watch(uring: Rc<Uring>, stream: UnixStream, readable: Rc<Cell<bool>>) {
    loop {
        uring.push(1);
        // After an error the descriptor counts as readable, so that the caller's own read reports the error.
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
