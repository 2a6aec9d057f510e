//! The account of the bytes that are held for calls: one number for the process, which io threads take
//! from in pieces. A task that finds no room may wait in a line, the first come first. It measures nothing and
//! frees nothing; the task that holds bytes charges them here, and drops the charge with them.
//!
//! Room is had in two ways. `ThreadAccount::charge` takes it at once or not at all: so requests are
//! charged, which can be refused. `ThreadAccount::wait` takes it whole, in its turn: so answers are charged,
//! for which a client waits already. The first in line gets on although there is no room, if no other charge
//! did so: calls that hold all the memory while each waits for more would else wait for ever. A charge that
//! got on so must not wait again. So the
//! account never passes its bound by more than one answer.

mod thread;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::doorbell::Doorbell;
use crate::shard::ShardId;

pub use thread::{Charge, Loose, ThreadAccount, Wait};

/// What an io thread takes at once, so that most charges touch nothing that is shared. Where the bound is
/// small it takes less: what threads have and do not use is missing to others.
const PIECE: u64 = 256 * 1024;
const PIECES_PER_THREAD: u64 = 16;

/// Of the bound, one part in so many is kept from the line: answers that are not read leave room for
/// the requests of others.
const KEPT_FROM_LINE: u64 = 8;

/// The process's account.
pub struct Account {
    bytes_max: u64,
    piece: u64,
    /// What io threads have taken, whether they use it or not.
    taken: AtomicU64,
    /// How many wait, for those who look without the lock.
    waiting: AtomicUsize,
    /// For how many bytes tasks that waited have got on, and how many of them were taken from others.
    served: AtomicU64,
    reclaimed: AtomicU64,
    /// Locked only where memory is short.
    line: Mutex<Line>,
    /// By io thread.
    bells: Box<[Arc<Doorbell>]>,
}

#[derive(Default)]
struct Line {
    places: VecDeque<Arc<Place>>,
    /// A charge got on although there was no room.
    is_over: bool,
}

/// A place in the line.
struct Place {
    bytes: u64,
    shard: ShardId,
    state: AtomicU8,
}

const WAITS: u8 = 0;
const HAS_ROOM: u8 = 1;
/// It has room that is not there.
const IS_OVER: u8 = 2;

impl Account {
    pub fn new(bytes_max: u64, bells: impl IntoIterator<Item = Arc<Doorbell>>) -> Arc<Self> {
        let bells: Box<[_]> = bells.into_iter().collect();
        let pieces = PIECES_PER_THREAD * bells.len().max(1) as u64;
        Arc::new(Self {
            bytes_max,
            piece: (bytes_max / pieces).clamp(1, PIECE),
            taken: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            reclaimed: AtomicU64::new(0),
            line: Mutex::default(),
            bells,
        })
    }

    /// What io threads have taken of it.
    pub fn taken(&self) -> u64 {
        self.taken.load(SeqCst)
    }

    /// Whether a task waits for room.
    pub fn is_short(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// What waits and answers may take of it.
    const fn line_max(&self) -> u64 {
        self.bytes_max - self.bytes_max / KEPT_FROM_LINE
    }

    /// Bytes for which tasks wait.
    pub fn awaited(&self) -> u64 {
        self.line().places.iter().map(|place| place.bytes).sum()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: u64, max: u64) -> bool {
        let more = |taken: u64| Some(taken + bytes).filter(|sum| *sum <= max);
        self.taken.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    /// Gives back what a thread took, and lets those on who wait for it.
    fn give(&self, bytes: u64) {
        if bytes > 0 {
            let was = self.taken.fetch_sub(bytes, SeqCst);
            assert!(was >= bytes, "more memory was given back than was taken");
            if self.is_short() {
                self.advance(&mut self.line());
            }
        }
    }

    /// The charge that got on without room is dropped: the next one may get on.
    fn end_over(&self) {
        let line = &mut self.line();
        line.is_over = false;
        self.advance(line);
    }

    /// Lets those on for whom there is room now.
    fn advance(&self, line: &mut Line) {
        while let Some(first) = line.places.front() {
            let state = if self.take(first.bytes, self.line_max()) {
                HAS_ROOM
            } else if line.is_over {
                break;
            } else {
                line.is_over = true;
                self.taken.fetch_add(first.bytes, SeqCst);
                IS_OVER
            };
            first.state.store(state, SeqCst);
            self.served.fetch_add(first.bytes, SeqCst);
            self.bells[first.shard.index()].ring();
            line.places.pop_front();
        }
        self.waiting.store(line.places.len(), SeqCst);
    }

    fn join(&self, place: &Arc<Place>) {
        let line = &mut self.line();
        line.places.push_back(place.clone());
        // Before the look for room: a thread that gives some back sees that it is waited for, or was so
        // early that the look finds it.
        self.waiting.store(line.places.len(), SeqCst);
        self.advance(line);
        if self.is_short() {
            // Each may have something to give back.
            self.bells.iter().for_each(|bell| {
                bell.ring();
            });
        }
    }

    /// Takes a place out of the line; how it stood.
    fn leave(&self, place: &Arc<Place>) -> u8 {
        let line = &mut self.line();
        let state = place.state.load(SeqCst);
        if state == WAITS {
            line.places.retain(|one| !Arc::ptr_eq(one, place));
            // The next one may be smaller.
            self.advance(line);
        }
        state
    }
}
