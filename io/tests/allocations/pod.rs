//! The pods: threads that answer every request of a connection with the same bytes.
//! They never allocate for a request. The bridge of the test says where they listen.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::spawn;

use nanofaas_core::message::PodAddress;

use crate::wire::Messages;

/// A pod behind a port of this machine.
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

/// A pod behind a socket in the file system, whose file is the caller's.
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
        if requests.stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
