//! Starts the io threads: prepares what each thread needs, and tries the I/O drivers in order. It serves no
//! call; the threads that it starts do. The process calls it one time.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};
use std::time::{Instant, SystemTime};

use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::entries::Entries;
use nanofaas_core::memory::Account;
use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::on_end::OnEnd;
use nanofaas_core::post::{BridgePost, IoInbox};
use nanofaas_core::rate::RateBucket;
use nanofaas_core::shard::ShardId;
use nanofaas_core::time::Nanos;
use nix::unistd::{Pid, gettid};

pub use crate::links::scheduler::SchedulerSetup;
use crate::links::shards::ShardPost;
use crate::links::{Inbox, Links, Posts};
use crate::runtime::buffers::Buffers;
pub use crate::runtime::config::{DriverChoice, IoConfig};
use crate::runtime::net::{EventLoop, RingSetup, Socket};
use crate::runtime::phase::ShutdownPhase;
use crate::runtime::{Common, Runtime};
use crate::server::accept;
pub use crate::server::accept::{ListenError, listener};
use crate::server::client_conn::ListenerPort;
use crate::shard::watchdog::{self, LastSeen, Watched};
use crate::shard::{inbox, spin, ticker};
use crate::state::store::Store;
use crate::state::token::Tokens;
use crate::state::{SharedTables, Tables};

pub use crate::invoke::charges::charge_for;

/// What connects the io threads with the other threads of the process.
pub struct Plumbing {
    /// The process's clock counts from `origin`. The wall clock read `origin_wall` at that moment.
    pub origin: Instant,
    pub origin_wall: SystemTime,
    pub entries: Arc<Entries>,
    pub scheduler: SchedulerSetup,
    /// One inbox for each io thread, with the socket on which the thread reads its bell.
    pub inboxes: Vec<(IoInbox, UnixStream)>,
    pub bridge: BridgePost,
    pub ledgers: Arc<[ThreadLedger]>,
    pub rate: Arc<RateBucket>,
    /// This waker is called when an io thread has ended.
    pub on_end: Waker,
}

/// The running io threads.
pub struct IoThreads {
    pub threads: Vec<std::thread::JoinHandle<()>>,
    /// The driver that all io threads use, for the log and the metric: `uring` or `epoll`.
    pub driver: &'static str,
    pub listen: SocketAddr,
    pub internal_listen: Option<SocketAddr>,
}

/// Makes an io thread's bell, and the socket on which the thread reads it. Each ring writes one byte.
pub fn bell() -> std::io::Result<(Arc<Doorbell>, UnixStream)> {
    struct BellRinger(UnixStream);
    impl std::task::Wake for BellRinger {
        fn wake(self: Arc<Self>) {
            use std::io::Write;
            // If the socket's buffer is full, the thread has bytes to read already.
            let _ = (&self.0).write(&[1]);
        }
    }
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((
        Arc::new(Doorbell::new(Arc::new(BellRinger(ours)).into())),
        theirs,
    ))
}

/// Why the io threads could not be started, with advice.
#[derive(Debug, thiserror::Error)]
pub enum IoStartError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(
        "io_uring is not to be had here ({0}); it takes Linux 5.19 and a sandbox that allows it: use --io-driver auto or epoll"
    )]
    NoUring(std::io::Error),
    #[error("cannot start an io thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A driver with its settings, for the ladder of drivers that `climb` tries in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rung {
    Uring { entries: u32 },
    Epoll,
}

impl Rung {
    fn build(self, spins: bool, buffers: &Rc<Buffers>) -> std::io::Result<Rc<EventLoop>> {
        match self {
            Self::Uring { entries } => {
                EventLoop::probe_uring()?;
                let build =
                    |deferred| EventLoop::uring(RingSetup { entries, deferred }, buffers.clone());
                // `DEFER_TASKRUN` needs Linux 6.1. With it, completions are made only when the loop waits for
                // them. A loop that spins never waits, so it must not have this option.
                if spins {
                    build(false)
                } else {
                    build(true).or_else(|_| build(false))
                }
            }
            Self::Epoll => EventLoop::epoll(buffers.clone()),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Uring { .. } => "uring",
            Self::Epoll => "epoll",
        }
    }
}

impl DriverChoice {
    fn ladder(self) -> &'static [Rung] {
        const ALL: [Rung; 3] = [
            Rung::Uring { entries: 1024 },
            Rung::Uring { entries: 256 },
            Rung::Epoll,
        ];
        match self {
            Self::Auto => &ALL,
            Self::Uring => &ALL[..2],
            Self::Epoll => &ALL[2..],
        }
    }
}

