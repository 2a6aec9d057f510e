//! The event loop on io_uring: monoio's runtime, executor and operations. No code above `net` uses a type of
//! monoio. A task has to yield through an operation (`yield_now`). If the task woke itself instead, monoio
//! would run it next, again and again, and poll no socket.

mod ends;
mod stream;
mod watch;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Waker;

use io_uring::IoUring;
use monoio::net::{TcpStream, UnixStream};
use monoio::{IoUringDriver, Runtime, RuntimeBuilder};

use super::{RingSetup, keep};
use crate::runtime::buffers::Buffers;
use ends::Ends;
pub(crate) use stream::Stream;
pub(crate) use watch::Watch;

pub(crate) struct Uring {
    /// None while the loop runs.
    runtime: RefCell<Option<Runtime<IoUringDriver>>>,
    buffers: Rc<Buffers>,
    /// A socket that is always readable, because its byte is never taken; `yield_now` polls it.
    ready: RefCell<Option<Rc<UnixStream>>>,
    _ready_writer: StdStream,
    entries: u32,
    /// Whether `DEFER_TASKRUN` is on, so that completions are made only when the loop waits for them.
    is_deferred: bool,
    /// The number of iterations that ended with a submission of the ring to the kernel.
    iteration: Cell<u64>,
    /// The number of operations that were pushed to the ring in this iteration.
    pushed: Cell<u32>,
    /// The waker of the future that monoio blocks on. If this future was woken, monoio polls the future after
    /// all tasks, and submits the ring afterwards.
    end_of_iteration: RefCell<Option<Waker>>,
    ends: Ends,
    /// The number of sockets with bytes that the peer has not taken yet; a held message does not count.
    behind: Cell<usize>,
    /// The streams with a message that is sent at the end of the iteration.
    held: RefCell<Vec<Rc<stream::StreamShared>>>,
}

fn build(setup: RingSetup) -> io::Result<Runtime<IoUringDriver>> {
    let builder = RuntimeBuilder::<IoUringDriver>::new().with_entries(setup.entries);
    let mut options = IoUring::builder();
    if setup.deferred {
        // The kernel takes `DEFER_TASKRUN` only with `SINGLE_ISSUER`.
        options.setup_single_issuer().setup_defer_taskrun();
    } else {
        options.setup_coop_taskrun();
    }
    builder.uring_builder(options).build()
}

impl Uring {
    pub(super) fn new(setup: RingSetup, buffers: Rc<Buffers>) -> io::Result<Rc<Self>> {
        let runtime = build(setup)?;
        let (ready, mut writer) = StdStream::pair()?;
        io::Write::write_all(&mut writer, &[1])?;
        Ok(Rc::new(Self {
            runtime: RefCell::new(Some(runtime)),
            buffers,
            ready: RefCell::new(Some(Rc::new(UnixStream::from_std(ready)?))),
            _ready_writer: writer,
            entries: setup.entries,
            is_deferred: setup.deferred,
            iteration: Cell::new(0),
            pushed: Cell::new(0),
            end_of_iteration: RefCell::new(None),
            ends: Ends::default(),
            behind: Cell::new(0),
            held: RefCell::default(),
        }))
    }

    // monoio spawns on the thread's current runtime, so `self` is unused. `Epoll::spawn` has the same
    // signature and uses it.
    #[expect(clippy::unused_self)]
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        monoio::spawn(task);
    }

    pub(super) fn run(self: &Rc<Self>, life: impl Future<Output = ()> + 'static) {
        let mut runtime = self.runtime.take().expect("a loop runs once at a time");
        let own = self.clone();
        runtime.block_on(async move {
            // `life` is spawned as a task, because the waker of a task stops the process if another thread
            // uses it. The waker of `block_on` does not detect such a use.
            let mut life = monoio::spawn(life);
            poll_fn(|cx| {
                keep(&mut own.end_of_iteration.borrow_mut(), cx);
                // Held messages are sent now, because monoio submits the ring next, and may wait.
                own.release();
                own.iteration.set(own.iteration.get() + 1);
                own.pushed.set(0);
                Pin::new(&mut life).poll(cx)
            })
            .await;
            // The socket is dropped here, because its close is an operation, which needs the runtime.
            own.ready.take();
        });
        self.runtime.replace(Some(runtime));
    }

    pub(super) async fn yield_now(&self) {
        let ready = self.ready.borrow().clone();
        if let Some(ready) = ready {
            self.push(1);
            // The operation fails only when the loop ends.
            let _ = ready.readable(true).await;
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.behind.get() == 0 && self.held.borrow().is_empty()
    }

    /// Notes a stream that holds a message until the end of the iteration.
    fn hold(&self, stream: &Rc<stream::StreamShared>) {
        self.held.borrow_mut().push(stream.clone());
        self.wake_at_end();
    }

    fn release(&self) {
        let mut held = self.held.take();
        held.drain(..).for_each(|stream| stream.release());
        // The empty vector is put back, so that its capacity is used again.
        self.held.replace(held);
    }

    fn wake_at_end(&self) {
        if let Some(waker) = &*self.end_of_iteration.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Counts operations that are pushed to the ring. Returns the number of the present iteration.
    fn push(&self, count: u32) -> u64 {
        // The first operation of an iteration wakes the future that counts the iteration at its end.
        if self.pushed.replace(self.pushed.get() + count) == 0 {
            self.wake_at_end();
        }
        self.iteration.get()
    }

    /// Returns whether the operations of `iteration` were submitted, and the completions that they made at
    /// once were processed.
    fn was_handed_over(&self, iteration: u64) -> bool {
        iteration < self.iteration.get()
    }

    /// Returns whether the ring may have been submitted in the middle of this iteration, because it was full.
    fn may_have_been_full(&self) -> bool {
        self.pushed.get() >= self.entries
    }
}

pub(super) async fn connect_tcp(uring: &Rc<Uring>, address: SocketAddr) -> io::Result<Stream> {
    // A connect makes at most three operations: itself, its cancellation, and the close of the descriptor.
    uring.push(3);
    let stream = TcpStream::connect_addr(address).await?;
    stream.set_nodelay(true)?;
    Ok(Stream::tcp(uring, stream))
}
