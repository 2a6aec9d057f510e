//! Runs both event loops against scripted peers, with one suite for the promises of both. Posted bytes arrive
//! completely and in order, incoming bytes are received completely, and no peer can keep the loop from
//! running.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use nanofaas_core::time::Nanos;
use rustix::net::sockopt::set_socket_send_buffer_size;

use super::*;
use crate::runtime::buffers::SMALL;

mod ends;
mod held;
mod quiet;
mod turns;

/// The time limit of a test. It is much longer than a test takes, so only a loop that hangs exceeds it.
const PATIENCE: Duration = Duration::from_secs(20);

fn both(test: impl Fn(Rc<EventLoop>)) {
    let buffers = || Rc::new(Buffers::default());
    test(EventLoop::epoll(buffers()).expect("epoll is everywhere"));
    if let Err(why) = EventLoop::probe_uring() {
        return eprintln!("not on io_uring: {why}");
    }
    for deferred in [false, true] {
        let setup = RingSetup {
            entries: 256,
            deferred,
        };
        let event_loop = EventLoop::uring(setup, buffers()).expect("a ring is to be had");
        test(event_loop.clone());
        // Operations may be in flight, as they are when a process ends, so the loop must not be dropped.
        std::mem::forget(event_loop);
    }
}

fn run(event_loop: &Rc<EventLoop>, life: impl Future<Output = ()> + 'static) {
    let timer = Timer::new(event_loop).unwrap();
    timer.set(PATIENCE);
    let mut life = Box::pin(life);
    event_loop.run(async move {
        poll_fn(|cx| {
            assert!(timer.poll(cx).is_pending(), "it hangs");
            life.as_mut().poll(cx)
        })
        .await;
    });
}

fn pair(event_loop: &Rc<EventLoop>) -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Socket::new(event_loop, ours).unwrap(), theirs)
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|at| ((at / 251 + at + seed) % 251) as u8)
        .collect()
}

async fn look_once(socket: &Socket) -> Received {
    poll_fn(|cx| Poll::Ready(socket.poll_recv(SMALL, cx))).await
}

async fn receive(socket: &Socket, room: usize) -> Vec<u8> {
    poll_fn(|cx| socket.poll_recv(room, cx))
        .await
        .unwrap_or_default()
}

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
    // Together the messages are larger than the socket's buffer, so most are posted while earlier ones are
    // not sent yet.
    both(|event_loop| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        set_socket_send_buffer_size(&ours, 8 * 1024).unwrap();
        let socket = Socket::new(&event_loop, ours).unwrap();
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
        run(&event_loop, async move {
            for (seed, size) in sizes.into_iter().enumerate() {
                socket.post(pattern(size, seed));
            }
            poll_fn(|cx| socket.poll_sent(cx)).await.unwrap();
            assert!(!socket.is_behind());
            socket.shutdown(Shutdown::Write);
        });
        assert!(event_loop.is_settled());
        assert_eq!(reader.join().unwrap(), expected);
    });
}

#[test]
fn posted_bytes_go_out_while_the_owner_waits() {
    both(|event_loop| {
        let (socket, mut theirs) = pair(&event_loop);
        let (other, mut bell) = pair(&event_loop);
        let sent = pattern(4 * 1024 * 1024, 9);
        let expected = sent.clone();
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; 4 * 1024 * 1024];
            theirs.read_exact(&mut all).unwrap();
            bell.write_all(b"x").unwrap();
            all
        });
        run(&event_loop, async move {
            assert!(!socket.post(sent));
            assert!(socket.is_behind());
            assert_eq!(receive(&other, SMALL).await, b"x");
            drop(socket);
        });
        assert_eq!(reader.join().unwrap(), expected);
    });
}

#[test]
fn input_is_taken_whole_however_it_is_cut() {
    // The pieces are smaller than a buffer, as long as a buffer, or so long that larger buffers are used.
    for cut in [1, 100, SMALL - 1, SMALL, SMALL + 1, 30_000, 1_000_000] {
        both(|event_loop| {
            let (socket, mut theirs) = pair(&event_loop);
            let length = if cut == 1 { 3_000 } else { 1_000_000 };
            let sent = pattern(length, cut);
            let expected = sent.clone();
            let writer = std::thread::spawn(move || {
                for piece in sent.chunks(cut) {
                    theirs.write_all(piece).unwrap();
                }
            });
            run(&event_loop, async move {
                assert_eq!(receive_all(&socket).await, expected);
                // A second receive must report the end again.
                assert!(receive(&socket, SMALL).await.is_empty());
            });
            writer.join().unwrap();
        });
    }
}