pub(crate) struct ShardParts {
    pub(crate) id: ShardId,
    pub(crate) common: Common,
    pub(crate) shared: SharedTables,
    pub(crate) posts: Posts,
}

impl ShardParts {
    /// Builds the layers of the io thread, the lowest first. The function runs on that thread.
    pub(crate) fn put_together(self, event_loop: Rc<EventLoop>, buffers: Rc<Buffers>) -> Rc<Links> {
        let runtime = Runtime::new(self.id, self.common, event_loop, buffers);
        Links::new(Tables::new(runtime, self.shared), self.posts)
    }
}

/// An io thread that waits until its driver is chosen.
struct Starting {
    rungs: SyncSender<Option<Rung>>,
    built: Receiver<std::io::Result<Pid>>,
    /// This reference can be upgraded as long as the thread lives.
    alive: Weak<()>,
    thread: std::thread::JoinHandle<()>,
}

/// The receiving ends and listeners that each thread gets besides its parts.
struct ThreadEnds {
    inbox: Inbox,
    bell: UnixStream,
    listeners: Vec<(TcpListener, ListenerPort)>,
    /// For each io thread: whether it was ordered to stop and has nothing left to answer.
    settled: Arc<[AtomicBool]>,
}

fn start_one(parts: ShardParts, ends: ThreadEnds, on_end: OnEnd) -> std::io::Result<Starting> {
    // The thread reports on a rung before it gets the next one, so one place is enough.
    let (rungs, wanted) = sync_channel::<Option<Rung>>(1);
    let (report, built) = sync_channel(1);
    let name = parts.id.to_string();
    let life = Arc::new(());
    let alive = Arc::downgrade(&life);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let _kept = (life, on_end);
        pin_to(&parts);
        let buffers = Rc::new(Buffers::default());
        let mut event_loop = None;
        for rung in wanted {
            let Some(rung) = rung else { break };
            event_loop = None;
            let built = rung
                .build(parts.common.config.spin_for.is_some(), &buffers)
                .map(|built| {
                    event_loop = Some(built);
                    gettid()
                });
            if report.send(built).is_err() {
                return;
            }
        }
        if let Some(event_loop) = event_loop {
            let thread = parts.put_together(event_loop.clone(), buffers);
            event_loop.run(live(thread, ends));
            // The event loop is not dropped, because the kernel may still use its buffers for operations in
            // flight. These operations end with the process.
            std::mem::forget(event_loop);
        }
    })?;
    Ok(Starting {
        rungs,
        built,
        alive,
        thread,
    })
}

fn pin_to(parts: &ShardParts) {
    use nix::sched::{CpuSet, sched_setaffinity};
    let Some(cpu) = parts.common.config.pin.get(parts.id.index()) else {
        return;
    };
    let mut set = CpuSet::new();
    let pinned = set
        .set(*cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        tracing::warn!(cpu, "an io thread could not be pinned: {error}");
    }
}

/// Runs an io thread from its start to its end.
async fn live(thread: Rc<Links>, ends: ThreadEnds) {
    let event_loop = &thread.event_loop;
    let inbox = Rc::new(RefCell::new(ends.inbox));
    let _first = thread.inbox.set(inbox.clone());
    let bell = Socket::new(event_loop, ends.bell).expect("a bell is a socket");
    if thread.config.spin_for.is_some() {
        event_loop.spawn(spin::run(thread.clone(), inbox.clone()));
    }
    event_loop.spawn(inbox::run(thread.clone(), inbox, bell));
    event_loop.spawn(ticker::run(thread.clone()));
    let watching = thread.clone();
    event_loop.spawn(async move { watching.readers.watch(&watching).await });
    for (listener, port) in ends.listeners {
        event_loop.spawn(accept::run(thread.clone(), listener, port));
    }
    // The thread runs until it is ordered to stop and all io threads have answered everything, because a
    // client of another thread may still ask for an execution of this thread.
    poll_fn(|cx| {
        if thread.phase.get() == ShutdownPhase::Stopping {
            return Poll::Ready(());
        }
        thread.until_stopping.replace(Some(cx.waker().clone()));
        Poll::Pending
    })
    .await;
    let alarm = thread.alarms.alarm();
    let since = thread.now();
    loop {
        let now = thread.now();
        let ended = thread.answering.get() == 0 && thread.calls.len() == 0;
        let quiet = ended && event_loop.is_settled();
        ends.settled[thread.id.index()].store(quiet, Ordering::Relaxed);
        let all = ends.settled.iter().all(|one| one.load(Ordering::Relaxed));
        if all || now > since + LAST_ANSWERS {
            return;
        }
        alarm.until(now + STOP_POLL).await;
    }
}

