//! Tests of `check_quiet`, which reports whether bytes or an end have come on a socket that no task reads.
//! The check is made before a connection is used again.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, send};

use super::*;

/// What the peer does after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    Byte,
    End,
    EndWithIt,
}

/// `own` is a duplicate of the socket's descriptor.
fn until_readable(own: &OwnedFd) {
    let mut asked = [PollFd::new(own, PollFlags::IN | PollFlags::RDHUP)];
    assert!(poll(&mut asked, Some(&PATIENCE.try_into().unwrap())).unwrap() > 0);
}

async fn answered(socket: &Socket, size: usize) {
    let mut left = size;
    while left > 0 {
        left -= receive(socket, SMALL).await.len();
    }
}

/// Reads one answer of `size` bytes, lets the peer do what `then` says, and tests `check_quiet`.
async fn after_an_answer(
    event_loop: &Rc<EventLoop>,
    (ours, peer): (OwnedFd, OwnedFd),
    size: usize,
    then: Then,
    rests: bool,
) {
    let own = ours.try_clone().unwrap();
    let socket = Socket::new(event_loop, ours).unwrap();
    let say = |bytes: &[u8], flags| assert_eq!(send(&peer, bytes, flags).unwrap(), bytes.len());
    let end = || rustix::net::shutdown(&peer, rustix::net::Shutdown::Write).unwrap();
    let none = SendFlags::empty();
    // A receive is armed when the answer comes, as it is while a call waits.
    assert!(look_once(&socket).await.is_pending());
    event_loop.yield_now().await;
    if then == Then::EndWithIt {
        say(&pattern(size, 0), SendFlags::MORE);
        end();
    } else {
        say(&pattern(size, 0), none);
    }
    answered(&socket, size).await;
    // If `rests`, a receive is armed from now on. If not, none is armed before `check_quiet`.
    if rests {
        socket.rest();
    }
    match then {
        Then::Nothing => {
            for _ in 0..3 {
                assert!(socket.check_quiet(), "{size} bytes and nothing else");
                event_loop.yield_now().await;
            }
            return;
        }
        Then::Byte => {
            event_loop.yield_now().await;
            say(b"x", none);
        }
        Then::End => {
            event_loop.yield_now().await;
            end();
        }
        // This check is in the iteration that received the answer. The check after the `match` is in a later
        // iteration.
        Then::EndWithIt => assert!(!socket.check_quiet(), "{size} bytes and the end"),
    }
    // An armed receive may have taken the byte already. The socket is then not readable.
    if !(rests && then == Then::Byte) {
        until_readable(&own);
    }
    event_loop.yield_now().await;
    assert!(
        !socket.check_quiet(),
        "{size} bytes, then {then:?}; rests: {rests}"
    );
}

/// Returns after this many iterations in which the loop did not wait. A task that wakes itself is always
/// ready, so the loop does not wait.
async fn without_a_wait(iterations: usize) {
    let mut left = iterations;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The loop has not waited since the peer's end came, so no receive has completed. The check has to find the
/// end anyway.
#[test]
fn a_loop_that_never_waits_sees_an_end() {
    both(|event_loop| {
        // The epoll loop polls the sockets in every iteration, so it has no such case.
        if matches!(*event_loop, EventLoop::Epoll(_)) {
            return;
        }
        let own = event_loop.clone();
        run(&event_loop, async move {
            let (ours, peer) = UnixStream::pair().unwrap();
            let ours = OwnedFd::from(ours);
            let duplicate = ours.try_clone().unwrap();
            let socket = Socket::new(&own, ours).unwrap();
            socket.rest();
            own.yield_now().await;
            assert!(socket.check_quiet());
            drop(peer);
            until_readable(&duplicate);
            without_a_wait(64).await;
            assert!(!socket.check_quiet(), "the peer has ended");
        });
    });
}

fn for_each_size_and_end(pair: fn() -> (OwnedFd, OwnedFd)) {
    both(|event_loop| {
        let own = event_loop.clone();
        run(&event_loop, async move {
            for size in [1, 20, SMALL - 1, SMALL, SMALL + 1, 2_000, 70_000] {
                for then in [Then::Nothing, Then::Byte, Then::End, Then::EndWithIt] {
                    for rests in [false, true] {
                        after_an_answer(&own, pair(), size, then, rests).await;
                    }
                }
            }
        });
    });
}

#[test]
fn input_on_an_idle_socket_is_known_tcp() {
    for_each_size_and_end(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0.into(), theirs.into())
    });
}

#[test]
fn input_on_an_idle_socket_is_known_unix() {
    for_each_size_and_end(|| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours.into(), theirs.into())
    });
}
