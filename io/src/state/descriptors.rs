//! Frees descriptors when the process, which may have only a limited number, runs short of them. Some
//! descriptors are kept back for pods, the bridge and health checks. When all others are taken, `accept`
//! closes the client that has been idle for the longest before it accepts a new one. When `to_pod` finds no
//! descriptor for a connection to a pod, it closes an idle connection to a pod or an idle client. A
//! connection that carries a call, or a part of a request head, is never closed for this purpose.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nanofaas_core::time::{Nanos, Uptime};
use nix::sys::resource::{Resource, getrlimit};

/// This many descriptors are kept back, or the process's limit divided by `KEPT_BACK_PART` if that is more.
/// But at most half of the descriptors that are free when the first client comes are kept back.
const KEPT_BACK: u64 = 32;
const KEPT_BACK_PART: u64 = 10;
/// A client that has never sent a request is closed only after it has been idle for this long.
const SILENT: Nanos = Nanos::SECOND;
const SEARCH_PAUSE: Nanos = Nanos::from_ms(10);
/// The shortest time between two log lines about one state.
const SAID: Nanos = Nanos::from_s(60);
/// The largest number of idle clients that one search keeps.
const FOUND_MAX: usize = 64;

/// What the io threads share about descriptors.
#[derive(Default)]
pub(crate) struct Scarcity {
    /// Whether a thread needs a descriptor and found no idle connection of its own to close.
    is_wanted: AtomicBool,
    /// Descriptors with this number or a higher one are kept back. The system always gives the lowest free
    /// number, so a client gets such a number only when all lower ones are taken. `keep_back` sets the field
    /// when the first client comes.
    most: OnceLock<u64>,
}

/// Limits the log to one line a minute about a state that may last long.
#[derive(Default)]
pub(crate) struct LogLimit {
    next_at: Cell<Uptime>,
}

impl LogLimit {
    /// Returns whether the caller has to log the state now, which is the case at most once a minute.
    pub(crate) fn take_turn(&self, now: Uptime) -> bool {
        let is_due = now >= self.next_at.get();
        if is_due {
            self.next_at.set(now + SAID);
        }
        is_due
    }
}

/// A client's connection, which may be closed to free its descriptor. This is a trait, because the type of
/// the connections is in a layer above this one. The indirect calls happen only while descriptors are short,
/// so a request does not pay for them.
pub(crate) trait IdleClient {
    /// Returns since when the client has been idle, if its connection may be closed. If the client has never
    /// sent a request, the connection may be closed only after `silent_for`.
    fn idle_since(&self, now: Uptime, silent_for: Nanos) -> Option<Uptime>;

    /// Makes the connection's own task close the connection, as if the idle time had passed. If a request
    /// arrives before that task runs, the task serves the request first.
    fn leave(&self);
}

struct IdleEntry {
    conn: Weak<dyn IdleClient>,
    since: Uptime,
}

/// The clients of an io thread, each of which holds a descriptor.
pub(crate) struct Descriptors {
    scarcity: Arc<Scarcity>,
    conns: RefCell<Vec<Weak<dyn IdleClient>>>,
    free: RefCell<Vec<usize>>,
    /// The idle clients that the last search found, from the longest idle to the shortest.
    found: RefCell<VecDeque<IdleEntry>>,
    /// When the connections were last searched for idle clients.
    searched_at: Cell<Option<Uptime>>,
    /// Limits the log lines that warn that idle clients are closed.
    warnings: LogLimit,
}

/// The place of a connection in `Descriptors`. Dropping this value frees the place.
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

    /// Registers a client's connection, so that it can be closed to free its descriptor.
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

    /// Returns whether `number`, the number of a client's descriptor, is kept back. The first use of this
    /// function decides how many descriptors are kept back. The number of the first client's descriptor shows
    /// how many descriptors the process took at its start.
    pub(crate) fn keep_back(&self, number: u64) -> bool {
        let most = self.scarcity.most.get_or_init(|| {
            let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
            let left = limit.saturating_sub(number);
            limit - KEPT_BACK.max(limit / KEPT_BACK_PART).min(left / 2)
        });
        number >= *most
    }

    /// Sets the flag by which this thread asks the other threads to free a descriptor.
    pub(crate) fn want(&self) {
        self.scarcity.is_wanted.store(true, Ordering::Relaxed);
    }

    /// Returns whether a thread has asked for a descriptor. Clears the flag, so that only one thread frees a
    /// descriptor.
    pub(crate) fn take_wish(&self) -> bool {
        // The flag is loaded before the swap, because a swap takes the cache line from the other threads.
        // This function runs in every round of the inbox, and the flag is rarely set.
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

    /// Closes the client that has been idle for the longest according to the last search. Returns false if no
    /// client may be closed.
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
            // The cost of a search grows with the number of clients, so at most one search runs in
            // `SEARCH_PAUSE`.
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
