//! Asks a pod's `/health` at its address. It never judges an answer but 200 or not.
//! A starting pod is asked from the moment it has an address, a quarantined one when the scheduler
//! says so.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";

/// Asks until the answer is 200; the caller sets the limit. `asked` is told of every answer, also
/// of none.
pub(crate) async fn until_healthy(address: SocketAddr, mut asked: impl FnMut()) {
    let mut pause = FIRST_PAUSE;
    loop {
        let answer = timeout(ANSWER, ask(address)).await;
        asked();
        if let Ok(Ok(true)) = answer {
            return;
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

async fn ask(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(REQUEST).await?;
    let mut status = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status).await?;
    Ok(status.starts_with(b"HTTP/1.") && status.ends_with(b" 200"))
}
