//! The link is the control plane's end of the connection to the guard. It starts the guard and exchanges
//! messages with it. If the guard ends unexpectedly, the link ends the processes that the guard left behind,
//! reports their ends, and starts a new guard. The link does not know which pod or Job a process is for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use nanofaas_backend::task::AbortOnDrop;
use nanofaas_core::spec::ENV_RESERVED;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use crate::guard::descent;
use crate::guard::wire::{FromGuard, Lines, ProcessEnding, Start, ToGuard, line};

/// The pause before a new guard is started. It doubles up to `LONGEST_BACKOFF` if guards soon end or cannot
/// be started.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// The capacity, in bytes, that the buffers to the guard keep after a burst.
const OUT_KEPT: usize = 64 * 1024;
/// How long a guard may take to end all processes after its control plane has closed the socket.
const GUARD_END: Duration = Duration::from_secs(10);

/// How a process has ended, or why it never ran.
#[derive(Clone, Debug)]
pub(crate) enum ProcessEnd {
    NotStarted { message: String, permanent: bool },
    Ended(ProcessEnding),
    GuardLost,
}

/// The state of a process. A change of this state notifies `bell`.
pub(crate) struct ProcessHandle {
    id: u64,
    /// None until the guard has started the process.
    pub(crate) pid: Cell<Option<Pid>>,
    end: RefCell<Option<ProcessEnd>>,
    bell: Rc<Notify>,
}

impl ProcessHandle {
    pub(crate) fn end(&self) -> Option<ProcessEnd> {
        self.end.borrow().clone()
    }
}

pub(crate) struct GuardProcess {
    child: Child,
    socket: StdStream,
}

pub(crate) struct Link {
    program: Vec<OsString>,
    /// The bytes that are not sent yet. They are bounded, because each process is started one time and
    /// signalled a few times.
    out: RefCell<Vec<u8>>,
    more: Notify,
    pub(crate) started: Notify,
    processes: RefCell<HashMap<u64, Rc<ProcessHandle>>>,
    next_id: Cell<u64>,
    is_closing: Cell<bool>,
    closed: Notify,
}

pub(crate) fn start_guard(program: &[OsString]) -> io::Result<GuardProcess> {
    let (first, rest) = program
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no guard program is named"))?;
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new(first);
    command
        .args(rest)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null());
    // Functions inherit the guard's environment, so remove the variables that they must not get.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_kept_from_functions) {
            command.env_remove(name);
        }
    }
    let child = command.spawn()?;
    Ok(GuardProcess {
        child,
        socket: ours,
    })
}

/// Returns whether functions must not inherit this variable. The control plane's settings are private, and
/// the variables that the platform sets for functions must not come from outside.
fn is_kept_from_functions(name: &str) -> bool {
    name.starts_with("NANOFAAS_") || ENV_RESERVED.contains(&name)
}

