//! Tests of small messages, which are sent together at the end of the iteration.

use std::io::ErrorKind;

use super::*;

fn arrived(peer: &mut UnixStream) -> Vec<u8> {
    peer.set_nonblocking(true).unwrap();
    let mut found = vec![0; 4096];
    match peer.read(&mut found) {
        Ok(count) => found.truncate(count),
        Err(why) if why.kind() == ErrorKind::WouldBlock => found.clear(),
        Err(why) => panic!("{why}"),
    }
    found
}

#[test]
fn small_messages_leave_together_after_the_iteration() {
    both(|event_loop| {
        let mut pairs = [pair(&event_loop), pair(&event_loop)];
        let own = event_loop.clone();
        run(&event_loop, async move {
            own.yield_now().await;
            for (socket, _) in &pairs {
                assert!(socket.post(b"held".to_vec()));
            }
            for (_, peer) in &mut pairs {
                assert_eq!(arrived(peer), b"");
            }
            assert!(!own.is_settled(), "a thread that ends now would lose them");
            own.yield_now().await;
            for (_, peer) in &mut pairs {
                assert_eq!(arrived(peer), b"held");
            }
            assert!(own.is_settled());
        });
    });
}

#[test]
fn an_urgent_message_goes_out_now() {
    both(|event_loop| {
        let (asked, mut first) = pair(&event_loop);
        let (ended, mut second) = pair(&event_loop);
        let (followed, mut third) = pair(&event_loop);
        run(&event_loop, async move {
            asked.post(b"asked".to_vec());
            poll_fn(|cx| asked.poll_sent(cx)).await.unwrap();
            assert_eq!(arrived(&mut first), b"asked");
            ended.post(b"ended".to_vec());
            ended.shutdown(Shutdown::Write);
            assert_eq!(arrived(&mut second), b"ended");
            followed.post(b"one".to_vec());
            followed.post(b"another".to_vec());
            assert_eq!(arrived(&mut third), b"one");
            poll_fn(|cx| followed.poll_sent(cx)).await.unwrap();
            assert_eq!(arrived(&mut third), b"another");
        });
    });
}

#[test]
fn the_receiving_task_hears_of_a_failed_send() {
    both(|event_loop| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut full = ours.try_clone().unwrap();
        full.set_nonblocking(true).unwrap();
        let socket = Socket::new(&event_loop, ours).unwrap();
        run(&event_loop, async move {
            while full.write(&[7; 4096]).is_ok() {}
            assert!(socket.post(b"late".to_vec()));
            // If the loop does not wake this task, the test hangs.
            poll_fn(|cx| {
                assert!(socket.poll_recv(SMALL, cx).is_pending());
                if socket.is_behind() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                theirs.read_to_end(&mut all).unwrap();
                all
            });
            poll_fn(|cx| socket.poll_sent(cx)).await.unwrap();
            socket.shutdown(Shutdown::Write);
            assert!(reader.join().unwrap().ends_with(b"late"));
        });
        assert!(event_loop.is_settled());
    });
}

#[test]
fn an_undeliverable_message_is_unsent_and_ends_it() {
    both(|event_loop| {
        let (socket, theirs) = pair(&event_loop);
        run(&event_loop, async move {
            theirs.shutdown(Shutdown::Read).unwrap();
            assert!(socket.post(b"lost".to_vec()));
            assert_eq!(receive(&socket, SMALL).await, b"");
            assert!(socket.unsent().expect("it is known").nothing);
            assert!(socket.is_behind());
        });
    });
}
