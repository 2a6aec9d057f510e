//! Tests of the ends of connections, orderly or by a reset, after any byte and together with the last bytes.
//! No end may be missed, and the loop must not keep bytes for a connection that has ended.

use super::*;

#[test]
fn resets_at_any_byte_leave_nothing_behind() {
    both(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let clients = std::thread::spawn(move || {
            for sent in 0..60 {
                let mut client = TcpStream::connect(address).unwrap();
                client.write_all(&pattern(sent, 0)).unwrap();
                // The read leaves most of the answer unread, so the close that follows is a reset. A client
                // that reads nothing mostly closes before the answer comes, which is an orderly end.
                if sent % 2 == 0 {
                    let _ = client.read(&mut [0; 1]);
                }
            }
        });
        let own = event_loop.clone();
        run(&event_loop, async move {
            let listener = Listener::new(&own, listener).unwrap();
            for _ in 0..60 {
                let served = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap().socket;
                served.post(vec![3; 100]);
                let _ = receive_all(&served).await;
            }
        });
        clients.join().unwrap();
        assert!(event_loop.is_settled());
    });
}

/// Makes many sockets, one after the other. For each socket, `end` runs on another thread: the peer sends
/// some bytes and ends at once. Each socket has to receive the end.
fn ends_at_once<P: Send + 'static>(
    pair: impl Fn(&Rc<EventLoop>) -> (Socket, P) + Copy + 'static,
    end: impl Fn(P) + Copy + Send + 'static,
) {
    both(|event_loop| {
        let (to_writer, peers) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || peers.into_iter().for_each(end));
        let own = event_loop.clone();
        run(&event_loop, async move {
            for _ in 0..10_000 {
                let (socket, peer) = pair(&own);
                assert!(look_once(&socket).await.is_pending());
                to_writer.send(peer).unwrap();
                receive_all(&socket).await;
            }
        });
        writer.join().unwrap();
    });
}

fn tcp_pair(event_loop: &Rc<EventLoop>) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (Socket::new(event_loop, ours).unwrap(), theirs)
}

#[test]
fn an_end_with_the_last_bytes_counts_unix() {
    ends_at_once(pair, |mut peer| {
        peer.write_all(&[5; 123]).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
    });
}

#[test]
fn an_end_with_the_last_bytes_counts_tcp() {
    ends_at_once(tcp_pair, |mut peer| {
        peer.write_all(&[5; 123]).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
    });
}

#[test]
fn a_reset_with_the_last_bytes_counts() {
    ends_at_once(tcp_pair, |mut peer| {
        peer.write_all(&[5; 123]).unwrap();
        rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    });
}
