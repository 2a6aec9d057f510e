//! The executor of the epoll loop: its tasks, and which of them have to run. A waker names a task by its
//! number. If that task has ended, the waker wakes the task that has the number now, which is then polled
//! without need. A waker that is used on another thread stops the process.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Wake, Waker};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Numbers the loops of a process, so that a waker cannot wake a task of another loop.
static LOOPS: AtomicU32 = AtomicU32::new(1);

thread_local! {
    static READY: RefCell<Ready> = const {
        RefCell::new(Ready {
            of_loop: 0,
            queue: VecDeque::new(),
            queued: Vec::new(),
        })
    };
}

/// The tasks that have to run. Each is in the queue at most once.
struct Ready {
    of_loop: u32,
    queue: VecDeque<u32>,
    queued: Vec<bool>,
}

pub(super) struct Tasks {
    of_loop: u32,
    slots: RefCell<TaskSlots>,
}

#[derive(Default)]
struct TaskSlots {
    slots: Vec<TaskSlot>,
    free: Vec<u32>,
}

struct TaskSlot {
    /// None while the task runs, and after it has ended.
    task: Option<Task>,
    /// The waker of this place, which the tasks in the place use one after the other; none while a task runs.
    waker: Option<Waker>,
}

impl Tasks {
    /// Makes the executor of this thread, which has one event loop at a time.
    pub(super) fn new() -> Self {
        let of_loop = LOOPS.fetch_add(1, Ordering::Relaxed);
        READY.with_borrow_mut(|ready| {
            *ready = Ready {
                of_loop,
                queue: VecDeque::new(),
                queued: Vec::new(),
            };
        });
        Self {
            of_loop,
            slots: RefCell::default(),
        }
    }

    pub(super) fn spawn(&self, task: Task) {
        let index = {
            let TaskSlots { slots, free } = &mut *self.slots.borrow_mut();
            if let Some(index) = free.pop() {
                slots[index as usize].task = Some(task);
                index
            } else {
                let index = u32::try_from(slots.len()).expect("fewer tasks than 2^32");
                let of_loop = self.of_loop;
                slots.push(TaskSlot {
                    task: Some(task),
                    waker: Some(Arc::new(Number { of_loop, index }).into()),
                });
                index
            }
        };
        wake(self.of_loop, index);
    }

    pub(super) fn ready(&self) -> usize {
        READY.with_borrow(|ready| ready.queue.len())
    }

    /// Returns the number of places, taken or free.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.slots.borrow().slots.len()
    }

    /// Takes the next task that has to run.
    pub(super) fn next(&self) -> Option<u32> {
        READY.with_borrow_mut(|ready| {
            let index = ready.queue.pop_front()?;
            ready.queued[index as usize] = false;
            Some(index)
        })
    }

    pub(super) fn run(&self, index: u32) {
        let at = index as usize;
        // The task is taken out of its place while it runs, because it may spawn other tasks, and a spawn
        // borrows the places.
        let taken = {
            let slot = &mut self.slots.borrow_mut().slots[at];
            slot.task
                .take()
                .and_then(|task| Some((task, slot.waker.take()?)))
        };
        // If the task has ended before its wake-up came, the place is empty.
        let Some((mut task, waker)) = taken else {
            return;
        };
        let over = task
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        // The task is dropped before the places are borrowed, because its drop may wake or spawn other tasks.
        let task = if over {
            drop(task);
            None
        } else {
            Some(task)
        };
        let TaskSlots { slots, free } = &mut *self.slots.borrow_mut();
        slots[at].task = task;
        slots[at].waker = Some(waker);
        if over {
            free.push(index);
        }
    }
}

/// The data of a waker: the number of a task in a loop. It is in an `Arc`, because a waker without a
/// reference count needs unsafe code. Each place has one such allocation, which its tasks share.
struct Number {
    of_loop: u32,
    index: u32,
}

impl Wake for Number {
    fn wake(self: Arc<Self>) {
        wake(self.of_loop, self.index);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        wake(self.of_loop, self.index);
    }
}

fn wake(of_loop: u32, index: u32) {
    // The access fails only while the thread ends, after its last task.
    let _ending = READY.try_with(|ready| {
        let ready = &mut *ready.borrow_mut();
        assert_eq!(
            ready.of_loop, of_loop,
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
