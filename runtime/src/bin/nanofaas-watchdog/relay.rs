//! Joins the platform's Unix socket to a program that listens on a port alone. It reads no request:
//! the runtime's `forward` does. A call that the program had when it ended is answered at once, with
//! how it ended. Called by `supervise`, where there is such a program; all others are called directly.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nanofaas_runtime::{Error, forward, log};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const CONNECTIONS_MAX: usize = 1024;
/// A program's connections close a moment before its end is known.
const FATE_WAIT: Duration = Duration::from_millis(250);

/// How the program ended, once it has, as its calls are told.
pub(crate) type Fate = watch::Receiver<Option<Error>>;

/// A socket whose connections go on to a port; closed when it is dropped.
pub(crate) struct Relay {
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) fn open(socket: &Path, port: u16, fate: Fate) -> std::io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let task = tokio::spawn(accept(listener, port, fate));
        Ok(Self { task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: UnixListener, port: u16, fate: Fate) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(held) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let fate = fate.clone();
                tokio::spawn(async move {
                    join(stream, port, fate).await;
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
async fn join(platform: UnixStream, port: u16, fate: Fate) {
    // Some programs listen for one family alone.
    let loopback: [SocketAddr; 2] = [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
    ];
    let program = TcpStream::connect(&loopback[..]).await;
    // Without it small writes would wait for each other's acknowledgement.
    let program = program.and_then(|program| program.set_nodelay(true).map(|()| program));
    // An error is one of the connections' ends; both close with it.
    let _ = match program {
        Ok(program) => forward::forward(platform, program, told(fate)).await,
        Err(_) => forward::not_started(platform).await,
    };
}

async fn told(mut fate: Fate) -> Option<Error> {
    let told = timeout(FATE_WAIT, fate.wait_for(Option::is_some)).await;
    told.ok()?.ok()?.clone()
}
