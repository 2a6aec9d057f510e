//! A test of the order in which the requests of several clients are answered.

use std::cell::RefCell;
use std::io::Write;
use std::os::unix::net::UnixStream;

use super::*;
use crate::runtime::net::{Accepted, Socket};
use crate::shard::fleet::{Fleet, settle, with_fleet};

const REQUEST: &[u8] = b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n";
/// The number of requests that a client sends ahead. It is so small that the socket's buffer holds all
/// answers.
const AHEAD: usize = 150;
/// The number of requests of one connection that `client_conn` serves before the other connections are
/// polled.
const SHARE_REQUESTS: usize = 8;

/// Opens a connection, and sends `requests` requests on it. Each answered request appends `name` to `seen`.
/// The caller has to keep the returned end open.
fn connect(fleet: &Fleet, name: char, requests: usize, seen: &Rc<RefCell<String>>) -> UnixStream {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    theirs.set_nonblocking(true).expect("a socket");
    ours.write_all(&REQUEST.repeat(requests)).expect("room");
    let socket = Socket::new(&fleet.event_loop, theirs).expect("a socket");
    let port = ListenerPort::Public { internal: true };
    let conn = ClientConn::new(fleet.threads[0].clone(), Accepted::own(socket), port);
    let seen = seen.clone();
    let noted = move |conn: Rc<ClientConn>, head: RequestHead, arrived_at| {
        seen.borrow_mut().push(name);
        answer(conn, head, arrived_at)
    };
    let serving = serve(conn, Rc::new(RequestPools::default()), noted.clone(), noted);
    fleet.event_loop.spawn(serving);
    ours
}

#[test]
fn pipelining_clients_get_their_share_of_an_iteration() {
    with_fleet(1, async |fleet: Rc<Fleet>| {
        fleet.attend();
        let seen = Rc::new(RefCell::new(String::new()));
        let clients = [('a', AHEAD), ('b', AHEAD), ('o', 1)];
        let _open = clients.map(|(name, requests)| connect(&fleet, name, requests, &seen));
        for _ in 0..10_000 {
            settle().await;
            if seen.borrow().len() > 2 * AHEAD {
                break;
            }
        }
        let seen = seen.borrow();
        assert_eq!(seen.len(), 2 * AHEAD + 1, "each is answered: {seen}");
        // A connection that is polled last in one iteration and first in the next has two shares in a row.
        let most = 2 * SHARE_REQUESTS;
        let first = seen.find('o').expect("it was answered");
        assert!(first <= 2 * most, "{first} requests first: {seen}");
        let both = &seen[..seen.rfind('b').expect("it was answered")];
        let run = both.split('b').map(str::len).max().expect("a part");
        assert!(run <= most + 1, "{run} requests in a row: {seen}");
    });
}
