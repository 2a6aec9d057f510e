//! The reactor against scripted peers, on both systems: what is posted arrives whole and in order, what
//! comes is taken whole, and nothing that a peer does keeps the loop from going on.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use super::*;
use crate::buffers::SMALL;

mod ends;
mod quiet;

/// Longer than anything here takes; a loop that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

fn both(test: impl Fn(Rc<Reactor>)) {
    let buffers = || Rc::new(Buffers::default());
    test(Reactor::epoll(buffers()).expect("epoll is everywhere"));
    match Reactor::uring(256, buffers()) {
        Ok(reactor) => test(reactor),
        Err(why) => eprintln!("not on io_uring: {why}"),
    }
}

/// Runs `life` on the reactor, and fails where it takes too long.
fn run(reactor: &Rc<Reactor>, life: impl Future<Output = ()> + 'static) {
    let timer = Timer::new(reactor).unwrap();
    timer.set(PATIENCE);
    let mut life = Box::pin(life);
    reactor.run(async move {
        poll_fn(|cx| {
            assert!(timer.poll(cx).is_pending(), "it hangs");
            life.as_mut().poll(cx)
        })
        .await;
    });
}

fn pair(reactor: &Rc<Reactor>) -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Socket::new(reactor, ours).unwrap(), theirs)
}

/// Bytes that tell where they stand.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|at| ((at / 251 + at + seed) % 251) as u8)
        .collect()
}

async fn receive(socket: &Socket, room: usize) -> Vec<u8> {
    poll_fn(|cx| socket.poll_recv(room, cx))
        .await
        .unwrap_or_default()
}

/// Everything up to the end.
async fn receive_all(socket: &Socket) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let bytes = receive(socket, SMALL).await;
        if bytes.is_empty() {
            return all;
        }
        all.extend_from_slice(&bytes);
    }
}

#[test]
fn what_is_posted_arrives_whole_and_in_order() {
    // Of all sizes, many of them while earlier ones have not gone out: more than the socket holds.
    both(|reactor| {
        let (socket, mut theirs) = pair(&reactor);
        socket
            .with_fd(|fd| set_socket_send_buffer_size(fd, 8 * 1024))
            .unwrap();
        let sizes = [1, 300, 5_000, 20_000, 7, 700_000, 16_384, 16_385, 2, 40_000];
        let expected: Vec<u8> = sizes
            .iter()
            .enumerate()
            .flat_map(|(seed, size)| pattern(*size, seed))
            .collect();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        run(&reactor, async move {
            for (seed, size) in sizes.into_iter().enumerate() {
                socket.post(pattern(size, seed));
            }
            poll_fn(|cx| socket.poll_sent(cx)).await.unwrap();
            assert!(!socket.is_behind());
            socket.shutdown(rustix::net::Shutdown::Write);
        });
        assert!(reactor.is_settled());
        assert_eq!(reader.join().unwrap(), expected);
    });
}

