//! The loop of an io thread: it runs the tasks that are ready, then looks at the kernel once for all of
//! them, and sleeps there when there is nothing to run. It knows sockets and times, and nothing of
//! HTTP or calls. Each io thread has one of its own, on io_uring (`uring`) or epoll (`epoll`).

mod dial;
mod epoll;
mod pace;
mod provided;
mod socket;
mod sockets;
mod tasks;
#[cfg(test)]
mod tests;
mod timer;
mod uring;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

pub(crate) use dial::{accept, connect_tcp, connect_unix};
pub(crate) use socket::{Socket, Unsent};
pub(crate) use timer::Timer;

use crate::buffers::Buffers;
use epoll::Epoll;
use pace::Pace;
use sockets::Sockets;
use tasks::Tasks;
use uring::Uring;

/// A thread's loop.
pub(crate) struct Reactor {
    tasks: Tasks,
    kernel: RefCell<Kernel>,
    pace: Pace,
    buffers: Rc<Buffers>,
}

/// What the kernel is asked, and what of it.
struct Kernel {
    sockets: Sockets,
    system: System,
}

// There is one of it a thread, and it is asked a hundred thousand times a second.
#[expect(clippy::large_enum_variant)]
enum System {
    Uring(Uring),
    Epoll(Epoll),
}

/// Which readiness of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

impl Reactor {
    /// On io_uring, with room for so many operations to be handed over at once.
    pub(crate) fn uring(entries: u32, buffers: Rc<Buffers>) -> io::Result<Rc<Self>> {
        Ok(Self::over(
            System::Uring(Uring::new(entries, &buffers)?),
            buffers,
        ))
    }

    pub(crate) fn epoll(buffers: Rc<Buffers>) -> io::Result<Rc<Self>> {
        Ok(Self::over(System::Epoll(Epoll::new()?), buffers))
    }

    fn over(system: System, buffers: Rc<Buffers>) -> Rc<Self> {
        let sockets = Sockets::default();
        Rc::new(Self {
            tasks: Tasks::new(),
            kernel: RefCell::new(Kernel { sockets, system }),
            pace: Pace::default(),
            buffers,
        })
    }

    /// Starts a task.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(Box::pin(task));
    }

    /// Runs tasks until `life` is over.
    pub(crate) fn run(&self, life: impl Future<Output = ()> + 'static) {
        let over = Rc::new(Cell::new(false));
        let ended = over.clone();
        self.spawn(async move {
            life.await;
            ended.set(true);
        });
        while !over.get() {
            // Tasks that wake one another for ever let the kernel in all the same.
            let mut left = 2 * self.tasks.ready() + 1;
            while left > 0
                && !over.get()
                && let Some(index) = self.tasks.next()
            {
                self.tasks.run(index);
                left -= 1;
            }
            self.look(self.tasks.ready() == 0 && !over.get());
        }
    }

    /// A request came. Where many do, sends go out together on io_uring; a lone one is cheaper by a system
    /// call of its own.
    pub(crate) fn request(&self, now_ns: u64) {
        self.pace.request(now_ns);
    }

    /// Whether everything that was posted is out.
    pub(crate) fn is_settled(&self) -> bool {
        let kernel = self.kernel.borrow();
        kernel.sockets.behind == 0
            && match &kernel.system {
                System::Uring(uring) => uring.is_settled(),
                System::Epoll(_) => true,
            }
    }

    /// Hands over what is to go out, and takes in what came.
    fn look(&self, wait: bool) {
        let Kernel { sockets, system } = &mut *self.kernel.borrow_mut();
        match system {
            System::Uring(uring) => uring.turn(sockets, &self.buffers, wait),
            System::Epoll(epoll) => epoll.turn(sockets, &self.buffers, wait),
        }
    }
}
