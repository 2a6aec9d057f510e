//! Connects the platform's Unix socket to a program that listens only on a port; `supervise` opens a relay
//! for such a program. If the program ends before it answers a call, the call gets at once an error that
//! tells how the program ended. The runtime's `forward` reads the requests.

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
/// How long a relay waits for the program's end after a connection broke. The kernel closes a
/// program's connections shortly before it reports the program's end.
const FATE_WAIT: Duration = Duration::from_millis(250);

/// The error that calls get when the program has ended.
pub(crate) type ProgramFate = watch::Receiver<Option<Error>>;

/// A socket whose connections are relayed to a port. Dropping the relay closes the socket; the
/// connections stay.
pub(crate) struct Relay {
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) fn open(socket: &Path, port: u16, fate: ProgramFate) -> std::io::Result<Self> {
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

async fn accept(listener: UnixListener, port: u16, fate: ProgramFate) {
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

/// Relays one connection. If one side closes or fails, the other side is closed, too.
async fn join(platform: UnixStream, port: u16, fate: ProgramFate) {
    // Some programs listen on IPv4 or on IPv6 only.
    let loopback: [SocketAddr; 2] = [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
    ];
    let program = TcpStream::connect(&loopback[..]).await;
    // Without TCP_NODELAY, a small write could wait for the acknowledgement of the write before it.
    let program = program.and_then(|program| program.set_nodelay(true).map(|()| program));
    // An error ends only this connection, and both of its sides close.
    let _ = match program {
        Ok(program) => forward::forward(platform, program, told(fate)).await,
        Err(_) => forward::not_started(platform).await,
    };
}

async fn told(mut fate: ProgramFate) -> Option<Error> {
    let told = timeout(FATE_WAIT, fate.wait_for(Option::is_some)).await;
    told.ok()?.ok()?.clone()
}