#[test]
fn more_sends_in_one_pass_than_the_kernel_is_handed_at_once() {
    both(|reactor| {
        let pairs: Vec<_> = (0..600).map(|_| pair(&reactor)).collect();
        let (sockets, peers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        run(&reactor, async move {
            for round in 0..3 {
                for (at, socket) in sockets.iter().enumerate() {
                    assert!(socket.post(pattern(40, at + round)));
                }
                for socket in &sockets {
                    poll_fn(|cx| socket.poll_sent(cx)).await.unwrap();
                }
            }
        });
        for (at, mut peer) in peers.into_iter().enumerate() {
            let mut bytes = vec![0; 120];
            peer.read_exact(&mut bytes).unwrap();
            let expected: Vec<u8> = (0..3).flat_map(|round| pattern(40, at + round)).collect();
            assert_eq!(bytes, expected);
        }
    });
}

#[test]
fn sends_wait_for_one_another_only_where_requests_are_close() {
    both(|reactor| {
        let (socket, mut theirs) = pair(&reactor);
        theirs.set_nonblocking(true).unwrap();
        let passes = matches!(reactor.kernel.borrow().system, System::Uring(_));
        let own = reactor.clone();
        run(&reactor, async move {
            let mut now_ns = 1_000_000_000;
            for (gap_ns, waits) in [(50_000, false), (10_000, passes), (50_000, false)] {
                for _ in 0..100 {
                    now_ns += gap_ns;
                    own.request(now_ns);
                }
                assert!(socket.post(vec![1; 100]));
                assert_eq!(theirs.read(&mut [0; 200]).is_err(), waits, "{gap_ns} ns");
                poll_fn(|cx| socket.poll_sent(cx)).await.unwrap();
                assert_eq!(theirs.read(&mut [0; 200]).is_ok(), waits);
            }
        });
    });
}

#[test]
fn what_comes_is_taken_whole_however_it_is_cut() {
    // Small pieces, pieces that fill a buffer exactly, and so much that larger buffers are used.
    for cut in [1, 100, SMALL - 1, SMALL, SMALL + 1, 30_000, 1_000_000] {
        both(|reactor| {
            let (socket, mut theirs) = pair(&reactor);
            let length = if cut == 1 { 3_000 } else { 1_000_000 };
            let sent = pattern(length, cut);
            let expected = sent.clone();
            let writer = std::thread::spawn(move || {
                for piece in sent.chunks(cut) {
                    theirs.write_all(piece).unwrap();
                }
            });
            run(&reactor, async move {
                assert_eq!(receive_all(&socket).await, expected);
                // The end stays the end.
                assert!(receive(&socket, SMALL).await.is_empty());
            });
            writer.join().unwrap();
        });
    }
}

#[test]
fn a_peer_that_floods_a_socket_that_nobody_reads_is_made_to_wait() {
    both(|reactor| {
        let (socket, mut theirs) = pair(&reactor);
        theirs.set_nonblocking(true).unwrap();
        let taken = Rc::new(Cell::new(0));
        let total = taken.clone();
        let timer = Timer::new(&reactor).unwrap();
        run(&reactor, async move {
            // Armed, and then never asked for again while the peer sends what it can.
            let first = poll_fn(|cx| Poll::Ready(socket.poll_recv(SMALL, cx))).await;
            assert!(first.is_pending());
            for _ in 0..200 {
                while let Ok(count @ 1..) = theirs.write(&[7; 500]) {
                    taken.set(taken.get() + count);
                }
                timer.set(Duration::from_millis(1));
                poll_fn(|cx| timer.poll(cx)).await;
            }
            drop(theirs);
            let all = receive_all(&socket).await;
            assert_eq!(all.len(), taken.get());
        });
        // What the two sockets hold, and not much more.
        assert!(total.get() < 2_000_000, "{} bytes were taken", total.get());
    });
}

#[test]
fn a_socket_that_is_dropped_is_closed_whatever_is_in_flight() {
    both(|reactor| {
        let (armed, mut first) = pair(&reactor);
        let (behind, second) = pair(&reactor);
        let (posted, mut third) = pair(&reactor);
        run(&reactor, async move {
            let nothing = poll_fn(|cx| Poll::Ready(armed.poll_recv(SMALL, cx))).await;
            assert!(nothing.is_pending());
            assert!(!behind.post(vec![1; 3_000_000]));
            posted.post(vec![2; 10]);
            poll_fn(|cx| posted.poll_sent(cx)).await.unwrap();
        });
        assert!(reactor.is_settled());
        let ended = |peer: &mut UnixStream| {
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut rest = Vec::new();
            // A reset is an end, too.
            let _ = peer.read_to_end(&mut rest);
            rest
        };
        assert!(ended(&mut first).is_empty());
        assert_eq!(ended(&mut third), [2; 10]);
        drop(second);
    });
}

#[test]
fn a_send_that_fails_says_whether_anything_went_out() {
    both(|reactor| {
        let (gone, theirs) = pair(&reactor);
        drop(theirs);
        let (half, mut reader) = pair(&reactor);
        run(&reactor, async move {
            gone.post(vec![1; 100]);
            let unsent = poll_fn(|cx| gone.poll_sent(cx)).await.unwrap_err();
            assert!(unsent.nothing, "{unsent:?}");
            assert!(gone.is_behind() && !gone.post(vec![1; 100]));
            // Whoever reads hears of it as well.
            assert!(receive(&gone, SMALL).await.is_empty());

            assert!(!half.post(vec![2; 3_000_000]));
            reader.read_exact(&mut [0; 1000]).unwrap();
            drop(reader);
            let unsent = poll_fn(|cx| half.poll_sent(cx)).await.unwrap_err();
            assert!(!unsent.nothing, "{unsent:?}");
        });
        assert!(reactor.is_settled());
    });
}

#[test]
fn connections_are_accepted_and_opened() {
    both(|reactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let own = reactor.clone();
        run(&reactor, async move {
            let listener = Socket::new(&own, listener).unwrap();
            for round in 0..40_u8 {
                let client = connect_tcp(&own, address).await.unwrap();
                let (served, loopback) = poll_fn(|cx| accept(&own, &listener, cx)).await.unwrap();
                assert!(loopback);
                client.post(vec![round; 10]);
                assert_eq!(receive(&served, SMALL).await, [round; 10]);
                served.post(vec![round; 20]);
                assert_eq!(receive(&client, SMALL).await, [round; 20]);
                drop(client);
                assert!(receive(&served, SMALL).await.is_empty());
            }
        });
    });
}

