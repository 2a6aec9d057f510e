//! The base of an io thread: event loop, time, buffers. All parts of the thread use it. This folder imports
//! nothing from the other folders of `io`.

pub(crate) mod net;
pub(crate) mod config;
pub(crate) mod phase;
pub(crate) mod clock;
pub(crate) mod date;
pub(crate) mod timers;
pub(crate) mod due;
pub(crate) mod waiters;
pub(crate) mod buffers;
pub(crate) mod random;
pub(crate) mod spin;
pub(crate) mod upkeep;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::shard::ShardId;
use nanofaas_core::time::{Nanos, Uptime};

use self::buffers::Buffers;
use self::clock::Clock;
use self::config::IoConfig;
use self::date::{DateLine, Dates};
use self::net::EventLoop;
use self::phase::ShutdownPhase;
use self::random::Random;
use self::spin::Spin;
use self::timers::Alarms;
use self::upkeep::Upkeep;

/// What all io threads of a process share in this layer.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) config: IoConfig,
    pub(crate) threads: u16,
    /// The process's clock counts from `origin`, the moment at which the wall clock read `origin_wall`.
    pub(crate) origin: Instant,
    pub(crate) origin_wall: SystemTime,
    pub(crate) ledgers: Arc<[ThreadLedger]>,
}

/// The base of one io thread. It needs no locks, because only this thread uses it; the ledgers, which other
/// threads read, are atomic.
pub(crate) struct Runtime {
    pub(crate) id: ShardId,
    pub(crate) threads: u16,
    pub(crate) config: IoConfig,
    clock: Clock,
    dates: Dates,
    origin_wall: Nanos,
    ledgers: Arc<[ThreadLedger]>,
    pub(crate) alarms: Rc<Alarms>,
    pub(crate) event_loop: Rc<EventLoop>,
    pub(crate) buffers: Rc<Buffers>,
    /// A buffer for bodies whose length is known only after they are written.
    pub(crate) scratch: RefCell<Vec<u8>>,
    random: RefCell<Random>,
    pub(crate) phase: Cell<ShutdownPhase>,
    /// The waker of the task that waits for the phase `Stopping`.
    pub(crate) until_stopping: RefCell<Option<Waker>>,
    /// The number of requests that are being answered. A thread that stops waits until this number is 0.
    pub(crate) answering: Cell<u32>,
    pub(crate) spin: Spin,
    pub(crate) upkeep: Upkeep,
}

impl Runtime {
    pub(crate) fn new(
        id: ShardId,
        common: Common,
        event_loop: Rc<EventLoop>,
        buffers: Rc<Buffers>,
    ) -> Rc<Self> {
        let clock = Clock::since(common.origin);
        let wall = common
            .origin_wall
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let alarms = Alarms::new(clock.recent());
        Rc::new(Self {
            id,
            threads: common.threads,
            clock,
            dates: Dates::default(),
            origin_wall: Nanos::from(wall),
            ledgers: common.ledgers,
            upkeep: Upkeep::new(&alarms),
            alarms,
            event_loop,
            buffers,
            scratch: RefCell::default(),
            random: RefCell::default(),
            phase: Cell::new(ShutdownPhase::Serving),
            until_stopping: RefCell::default(),
            answering: Cell::new(0),
            spin: Spin::default(),
            config: common.config,
        })
    }

    /// Reads the process's clock, which never runs backwards.
    #[inline]
    pub(crate) fn now(&self) -> Uptime {
        self.clock.now()
    }

    /// Returns the clock's last reading, which suffices for deadlines of seconds. The thread reads the clock
    /// at each event: bytes from a client, an answer of a pod, its bell and its ticker.
    pub(crate) const fn recent(&self) -> Uptime {
        self.clock.recent()
    }

    /// Returns the `Date` line for an answer that is written now.
    #[inline]
    pub(crate) fn date_line(&self) -> DateLine {
        self.dates.line(self.recent())
    }

    /// Converts a time of the process's clock to the time since the epoch. The conversion uses what the wall
    /// clock read at the start of the process, so that a jump of the wall clock cannot make an execution end
    /// before it began.
    pub(crate) fn since_epoch(&self, at: Uptime) -> Nanos {
        self.origin_wall + at.since(Uptime::ZERO)
    }

    /// Converts a time of the wall clock to a time of the process's clock. Returns zero for a time before the
    /// clock's origin.
    pub(crate) fn uptime_at(&self, epoch_ms: u64) -> Uptime {
        Uptime::ZERO + Nanos::from_ms(epoch_ms).saturating_sub(self.origin_wall)
    }

    pub(crate) const fn ledgers(&self) -> &Arc<[ThreadLedger]> {
        &self.ledgers
    }

    pub(crate) fn ledger(&self) -> &ThreadLedger {
        &self.ledgers[self.id.index()]
    }

    pub(crate) fn random(&self) -> u128 {
        self.random.borrow_mut().next()
    }

    /// Notes activity at `now`. If spinning is configured, the thread spins for the configured time after
    /// `now`.
    pub(crate) fn active(&self, now: Uptime) {
        if let Some(spin_for) = self.config.spin_for {
            self.spin.prolong(now + spin_for);
        }
    }
}