impl Link {
    pub(crate) fn new(program: Vec<OsString>) -> Self {
        Self {
            program,
            out: RefCell::new(Vec::new()),
            more: Notify::new(),
            started: Notify::new(),
            processes: RefCell::new(HashMap::new()),
            next_id: Cell::new(1),
            is_closing: Cell::new(false),
            closed: Notify::new(),
        }
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// Starts a process. `bell` is notified when the process runs, and when it has ended or cannot run.
    pub(crate) fn start(&self, start: Start, bell: Rc<Notify>) -> Rc<ProcessHandle> {
        let known = Rc::new(ProcessHandle {
            id: start.id,
            pid: Cell::new(None),
            end: RefCell::new(None),
            bell,
        });
        match line(&ToGuard::Start(Box::new(start))) {
            Ok(line) => {
                self.processes.borrow_mut().insert(known.id, known.clone());
                self.started.notify_one();
                self.send(&line);
            }
            Err(message) => {
                let permanent = true;
                *known.end.borrow_mut() = Some(ProcessEnd::NotStarted { message, permanent });
                known.bell.notify_one();
            }
        }
        known
    }

    /// Sends a signal to a process or its group. The guard ignores it if the process has ended.
    pub(crate) fn signal(&self, known: &ProcessHandle, signal: Signal, group: bool) {
        let signal = signal as i32;
        let id = known.id;
        if let Ok(line) = line(&ToGuard::Signal { id, signal, group }) {
            self.send(&line);
        }
    }

    fn send(&self, line: &[u8]) {
        self.out.borrow_mut().extend_from_slice(line);
        self.more.notify_one();
    }

    pub(crate) fn terminate_all(&self) {
        let all: Vec<_> = self.processes.borrow().values().cloned().collect();
        for known in all {
            self.signal(&known, Signal::SIGTERM, false);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.processes.borrow().is_empty()
    }

    /// Keeps a guard running until the link is closed.
    pub(crate) async fn keep(self: Rc<Self>, first: GuardProcess) {
        let mut guard = first;
        let mut backoff = FIRST_BACKOFF;
        loop {
            let since = Instant::now();
            let served = self.serve(guard.socket).await;
            if self.is_closing.get() {
                end_guard(guard.child).await;
                return self.closed.notify_one();
            }
            let _ = guard.child.kill();
            let _ = guard.child.wait();
            self.lost(served).await;
            // If a guard ran for longer than this, the back-off begins again.
            if since.elapsed() > LONGEST_BACKOFF {
                backoff = FIRST_BACKOFF;
            }
            guard = loop {
                // Sleep before every start, because each guard may start and end at once.
                sleep(backoff).await;
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
                if self.is_closing.get() {
                    return self.closed.notify_one();
                }
                match start_guard(&self.program) {
                    Ok(guard) => break guard,
                    Err(error) => {
                        self.fail_all(&format!("the guard cannot be started: {error}"));
                    }
                }
            };
        }
    }

    /// Ends the processes that a killed guard left behind, and then reports their ends.
    async fn lost(&self, served: io::Result<()>) {
        let pods = self.processes.borrow().len();
        let why = served
            .err()
            .map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        tracing::error!("the guard of the function processes is gone ({why}); {pods} are ended");
        if !descent::end_inherited().await {
            tracing::error!("some processes that the guard left behind could not be ended");
        }
        // Drop the unsent messages, because they are about processes of the dead guard.
        self.out.borrow_mut().clear();
        self.end_all(&ProcessEnd::GuardLost);
    }

    fn fail_all(&self, message: &str) {
        tracing::error!("{message}");
        self.out.borrow_mut().clear();
        self.end_all(&ProcessEnd::NotStarted {
            message: message.to_owned(),
            permanent: false,
        });
    }

    fn end_all(&self, end: &ProcessEnd) {
        for (_, known) in self.processes.take() {
            *known.end.borrow_mut() = Some(end.clone());
            known.bell.notify_one();
        }
    }

    /// Exchanges messages with one guard until the guard is gone or the link is closed.
    async fn serve(self: &Rc<Self>, socket: StdStream) -> io::Result<()> {
        let (reader, writer) = UnixStream::from_std(socket)?.into_split();
        let link = self.clone();
        let writing = AbortOnDrop(spawn_local(async move { link.write(writer).await }));
        let served = self.read(reader).await;
        drop(writing);
        served
    }

    async fn write(&self, writer: OwnedWriteHalf) {
        let mut sending = Vec::new();
        loop {
            std::mem::swap(&mut sending, &mut self.out.borrow_mut());
            if sending.is_empty() {
                if self.is_closing.get() {
                    // Dropping `writer` closes this direction, so that the guard reads the end of the stream.
                    return;
                }
                self.more.notified().await;
                continue;
            }
            if write_all(&writer, &sending).await.is_err() {
                // `read` of the same socket fails, too, and reports the error.
                return;
            }
            sending.clear();
            // Start messages contain the inputs of Jobs and may be large, so return the memory.
            sending.shrink_to(OUT_KEPT);
        }
    }

    async fn read(&self, reader: OwnedReadHalf) -> io::Result<()> {
        let mut lines = Lines::default();
        loop {
            reader.readable().await?;
            let mut bytes = [0; 8 * 1024];
            match reader.try_read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => lines.push(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            while let Some(message) = lines.pop() {
                self.on_message(message.map_err(io::Error::other)?);
            }
        }
    }

    fn on_message(&self, message: FromGuard) {
        let (id, end) = match message {
            FromGuard::Started { id, pid } => {
                if let Some(known) = self.processes.borrow().get(&id) {
                    known.pid.set(Some(Pid::from_raw(pid)));
                    known.bell.notify_one();
                }
                return;
            }
            FromGuard::NotStarted {
                id,
                message,
                permanent,
            } => (id, ProcessEnd::NotStarted { message, permanent }),
            FromGuard::Ended { id, ending } => (id, ProcessEnd::Ended(ending)),
        };
        let known = self.processes.borrow_mut().remove(&id);
        if let Some(known) = known {
            *known.end.borrow_mut() = Some(end);
            known.bell.notify_one();
        }
    }

    /// Closes the link, and so makes the guard end the remaining processes and itself. Returns when the guard
    /// has ended, or was killed after `GUARD_END`.
    pub(crate) async fn close(&self) {
        self.is_closing.set(true);
        self.more.notify_one();
        self.closed.notified().await;
    }
}

/// Waits until a guard has ended its processes and itself. A guard that does not end in time is killed, and
/// the processes that it leaves behind are ended.
async fn end_guard(mut child: Child) {
    let deadline = Instant::now() + GUARD_END;
    while Instant::now() < deadline {
        if let Ok(Some(_)) | Err(_) = child.try_wait() {
            return;
        }
        sleep(Duration::from_millis(2)).await;
    }
    tracing::error!("the guard does not end; it is killed");
    let _ = child.kill();
    let _ = child.wait();
    descent::end_inherited().await;
}

async fn write_all(writer: &OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        writer.writable().await?;
        match writer.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