/// The longest wait for the last answers after the order to stop.
const LAST_ANSWERS: Nanos = Nanos::from_s(3);
const STOP_POLL: Nanos = Nanos::from_ms(2);

/// Starts all io threads, with the first driver that all of them can use.
pub fn start(config: &IoConfig, plumbing: Plumbing) -> Result<IoThreads, IoStartError> {
    let count = plumbing.inboxes.len();
    let mut public = accept::listeners(config.listen, count)?;
    let listen = public[0].local_addr()?;
    let mut internal = match config.internal_listen {
        Some(address) => accept::listeners(address, count)?,
        None => Vec::new(),
    };
    let internal_listen = internal.first().map(TcpListener::local_addr).transpose()?;
    let port = ListenerPort::Public {
        internal: internal.is_empty(),
    };
    let (shards, mut shard_inboxes): (Vec<_>, Vec<_>) = plumbing
        .inboxes
        .iter()
        .map(|(inbox, _)| ShardPost::pair(inbox.bell.clone()))
        .unzip();
    let inboxes = plumbing.inboxes.iter();
    let bells: Vec<_> = inboxes.map(|(inbox, _)| inbox.bell.clone()).collect();
    let store = Store::new(config.execution_store_bytes, plumbing.ledgers.clone());
    let store = Arc::new(store);
    let account = Account::new(config.inflight_bytes, bells.iter().cloned());
    let settled: Arc<[AtomicBool]> = (0..count).map(|_| AtomicBool::new(false)).collect();
    let common = Common {
        config: config.clone(),
        threads: count as u16,
        origin: plumbing.origin,
        origin_wall: plumbing.origin_wall,
        ledgers: plumbing.ledgers.clone(),
    };
    let shared = SharedTables {
        entries: plumbing.entries,
        rate: plumbing.rate,
        account,
        scarcity: Arc::default(),
        store,
        tokens: Tokens::new(),
    };
    let posts = Posts {
        scheduler: plumbing.scheduler,
        bridge: plumbing.bridge,
        shards: shards.into(),
    };
    let mut starting = Vec::new();
    for (index, (rings, bell)) in plumbing.inboxes.into_iter().enumerate() {
        let parts = ShardParts {
            id: ShardId::new(index as u16),
            common: common.clone(),
            shared: shared.clone(),
            posts: posts.clone(),
        };
        let mut listeners = vec![(public.remove(0), port)];
        if !internal.is_empty() {
            listeners.push((internal.remove(0), ListenerPort::Internal));
        }
        let inbox = Inbox {
            rings,
            shards: shard_inboxes.remove(0),
        };
        starting.push(start_one(
            parts,
            ThreadEnds {
                inbox,
                bell,
                listeners,
                settled: settled.clone(),
            },
            OnEnd(plumbing.on_end.clone()),
        )?);
    }
    let (rung, tids) = climb(config.driver, &starting)?;
    if matches!(rung, Rung::Uring { .. }) {
        let threads = (0..).map(ShardId::new).zip(starting.iter().zip(tids));
        let watched = threads.map(|(id, (one, tid))| Watched {
            id,
            tid,
            alive: one.alive.clone(),
            bell: bells[id.index()].clone(),
            seen: LastSeen::default(),
        });
        watchdog::start(watched.collect(), plumbing.ledgers)?;
    }
    let threads = starting.into_iter().map(|one| one.thread).collect();
    Ok(IoThreads {
        threads,
        driver: rung.name(),
        listen,
        internal_listen,
    })
}

/// Tries the rungs in order, until one of them works on all threads. Returns that rung, and the threads' ids.
fn climb(choice: DriverChoice, starting: &[Starting]) -> Result<(Rung, Vec<Pid>), IoStartError> {
    let mut last = None;
    for rung in choice.ladder() {
        for one in starting {
            let _gone = one.rungs.send(Some(*rung));
        }
        let mut tids = Vec::new();
        for one in starting {
            match one.built.recv() {
                Ok(Ok(tid)) => tids.push(tid),
                Ok(Err(error)) => last = Some(error),
                Err(_) => {}
            }
        }
        if tids.len() == starting.len() {
            for one in starting {
                let _gone = one.rungs.send(None);
            }
            return Ok((*rung, tids));
        }
    }
    let error = last.unwrap_or_else(|| std::io::Error::other("an io thread ended at once"));
    Err(if choice == DriverChoice::Uring {
        IoStartError::NoUring(error)
    } else {
        error.into()
    })
}
