//! The pods: threads that answer every request of a connection with the same bytes, without an allocation.
//! The test sets how many requests have to be at the pods before one of them is answered.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::thread::spawn;
use std::time::Duration;

use nanofaas_core::message::PodAddress;

use crate::wire::Messages;

/// The meeting at which requests wait for each other.
pub(crate) static MEETING: Meeting = Meeting {
    size: Mutex::new(1),
    there: Mutex::new((0, 0)),
    met: Condvar::new(),
};
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Meeting {
    /// The number of requests that must be there before they are answered.
    size: Mutex<usize>,
    /// The number of requests that wait, and the number of meetings that have ended.
    there: Mutex<(usize, usize)>,
    met: Condvar,
}

impl Meeting {
    /// From now on, a request is answered only when `size` requests are there. No request may wait during
    /// this call.
    pub(crate) fn of(&self, size: usize) {
        *self.size.lock().expect("nothing panics with it") = size;
    }

    fn join(&self) {
        let size = *self.size.lock().expect("nothing panics with it");
        let mut there = self.there.lock().expect("nothing panics with it");
        let (_, meeting) = *there;
        there.0 += 1;
        if there.0 == size {
            *there = (0, meeting + 1);
            self.met.notify_all();
            return;
        }
        let (_there, waited) = self
            .met
            .wait_timeout_while(there, PATIENCE, |there| there.1 == meeting)
            .expect("nothing panics with it");
        assert!(!waited.timed_out(), "under {size} calls are with pods");
    }
}

pub(crate) fn tcp() -> PodAddress {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            stream.set_nodelay(true).expect("a socket");
            spawn(move || serve(stream));
        }
    });
    PodAddress::Tcp(address)
}

/// The caller has to remove the socket's file.
pub(crate) fn unix(path: &Path) -> PodAddress {
    let listener = UnixListener::bind(path).expect("a socket");
    spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            spawn(move || serve(stream));
        }
    });
    PodAddress::Unix(path.to_owned())
}

fn serve(stream: impl Read + Write) {
    let body = format!(r#""{}""#, "x".repeat(256));
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut requests = Messages::new(stream);
    while requests.next().is_some() {
        MEETING.join();
        if requests.stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
