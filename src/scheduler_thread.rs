//! The pinned driver is the thread that runs the scheduler for two or more io threads. It takes events,
//! sweeps the lanes' bitmap, runs turns and delivers their output. `nanofaas_core::scheduler` makes the
//! decisions. The thread never waits for space in a ring. `serve` starts it; a panic here ends the process.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::Wake;
use std::thread::{Builder, JoinHandle, Thread, current, park, park_timeout};
use std::time::{Duration, Instant};

use nanofaas_core::beat::Beat;
use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::entries::Entries;
use nanofaas_core::event::{Notice, Order, Outbox};
use nanofaas_core::message::{BridgeMessage, Message};
use nanofaas_core::on_end::OnEnd;
use nanofaas_core::post::{BridgePost, IoPost, PinnedInbox};
use nanofaas_core::scheduler::{Scheduler, Turn};
use nanofaas_core::time::{Nanos, Uptime};

use crate::cores;

/// How long the thread spins without work before it sleeps. At 500 calls a second, the pause between two
/// calls is this long, so only a control plane with fewer calls pays for wake-ups.
const SPIN: Nanos = Nanos::from_ms(2);
/// The pause before a full ring to the bridge or to an io thread is tried again.
const AGAIN: Duration = Duration::from_millis(1);

/// Wakes the thread. A wake before the thread runs is not needed, because the thread looks for work before
/// its first sleep.
#[derive(Default)]
struct UnparkScheduler(OnceLock<Thread>);