#[test]
fn a_flood_on_an_unread_socket_is_throttled() {
    both(|event_loop| {
        let (socket, mut theirs) = pair(&event_loop);
        theirs.set_nonblocking(true).unwrap();
        let taken = Rc::new(Cell::new(0));
        let total = taken.clone();
        let timer = Timer::new(&event_loop).unwrap();
        run(&event_loop, async move {
            // This arms a receive. Its task does not poll it again while the peer sends as much as the
            // sockets take.
            let first = look_once(&socket).await;
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
        // This is more than the kernel's buffers of the two sockets hold.
        assert!(total.get() < 2_000_000, "{} bytes were taken", total.get());
    });
}

#[test]
fn a_dropped_socket_closes_whatever_is_in_flight() {
    both(|event_loop| {
        let (armed, mut first) = pair(&event_loop);
        let (behind, second) = pair(&event_loop);
        let (posted, mut third) = pair(&event_loop);
        run(&event_loop, async move {
            let nothing = look_once(&armed).await;
            assert!(nothing.is_pending());
            assert!(!behind.post(vec![1; 3_000_000]));
            posted.post(vec![2; 10]);
            poll_fn(|cx| posted.poll_sent(cx)).await.unwrap();
        });
        assert!(event_loop.is_settled());
        let ended = |peer: &mut UnixStream| {
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut rest = Vec::new();
            // A reset counts as an end, too.
            let _ = peer.read_to_end(&mut rest);
            rest
        };
        assert!(ended(&mut first).is_empty());
        assert_eq!(ended(&mut third), [2; 10]);
        drop(second);
    });
}

#[test]
fn a_failed_send_says_whether_bytes_went_out() {
    both(|event_loop| {
        let (gone, theirs) = pair(&event_loop);
        drop(theirs);
        let (half, mut reader) = pair(&event_loop);
        run(&event_loop, async move {
            gone.post(vec![1; 100]);
            let unsent = poll_fn(|cx| gone.poll_sent(cx)).await.unwrap_err();
            assert!(unsent.nothing, "{unsent:?}");
            assert!(gone.is_behind() && !gone.post(vec![1; 100]));
            assert!(receive(&gone, SMALL).await.is_empty());

            assert!(!half.post(vec![2; 3_000_000]));
            reader.read_exact(&mut [0; 1000]).unwrap();
            drop(reader);
            let unsent = poll_fn(|cx| half.poll_sent(cx)).await.unwrap_err();
            assert!(!unsent.nothing, "{unsent:?}");
        });
        assert!(event_loop.is_settled());
    });
}

#[test]
fn a_long_silent_client_is_recognised() {
    both(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let silent = TcpStream::connect(address).unwrap();
        let mut talks = TcpStream::connect(address).unwrap();
        talks.write_all(b"x").unwrap();
        std::thread::sleep(Duration::from_millis(1100));
        let fresh = TcpStream::connect(address).unwrap();
        let own = event_loop.clone();
        run(&event_loop, async move {
            let listener = Listener::new(&own, listener).unwrap();
            let mut waited = Vec::new();
            for _ in 0..3 {
                let accepted = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
                waited.push(!accepted.silent_for.is_zero());
            }
            assert_eq!(waited, [true, false, false]);
            drop((silent, talks, fresh));
        });
    });
}

#[test]
fn connections_are_accepted_and_opened() {
    both(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let own = event_loop.clone();
        run(&event_loop, async move {
            let listener = Listener::new(&own, listener).unwrap();
            for round in 0..40_u8 {
                let client = connect_tcp(&own, address).await.unwrap();
                let accepted = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
                let served = accepted.socket;
                assert!(accepted.is_loopback);
                let round_trip = accepted.round_trip;
                assert!(
                    round_trip.is_some_and(|trip| !trip.is_zero() && trip < Nanos::SECOND),
                    "{round_trip:?}"
                );
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
    both(|event_loop| {
        let own = event_loop.clone();
        let address = closed();
        run(&event_loop, async move {
            let why = connect_tcp(&own, address).await.err().unwrap();
            assert_eq!(why.kind(), io::ErrorKind::ConnectionRefused);
            let nowhere = std::env::temp_dir().join("nanofaas-no-such-socket");
            let why = connect_unix(&own, &nowhere).err().unwrap();
            assert_eq!(why.kind(), io::ErrorKind::NotFound);
        });
    });
}

#[test]
fn a_full_unix_listener_differs_from_none() {
    both(|event_loop| {
        let path = std::env::temp_dir().join(format!("nanofaas-full-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let own = event_loop.clone();
        let name = path.clone();
        run(&event_loop, async move {
            let mut kept = Vec::new();
            let why = loop {
                match connect_unix(&own, &name) {
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
fn posting_too_much_unsent_has_to_wait() {
    both(|event_loop| {
        let (socket, mut theirs) = pair(&event_loop);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all.len()
        });
        run(&event_loop, async move {
            let mut count = 0;
            for _ in 0..2_000 {
                if !socket.post(vec![1; 10_000]) {
                    count += 1;
                    poll_fn(|cx| socket.poll_sent(cx)).await.unwrap();
                }
            }
            assert!(count > 10, "{count} times");
            socket.shutdown(Shutdown::Write);
        });
        assert!(reader.join().unwrap() > 19_000_000);
    });
}
