//! The account of the bytes that calls hold. The process has one budget, and io threads take pieces of it. A
//! task that finds no room may wait in a line, first come, first served. The account measures and frees
//! nothing itself: the task that holds bytes charges them here, and drops the charge with them.
//!
//! There are two ways to get room. `ThreadAccount::charge` takes it at once or not at all. Requests are
//! charged in this way, because they can be refused. `ThreadAccount::wait` waits until it gets all its bytes.
//! Answers are charged in this way, because a client already waits for them. The first task in the line gets
//! its bytes even without room, unless another charge without room is still held. Otherwise calls that hold
//! all the memory while each waits for more would wait for ever. A charge without room must not wait again.
//! So the account never passes its bound by more than one answer.

mod thread;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::doorbell::Doorbell;
use crate::shard::ShardId;

pub use thread::{Charge, Loose, ThreadAccount, Wait};

/// Bytes that an io thread takes from the account at a time, so that most charges use no shared memory. If
/// the bound is small, a piece is smaller, because other threads cannot use what a thread has taken and does
/// not use.
const PIECE: u64 = 256 * 1024;
const PIECES_PER_THREAD: u64 = 16;

/// One part in this many of the bound is not available to the line, so that answers that are not read leave
/// room for requests of other clients.
const KEPT_FROM_LINE: u64 = 8;

pub struct Account {
    bytes_max: u64,
    piece: u64,
    /// Bytes that io threads have taken, whether they use them or not.
    taken: AtomicU64,
    /// How many tasks wait; read without the lock.
    waiting: AtomicUsize,
    /// Bytes that waiting tasks have been given, and bytes that were taken from other charges for them.
    served: AtomicU64,
    reclaimed: AtomicU64,
    /// The line is locked only while memory is short.
    line: Mutex<Line>,
    /// The bells, by io thread.
    bells: Box<[Arc<Doorbell>]>,
}

#[derive(Default)]
struct Line {
    places: VecDeque<Arc<Place>>,
    /// Whether a charge without room is held.
    is_over: bool,
}

/// A task's place in the line.
struct Place {
    bytes: u64,
    shard: ShardId,
    state: AtomicU8,
}

const WAITS: u8 = 0;
const HAS_ROOM: u8 = 1;
/// The task got its bytes without room.
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

    /// Bytes that io threads have taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(SeqCst)
    }

    /// Whether a task waits for room.
    pub fn is_short(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// The most that may be taken for answers.
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

    /// Gives back what a thread took, and serves the line if tasks wait.
    fn give(&self, bytes: u64) {
        if bytes > 0 {
            let was = self.taken.fetch_sub(bytes, SeqCst);
            assert!(was >= bytes, "more memory was given back than was taken");
            if self.is_short() {
                self.advance(&mut self.line());
            }
        }
    }

    /// Notes that the charge without room was dropped, so that the next task may get one.
    fn end_over(&self) {
        let line = &mut self.line();
        line.is_over = false;
        self.advance(line);
    }

    /// Serves tasks from the front of the line while there is room.
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
        // The number is stored before `advance` checks for room. A thread that gives bytes back then either
        // reads that a task waits, or gave the bytes back before this check, which finds them.
        self.waiting.store(line.places.len(), SeqCst);
        self.advance(line);
        if self.is_short() {
            // Every thread may have bytes to give back.
            self.bells.iter().for_each(|bell| {
                bell.ring();
            });
        }
    }

    /// Takes a place out of the line; returns the state that it had.
    fn leave(&self, place: &Arc<Place>) -> u8 {
        let line = &mut self.line();
        let state = place.state.load(SeqCst);
        if state == WAITS {
            line.places.retain(|one| !Arc::ptr_eq(one, place));
            // The next task in the line may need fewer bytes, and there may be room for them.
            self.advance(line);
        }
        state
    }
}