impl Wake for UnparkScheduler {
    fn wake(self: Arc<Self>) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// The part of the scheduler's bell that the thread must set up.
pub(crate) struct WakeEnd(Arc<UnparkScheduler>);

pub(crate) fn bell() -> (Arc<Doorbell>, WakeEnd) {
    let unpark = Arc::new(UnparkScheduler::default());
    let bell = Doorbell::new(unpark.clone().into());
    (Arc::new(bell), WakeEnd(unpark))
}

pub(crate) struct SchedulerThreadConfig {
    pub(crate) inbox: PinnedInbox,
    pub(crate) alarm: WakeEnd,
    pub(crate) io: Vec<IoPost>,
    pub(crate) bridge: BridgePost,
    pub(crate) entries: Arc<Entries>,
    pub(crate) origin: Instant,
    /// The CPU that is reserved for this thread. With `None`, the thread is bound to no CPU and does not
    /// spin.
    pub(crate) cpu: Option<usize>,
}

pub(crate) struct SchedulerThread {
    pub(crate) beat: Arc<Beat>,
    bell: Arc<Doorbell>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

pub(crate) fn start(
    config: SchedulerThreadConfig,
    on_end: OnEnd,
) -> std::io::Result<SchedulerThread> {
    let beat = Arc::new(Beat::default());
    let stop = Arc::new(AtomicBool::new(false));
    let bell = config.inbox.bell.clone();
    let mut driver = Driver::new(config, beat.clone(), stop.clone());
    let thread = Builder::new().name("scheduler".to_owned()).spawn(move || {
        let _on_end = on_end;
        driver.run();
    })?;
    Ok(SchedulerThread {
        beat,
        bell,
        stop,
        thread,
    })
}

impl SchedulerThread {
    /// Ends the thread. The io threads use the scheduler, so they must have ended.
    pub(crate) fn stop(self) {
        self.stop.store(true, Relaxed);
        // An unpark also ends a sleep that begins later; a ring of the bell does not.
        self.thread.thread().unpark();
        self.bell.ring();
        // A panic of that thread ends the process, so `join` cannot fail.
        let _ = self.thread.join();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

struct Driver {
    scheduler: Scheduler,
    config: SchedulerThreadConfig,
    beat: Arc<Beat>,
    stop: Arc<AtomicBool>,
    out: Outbox,
    /// The lanes that the last sweep found.
    swept: Vec<u32>,
    /// Orders that found the bridge's ring full: at most a few for each pod and lane.
    orders: VecDeque<Order>,
    /// Notices that found an io thread's ring full, with the thread's number: at most one for each lane and
    /// io thread.
    notices: VecDeque<(usize, Notice)>,
}

impl Driver {
    fn new(config: SchedulerThreadConfig, beat: Arc<Beat>, stop: Arc<AtomicBool>) -> Self {
        Self {
            scheduler: Scheduler::new(config.entries.clone()),
            config,
            beat,
            stop,
            out: Outbox::with_room(),
            swept: Vec::with_capacity(64),
            orders: VecDeque::new(),
            notices: VecDeque::new(),
        }
    }

    fn now(&self) -> Uptime {
        Uptime::ZERO + self.config.origin.elapsed().into()
    }

    fn run(&mut self) {
        // If this came after the first sleep, a thread that rings the bell could find no thread to wake.
        let _ = self.config.alarm.0.0.set(current());
        let spins = self.config.cpu.is_some_and(|cpu| {
            let pinned = cores::pin(cpu);
            if let Err(error) = pinned {
                tracing::warn!(cpu, %error, "the scheduler could not be pinned and will not spin");
            }
            pinned.is_ok()
        });
        let mut idle_since = None;
        while !self.stop.load(Relaxed) {
            let now = self.now();
            self.beat.beat(now);
            if self.round(now) {
                idle_since = None;
                continue;
            }
            if spins {
                let since = *idle_since.get_or_insert(now);
                if now.since(since) < SPIN {
                    std::hint::spin_loop();
                    continue;
                }
            }
            self.sleep();
            idle_since = None;
        }
    }

    /// Does the work that is available now. Returns whether there was any.
    fn round(&mut self, now: Uptime) -> bool {
        // Take the events before the lanes' rings. A retry's ticket comes as an event, and must stay before
        // tickets that were queued later.
        let mut worked = self.take_events(now);
        worked |= self.sweep(now);
        if self.scheduler.next_due().is_some_and(|due| due <= now) {
            self.scheduler.tick(now, &mut self.out);
            worked = true;
        }
        worked |= self.scheduler.turn(now, &mut self.out) == Turn::Busy;
        worked |= !self.out.is_empty();
        self.deliver();
        worked
    }

    fn take_events(&mut self, now: Uptime) -> bool {
        let mut any = false;
        while let Some(event) = self.config.inbox.events.pop() {
            self.scheduler.event(event, now, &mut self.out);
            any = true;
        }
        any
    }

    fn sweep(&mut self, now: Uptime) -> bool {
        let swept = &mut self.swept;
        let most = u32::MAX as usize;
        self.config.inbox.lanes.take(|lane| {
            debug_assert!(lane <= most);
            swept.push(lane as u32);
        });
        if self.swept.is_empty() {
            return false;
        }
        // The registration and the first ticket of an unknown lane were posted after the first `take_events`.
        // An io thread gets a lane only after the registry has sent it to this thread, so the registration is
        // among the events now.
        if self.swept.iter().any(|lane| !self.scheduler.knows(*lane)) {
            self.take_events(now);
        }
        for lane in self.swept.drain(..) {
            self.scheduler.collect(lane, now, &mut self.out);
        }
        true
    }

    fn deliver(&mut self) {
        for grant in self.out.grants.drain(..) {
            self.config.io[grant.call.shard.index()].grant(grant);
        }
        self.orders.extend(self.out.orders.drain(..));
        while let Some(order) = self.orders.pop_front() {
            if self
                .config
                .bridge
                .send(BridgeMessage::Order(order))
                .is_err()
            {
                self.orders.push_front(order);
                break;
            }
        }
        for notice in self.out.notices.drain(..) {
            let Notice::StartsFail { lane, .. } = &notice;
            // A later notice about a lane replaces the earlier ones that were not delivered.
            let of_lane = |(_, old): &(usize, Notice)| {
                let Notice::StartsFail { lane: other, .. } = old;
                other == lane
            };
            self.notices.retain(|waiting| !of_lane(waiting));
            let each = 0..self.config.io.len();
            self.notices
                .extend(each.map(|thread| (thread, notice.clone())));
        }
        for _ in 0..self.notices.len() {
            let Some((thread, notice)) = self.notices.pop_front() else {
                break;
            };
            let message = Message::Notice(notice.clone());
            if self.config.io[thread].send(message).is_err() {
                self.notices.push_back((thread, notice));
            }
        }
    }

    fn sleep(&mut self) {
        let again = (!self.orders.is_empty() || !self.notices.is_empty()).then_some(AGAIN);
        let until_due = self
            .scheduler
            .next_due()
            .map(|due| due.since(self.now()).into());
        let longest = again.into_iter().chain(until_due).min();
        let inbox = &self.config.inbox;
        let published = || inbox.events.is_published() || inbox.lanes.any() || self.beat.is_owed();
        if inbox.bell.sleep(published) {
            match longest {
                Some(longest) => park_timeout(longest),
                None => park(),
            }
            inbox.bell.awake();
        }
    }
}

#[cfg(test)]
mod tests;
