//! Asks a pod's `/health` over its Unix socket. It never judges an answer but 200 or not.
//! A starting pod is asked from its spawn on, a quarantined one when the scheduler says so.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
/// The status line up to its code.
const STATUS_LEN: usize = "HTTP/1.1 200".len();

/// Asks until the answer is 200; the caller sets the limit.
pub(crate) async fn until_healthy(socket: &Path) {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Ok(Ok(true)) = timeout(ANSWER, ask(socket)).await {
            return;
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

async fn ask(socket: &Path) -> io::Result<bool> {
    let stream = UnixStream::connect(socket).await?;
    let mut sent = 0;
    while sent < REQUEST.len() {
        stream.writable().await?;
        match stream.try_write(&REQUEST[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let mut status = [0; STATUS_LEN];
    let mut got = 0;
    while got < STATUS_LEN {
        stream.readable().await?;
        match stream.try_read(&mut status[got..]) {
            Ok(0) => return Ok(false),
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(status.starts_with(b"HTTP/1.") && status.ends_with(b" 200"))
}
