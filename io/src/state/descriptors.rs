//! Descriptors, of which the process has a limited number. Some are kept back for pods, the bridge and health
//! checks. When all others are taken, the clients that have been idle for the longest are closed to make room
//! for new ones. An idle connection to a pod is closed to make room for another one. No connection with a call
//! or a head on its way is closed. `accept` asks before it accepts more clients, `to_pod` when it finds no
//! descriptor.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nanofaas_core::time::{Nanos, Uptime};
use nix::sys::resource::{Resource, getrlimit};

/// How many descriptors are kept back: this number, or one in `KEPT_BACK_PART` if that is more, but never more
/// than half of those that are left after the start of the process.
const KEPT_BACK: u64 = 32;
const KEPT_BACK_PART: u64 = 10;
/// A client that has never sent anything is not closed before it has been idle for this long.
const SILENT: Nanos = Nanos::SECOND;
/// The pause between two searches of all connections.
const SEARCH_PAUSE: Nanos = Nanos::from_ms(10);
/// The pause between two log lines about one state.
const SAID: Nanos = Nanos::from_s(60);
/// The most idle clients that one search returns.
const FOUND_MAX: usize = 64;

/// What io threads share about descriptors.
#[derive(Default)]
pub(crate) struct Scarcity {
    /// Whether a thread needs a descriptor and had no idle client of its own.
    is_wanted: AtomicBool,
    /// Descriptor numbers from this one on are kept back, which works because the system always gives the
    /// lowest free number. It is set when the first client comes.
    most: OnceLock<u64>,
}

/// Lets one line a minute into the log about a state that may go on for long.
#[derive(Default)]
pub(crate) struct LogLimit {
    next_at: Cell<Uptime>,
}

impl LogLimit {
    /// Whether the caller is to log the state now.
    pub(crate) fn take_turn(&self, now: Uptime) -> bool {
        let is_due = now >= self.next_at.get();
        if is_due {
            self.next_at.set(now + SAID);
        }
        is_due
    }
}

/// A client's connection, which may be closed to make room. It is a trait, because connections are in a layer
/// above this one. Only code that runs when descriptors are short makes the indirect call, so no request pays
/// for it.
pub(crate) trait IdleClient {
    /// Since when the client has been idle, if its connection may be closed. A client that has never sent a
    /// request must have been idle for `silent_for`.
    fn idle_since(&self, now: Uptime, silent_for: Nanos) -> Option<Uptime>;

    /// Closes the connection as if its idle time had passed. The connection's own task closes it, but first
    /// takes a request that has come by then.
    fn leave(&self);
}

/// A connection that may be closed to make room.
struct IdleEntry {
    conn: Weak<dyn IdleClient>,
    since: Uptime,
}

/// The clients of a thread, which hold descriptors.
pub(crate) struct Descriptors {
    scarcity: Arc<Scarcity>,
    conns: RefCell<Vec<Weak<dyn IdleClient>>>,
    free: RefCell<Vec<usize>>,
    /// The idle clients that the last search found, the longest idle first.
    found: RefCell<VecDeque<IdleEntry>>,
    /// When all connections were searched last.
    searched_at: Cell<Option<Uptime>>,
    /// Limits the warnings that idle clients are closed.
    warnings: LogLimit,
}

/// A connection's place. Dropping it frees the place.
pub(crate) struct DescriptorPlace {
    descriptors: Rc<Descriptors>,
    index: usize,
}

impl Drop for DescriptorPlace {
    fn drop(&mut self) {
        self.descriptors.free.borrow_mut().push(self.index);
    }
}

impl Descriptors {
    pub(crate) fn new(scarcity: Arc<Scarcity>) -> Rc<Self> {
        Rc::new(Self {
            scarcity,
            conns: RefCell::default(),
            free: RefCell::default(),
            found: RefCell::default(),
            searched_at: Cell::new(None),
            warnings: LogLimit::default(),
        })
    }

    /// Registers a connection that may be closed to make room.
    pub(crate) fn place(self: &Rc<Self>, client: Weak<dyn IdleClient>) -> DescriptorPlace {
        let (mut conns, free) = (self.conns.borrow_mut(), &self.free);
        let index = match free.borrow_mut().pop() {
            Some(index) => {
                conns[index] = client;
                index
            }
            None => {
                conns.push(client);
                conns.len() - 1
            }
        };
        DescriptorPlace {
            descriptors: self.clone(),
            index,
        }
    }

    /// Whether the number of a client's descriptor is one of those that are kept back. The number of the first
    /// client's descriptor decides how many are kept back, because it shows how many descriptors the start of
    /// the process has taken.
    pub(crate) fn keep_back(&self, number: u64) -> bool {
        let most = self.scarcity.most.get_or_init(|| {
            let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
            let left = limit.saturating_sub(number);
            limit - KEPT_BACK.max(limit / KEPT_BACK_PART).min(left / 2)
        });
        number >= *most
    }

    /// Asks other threads to make room.
    pub(crate) fn want(&self) {
        self.scarcity.is_wanted.store(true, Ordering::Relaxed);
    }

    /// Whether this thread is to make room for another one. The first thread that asks takes the request.
    pub(crate) fn take_wish(&self) -> bool {
        // The value is loaded before the swap, because this runs in every round of the inbox, and a swap would
        // take the cache line from the other threads.
        self.scarcity.is_wanted.load(Ordering::Relaxed)
            && self.scarcity.is_wanted.swap(false, Ordering::Relaxed)
    }

    fn find_idle(&self, now: Uptime) {
        let mut idle: Vec<IdleEntry> = self
            .conns
            .borrow()
            .iter()
            .filter_map(|conn| {
                let since = conn.upgrade()?.idle_since(now, SILENT)?;
                let conn = conn.clone();
                Some(IdleEntry { conn, since })
            })
            .collect();
        idle.sort_by_key(|idle| idle.since);
        idle.truncate(FOUND_MAX);
        self.found.replace(idle.into());
    }

    fn warn(&self, now: Uptime) {
        if self.warnings.take_turn(now) {
            tracing::warn!(
                "descriptors are short: idle clients are closed to make room for new ones; \
                 raise the limit of open files"
            );
        }
    }

    /// Closes the client that has been idle for the longest; false if no client may be closed.
    pub(crate) fn make_room(&self, now: Uptime) -> bool {
        for may_search in [true, false] {
            while let Some(idle) = self.found.borrow_mut().pop_front() {
                if let Some(conn) = idle.conn.upgrade()
                    && conn.idle_since(now, SILENT) == Some(idle.since)
                {
                    conn.leave();
                    self.warn(now);
                    return true;
                }
            }
            // The cost of a search grows with the number of clients, so not every new client causes a search.
            let searched_at = self.searched_at.get();
            let is_new = searched_at.is_none_or(|searched_at| now >= searched_at + SEARCH_PAUSE);
            if may_search && is_new {
                self.searched_at.set(Some(now));
                self.find_idle(now);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_once_a_minute() {
        let warnings = LogLimit::default();
        let due: Vec<_> = [1, 2, 60, 61, 120, 180]
            .map(|second| Uptime::ZERO + Nanos::from_s(second))
            .map(|now| warnings.take_turn(now))
            .into();
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}
