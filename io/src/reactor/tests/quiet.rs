//! Whether something has come on a socket that is not read: asked before a connection is used again.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, send};

use super::ends::tcp_pair;
use super::*;

/// What the peer does after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    Byte,
    End,
    /// The end comes with the last bytes of the answer.
    EndWithIt,
}

/// Waits until the kernel has something for the socket, by a descriptor of the test's own.
fn until_readable(socket: &Socket) {
    socket.with_fd(|fd| {
        let own = rustix::io::dup(fd).unwrap();
        let mut asked = [PollFd::new(&own, PollFlags::IN | PollFlags::RDHUP)];
        assert!(poll(&mut asked, Some(&PATIENCE.try_into().unwrap())).unwrap() > 0);
    });
}

/// Lets the loop look at the kernel: a task that woke itself could be the next to run.
async fn one_iteration(timer: &Timer) {
    timer.set(Duration::from_nanos(1));
    poll_fn(|cx| timer.poll(cx)).await;
}

async fn answered(socket: &Socket, size: usize) {
    let mut left = size;
    while left > 0 {
        left -= receive(socket, SMALL).await.len();
    }
}

/// One answer of `size` bytes is read, and then the peer does something, or nothing.
async fn after_an_answer(
    timer: &Timer,
    (socket, peer): (Socket, impl std::os::fd::AsFd + 'static),
    size: usize,
    then: Then,
) {
    let say = |bytes: &[u8], flags| assert_eq!(send(&peer, bytes, flags).unwrap(), bytes.len());
    let end = || rustix::net::shutdown(&peer, rustix::net::Shutdown::Write).unwrap();
    let none = SendFlags::empty();
    // A receive is armed, as it is while a call waits, when the answer comes.
    assert!(
        poll_fn(|cx| Poll::Ready(socket.poll_recv(SMALL, cx)))
            .await
            .is_pending()
    );
    one_iteration(timer).await;
    if then == Then::EndWithIt {
        say(&pattern(size, 0), SendFlags::MORE);
        end();
    } else {
        say(&pattern(size, 0), none);
    }
    answered(&socket, size).await;
    match then {
        Then::Nothing => {
            for _ in 0..3 {
                assert!(socket.is_quiet(), "{size} bytes and nothing else");
                one_iteration(timer).await;
            }
            return;
        }
        Then::Byte => {
            one_iteration(timer).await;
            say(b"x", none);
        }
        Then::End => {
            one_iteration(timer).await;
            end();
        }
        Then::EndWithIt => {}
    }
    until_readable(&socket);
    one_iteration(timer).await;
    assert!(!socket.is_quiet(), "{size} bytes, then {then:?}");
}

fn for_each_size_and_end<P: std::os::fd::AsFd + 'static>(
    pair: impl Fn(&Rc<Reactor>) -> (Socket, P) + Copy + 'static,
) {
    both(|reactor| {
        let own = reactor.clone();
        run(&reactor, async move {
            let timer = Timer::new(&own).unwrap();
            for size in [1, 20, SMALL - 1, SMALL, SMALL + 1, 2_000, 70_000] {
                for then in [Then::Nothing, Then::Byte, Then::End, Then::EndWithIt] {
                    after_an_answer(&timer, pair(&own), size, then).await;
                }
            }
        });
    });
}

#[test]
fn what_came_on_an_idle_socket_is_known_tcp() {
    for_each_size_and_end(tcp_pair);
}

#[test]
fn what_came_on_an_idle_socket_is_known_unix() {
    for_each_size_and_end(pair);
}
