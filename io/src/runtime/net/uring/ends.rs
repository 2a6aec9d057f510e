//! Checks whether a peer has ended its direction after bytes that were not received yet. A receive would
//! report the end only after it has taken these bytes, so an epoll instance is asked, with three system
//! calls. `poll` would take one, but its safe forms need a borrowed descriptor, which monoio's streams do not
//! give.

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollOp, EpollTimeout};

/// The epoll instance, which the first check makes.
#[derive(Default)]
pub(super) struct Ends(std::cell::OnceCell<Option<Epoll>>);

impl Ends {
    /// Returns whether an end has come. Returns false, too, if the system cannot tell.
    pub(super) fn has_come(&self, fd: RawFd) -> bool {
        let made = || Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).ok();
        let Some(epoll) = self.0.get_or_init(made) else {
            return false;
        };
        let mut event = EpollEvent::new(EpollFlags::EPOLLRDHUP, 0);
        if change(epoll, EpollOp::EpollCtlAdd, fd, Some(&mut event)).is_err() {
            return false;
        }
        let mut found = [EpollEvent::empty()];
        let count = epoll.wait(&mut found, EpollTimeout::ZERO);
        // The socket is removed at once, so that the next check gets no event of this socket.
        let removed = change(epoll, EpollOp::EpollCtlDel, fd, None);
        assert!(
            removed.is_ok(),
            "a descriptor that was just added is taken out"
        );
        count.is_ok_and(|count| count > 0)
    }
}

#[expect(
    deprecated,
    reason = "the newer form takes no descriptor by its number"
)]
fn change(
    epoll: &Epoll,
    operation: EpollOp,
    fd: RawFd,
    event: Option<&mut EpollEvent>,
) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    nix::sys::epoll::epoll_ctl(epoll.0.as_raw_fd(), operation, fd, event)
}
