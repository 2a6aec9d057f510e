//! Joins the platform's Unix socket to a program that listens on a port alone. It reads no request:
//! the runtime's `forward` does. Called by `supervise`, where there is such a program; all others are
//! called directly.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nanofaas_runtime::{forward, log};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const CONNECTIONS_MAX: usize = 1024;

/// A socket whose connections go on to a port; closed when it is dropped.
pub(crate) struct Relay {
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) fn open(socket: &Path, port: u16) -> std::io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let task = tokio::spawn(accept(listener, port));
        Ok(Self { task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: UnixListener, port: u16) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(held) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    join(stream, port).await;
                    drop(held);
                });
            }
            Err(error) => {
                log::line(
                    "warn",
                    &format!("cannot accept a connection: {error}"),
                    None,
                    &[],
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Whichever side closes, or fails, the other one sees it.
async fn join(platform: UnixStream, port: u16) {
    let Ok(program) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    // Without it small writes would wait for each other's acknowledgement.
    if program.set_nodelay(true).is_ok() {
        let _ = forward::forward(platform, program).await;
    }
}