#[test]
fn a_connection_that_cannot_be_opened_says_why() {
    let closed = || -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    both(|reactor| {
        let own = reactor.clone();
        let address = closed();
        run(&reactor, async move {
            let why = connect_tcp(&own, address).await.err().unwrap();
            assert_eq!(why.kind(), io::ErrorKind::ConnectionRefused);
            let nowhere = std::env::temp_dir().join("nanofaas-no-such-socket");
            let why = connect_unix(&own, &nowhere).await.err().unwrap();
            assert_eq!(why.kind(), io::ErrorKind::NotFound);
        });
    });
}

#[test]
fn a_unix_listener_whose_queue_is_full_is_told_from_one_that_is_gone() {
    both(|reactor| {
        let path = std::env::temp_dir().join(format!("nanofaas-full-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let own = reactor.clone();
        let name = path.clone();
        run(&reactor, async move {
            let mut kept = Vec::new();
            let why = loop {
                match connect_unix(&own, &name).await {
                    Ok(socket) => kept.push(socket),
                    Err(why) => break why,
                }
                assert!(kept.len() < 100);
            };
            assert_eq!(why.kind(), io::ErrorKind::WouldBlock);
        });
        std::fs::remove_file(&path).unwrap();
    });
}

#[test]
fn tasks_that_wake_one_another_let_the_kernel_in() {
    both(|reactor| {
        let (socket, mut theirs) = pair(&reactor);
        let over = Rc::new(Cell::new(false));
        for _ in 0..2 {
            let over = over.clone();
            reactor.spawn(poll_fn(move |cx| {
                cx.waker().wake_by_ref();
                if over.get() {
                    return Poll::Ready(());
                }
                Poll::Pending
            }));
        }
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            theirs.write_all(b"x").unwrap();
            theirs
        });
        run(&reactor, async move {
            assert_eq!(receive(&socket, SMALL).await, b"x");
            over.set(true);
        });
        drop(writer.join().unwrap());
    });
}

#[test]
fn a_task_starts_others_and_its_place_is_used_again() {
    both(|reactor| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (own, all) = (reactor.clone(), seen.clone());
        run(&reactor, async move {
            for round in 0..100 {
                let done = Rc::new(Cell::new(false));
                let (noted, ended) = (all.clone(), done.clone());
                own.spawn(async move {
                    noted.borrow_mut().push(round);
                    ended.set(true);
                });
                poll_fn(|cx| {
                    if done.get() {
                        return Poll::Ready(());
                    }
                    cx.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
            }
        });
        assert_eq!(*seen.borrow(), (0..100).collect::<Vec<_>>());
        assert!(reactor.tasks.places() < 10);
    });
}

#[test]
fn a_timer_wakes_when_it_was_set_for_last() {
    both(|reactor| {
        let timer = Timer::new(&reactor).unwrap();
        run(&reactor, async move {
            let began = Instant::now();
            timer.set(Duration::from_secs(3600));
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            timer.set(Duration::from_millis(30));
            poll_fn(|cx| timer.poll(cx)).await;
            assert!(began.elapsed() >= Duration::from_millis(30));
            // One that went off is not ready once it is set anew.
            timer.set(Duration::from_millis(30));
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            poll_fn(|cx| timer.poll(cx)).await;
            assert!(began.elapsed() >= Duration::from_millis(60));
        });
    });
}

#[test]
fn a_waker_of_another_thread_stops_the_process() {
    let waker = RefCell::new(None);
    both(|reactor| {
        let place = Rc::new(RefCell::new(None));
        let taken = place.clone();
        run(&reactor, async move {
            poll_fn(|cx| {
                place.replace(Some(cx.waker().clone()));
                Poll::Ready(())
            })
            .await;
        });
        waker.replace(taken.take());
    });
    let waker = waker.take().expect("it was kept");
    let elsewhere = std::thread::spawn(move || waker.wake());
    assert!(elsewhere.join().is_err());
}

#[test]
fn who_posts_much_before_any_of_it_is_out_is_told_to_wait() {
    both(|reactor| {
        let (socket, mut theirs) = pair(&reactor);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all.len()
        });
        run(&reactor, async move {
            let mut told = 0;
            for _ in 0..2_000 {
                if !socket.post(vec![1; 10_000]) {
                    told += 1;
                    poll_fn(|cx| socket.poll_sent(cx)).await.unwrap();
                }
            }
            assert!(told > 10, "{told} times");
            socket.shutdown(rustix::net::Shutdown::Write);
        });
        assert!(reader.join().unwrap() > 19_000_000);
    });
}
