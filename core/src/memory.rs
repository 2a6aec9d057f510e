//! Keeps the bytes that calls hold within a budget. `Account` is the budget of the process,
//! `--inflight-bytes`, and each io thread takes pieces of the budget into its `ThreadAccount`. A task that
//! finds no room may wait in a line, first come, first served. This module measures and frees no memory; the
//! task that holds bytes charges them here, and drops the charge with the bytes.
//!
//! There are two ways to get room. `ThreadAccount::charge` gets room at once or not at all. It is used for
//! requests, because a request can be refused. `ThreadAccount::wait` waits until there is room. It is used
//! for answers, because a client already waits for the answer.
//!
//! The first task in the line gets its bytes even without room, unless another charge without room is still
//! held. Without this rule, calls that hold all the memory and each wait for more would wait for ever. The
//! budget is exceeded by at most one answer, because there is one such charge at a time. A task that holds a
//! charge without room must not wait again, because the line may stand still until this charge is dropped.

mod thread;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::doorbell::Doorbell;
use crate::shard::ShardId;

pub use thread::{Charge, Loose, ThreadAccount, Wait};

/// The largest size of the pieces in which io threads take the budget, in bytes. Because of the pieces, most
/// charges change no shared memory. With a small budget a piece is smaller, because no other thread can use
/// what a thread has taken and does not use.
const PIECE: u64 = 256 * 1024;
const PIECES_PER_THREAD: u64 = 16;

/// The share of the budget that is kept for requests and not given to the line: one part in 8. Requests of
/// other clients then find room even if many clients do not read their answers.
const KEPT_FROM_LINE: u64 = 8;

pub struct Account {
    bytes_max: u64,
    piece: u64,
    /// The bytes that io threads have taken, whether the bytes are in use or not.
    taken: AtomicU64,
    /// The number of tasks in the line, which is read without the lock.
    waiting: AtomicUsize,
    /// The bytes that tasks in the line have got so far.
    served: AtomicU64,
    /// The bytes that were taken from other charges for tasks in the line so far.
    reclaimed: AtomicU64,
    /// The line of waiting tasks. Threads lock it only while memory is short.
    line: Mutex<Line>,
    /// The bells of the io threads, by the thread's number.
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

    /// Returns the bytes that io threads have taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(SeqCst)
    }

    /// Returns whether a task waits for room.
    pub fn is_short(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    const fn line_max(&self) -> u64 {
        self.bytes_max - self.bytes_max / KEPT_FROM_LINE
    }

    /// Returns the bytes for which tasks wait.
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

    /// Gives back bytes that a thread took, and serves the line if tasks wait.
    fn give(&self, bytes: u64) {
        if bytes > 0 {
            let was = self.taken.fetch_sub(bytes, SeqCst);
            assert!(was >= bytes, "more memory was given back than was taken");
            if self.is_short() {
                self.advance(&mut self.line());
            }
        }
    }

    /// Notes that the charge without room was dropped, so that the next task may get such a charge.
    fn end_over(&self) {
        let line = &mut self.line();
        line.is_over = false;
        self.advance(line);
    }

    /// Serves tasks from the front of the line while there is room. If there is no room, the first task may
    /// get its bytes without room.
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
        // sees that a task waits, or gave the bytes back before this check, which finds them.
        self.waiting.store(line.places.len(), SeqCst);
        self.advance(line);
        if self.is_short() {
            // All threads are woken, because each of them may have bytes to give back.
            self.bells.iter().for_each(|bell| {
                bell.ring();
            });
        }
    }

    /// Takes a place out of the line if its task still waits. Returns the state of the place.
    fn leave(&self, place: &Arc<Place>) -> u8 {
        let line = &mut self.line();
        let state = place.state.load(SeqCst);
        if state == WAITS {
            line.places.retain(|one| !Arc::ptr_eq(one, place));
            // The next task in the line may need fewer bytes, so there may be room for that task.
            self.advance(line);
        }
        state
    }
}
