//! The tasks of a reactor, and which of them are to run. A waker is the number of a task and nothing
//! else: it costs nothing to clone or to drop, and one that comes late wakes whoever has the number now,
//! who looks and finds nothing. It never crosses threads: a waker that does stops the process.
#![allow(unsafe_code)] // Wakers that count no references cannot be made without it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Tells the reactors of a process apart, so that no task of another one is woken.
static REACTORS: AtomicU32 = AtomicU32::new(1);

thread_local! {
    static READY: RefCell<Ready> = const {
        RefCell::new(Ready {
            reactor: 0,
            queue: VecDeque::new(),
            queued: Vec::new(),
        })
    };
}

/// The tasks that are to run, each once.
struct Ready {
    reactor: u32,
    queue: VecDeque<u32>,
    queued: Vec<bool>,
}

/// All tasks of a reactor.
pub(super) struct Tasks {
    reactor: u32,
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    /// None while it runs, and where it has ended.
    tasks: Vec<Option<Task>>,
    free: Vec<u32>,
}

impl Tasks {
    /// For this thread, which has one reactor at a time.
    pub(super) fn new() -> Self {
        let reactor = REACTORS.fetch_add(1, Ordering::Relaxed);
        READY.with_borrow_mut(|ready| {
            *ready = Ready {
                reactor,
                queue: VecDeque::new(),
                queued: Vec::new(),
            };
        });
        Self {
            reactor,
            slots: RefCell::default(),
        }
    }

    pub(super) fn spawn(&self, task: Task) {
        let index = {
            let Slots { tasks, free } = &mut *self.slots.borrow_mut();
            if let Some(index) = free.pop() {
                tasks[index as usize] = Some(task);
                index
            } else {
                tasks.push(Some(task));
                u32::try_from(tasks.len() - 1).expect("fewer tasks than 2^32")
            }
        };
        wake(self.reactor, index);
    }

    /// How many are to run.
    pub(super) fn ready(&self) -> usize {
        READY.with_borrow(|ready| ready.queue.len())
    }

    /// How many places there are, taken or free.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.slots.borrow().tasks.len()
    }

    /// The next that is to run.
    pub(super) fn next(&self) -> Option<u32> {
        READY.with_borrow_mut(|ready| {
            let index = ready.queue.pop_front()?;
            ready.queued[index as usize] = false;
            Some(index)
        })
    }

    pub(super) fn run(&self, index: u32) {
        // Out of its place meanwhile: it may start others.
        let Some(mut task) = self.slots.borrow_mut().tasks[index as usize].take() else {
            return;
        };
        let waker = waker(self.reactor, index);
        let over = task
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        if over {
            // What it held may wake others, or start them.
            drop(task);
            self.slots.borrow_mut().free.push(index);
        } else {
            self.slots.borrow_mut().tasks[index as usize] = Some(task);
        }
    }
}

fn wake(reactor: u32, index: u32) {
    // A thread that ends runs no task any more.
    let _ending = READY.try_with(|ready| {
        let ready = &mut *ready.borrow_mut();
        assert_eq!(
            ready.reactor, reactor,
            "a task is woken by its own thread alone"
        );
        let at = index as usize;
        if ready.queued.len() <= at {
            ready.queued.resize(at + 1, false);
        }
        if !std::mem::replace(&mut ready.queued[at], true) {
            ready.queue.push_back(index);
        }
    });
}

const _: () = assert!(
    size_of::<*const ()>() == 8,
    "a waker holds two numbers of 32 bits"
);

// One place for all: wakers are told apart by it, too.
static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake_data, wake_data, nothing);

fn clone(data: *const ()) -> RawWaker {
    RawWaker::new(data, &VTABLE)
}

fn wake_data(data: *const ()) {
    let number = data.addr();
    wake((number >> 32) as u32, number as u32);
}

const fn nothing(_data: *const ()) {}

fn waker(reactor: u32, index: u32) -> Waker {
    let number = (reactor as usize) << 32 | index as usize;
    let raw = RawWaker::new(ptr::without_provenance(number), &VTABLE);
    // SAFETY: the data is a number that nobody follows as a pointer, so there is nothing to own, to
    // free or to race for; `wake` touches what belongs to the thread that calls it.
    unsafe { Waker::from_raw(raw) }
}
