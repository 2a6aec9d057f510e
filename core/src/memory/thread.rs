//! A `ThreadAccount` is the account of one io thread: the bytes of the budget that the thread has taken, its
//! charges, and its waiting tasks. Most charges change only this account and not the `Account` that all
//! threads share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use super::{Account, IS_OVER, Place, WAITS};
use crate::metrics::ThreadLedger;
use crate::shard::ShardId;

pub struct ThreadAccount {
    account: Arc<Account>,
    shard: ShardId,
    ledgers: Arc<[ThreadLedger]>,
    taken: Cell<u64>,
    /// For each task of this thread that waits for memory: its place in the account's line, and its waker.
    waits: RefCell<Vec<(Arc<Place>, Waker)>>,
}

impl ThreadAccount {
    pub fn new(account: Arc<Account>, shard: ShardId, ledgers: Arc<[ThreadLedger]>) -> Rc<Self> {
        Rc::new(Self {
            account,
            shard,
            ledgers,
            taken: Cell::new(0),
            waits: RefCell::default(),
        })
    }

    #[inline]
    pub fn is_short(&self) -> bool {
        self.account.is_short()
    }

    /// Returns the bytes that waiting tasks of all threads have got, less the bytes that were taken from
    /// other charges for them. While this number grows, charges that end in the ordinary way give memory to
    /// the waiting tasks, so no charge has to be cut short for them.
    pub fn moved(&self) -> u64 {
        let served = self.account.served.load(SeqCst);
        served.saturating_sub(self.account.reclaimed.load(SeqCst))
    }

    /// Notes bytes that are taken from other charges for waiting tasks.
    pub fn reclaim(&self, bytes: u64) {
        self.account.reclaimed.fetch_add(bytes, SeqCst);
    }

    pub fn awaited(&self) -> u64 {
        if self.is_short() {
            self.account.awaited()
        } else {
            0
        }
    }

    /// Returns whether the waiting calls of one function may hold `bytes`: at most half of the budget, or any
    /// number while at most half of the budget is taken. `bytes` is called only if more than half is taken.
    pub fn may_wait(&self, bytes: impl FnOnce() -> u64) -> bool {
        let half = self.account.bytes_max / 2;
        self.account.taken() <= half || bytes() <= half
    }

    #[inline]
    fn used(&self) -> u64 {
        self.ledgers[self.shard.index()].inflight_bytes.get()
    }

    #[inline]
    fn set_used(&self, bytes: u64) {
        let gauge = &self.ledgers[self.shard.index()].inflight_bytes;
        gauge.set(bytes);
    }

    /// Charges `bytes` if there is room.
    #[inline]
    pub fn charge(self: &Rc<Self>, bytes: u64) -> Option<Charge> {
        self.take(bytes).then(|| Charge {
            account: self.clone(),
            bytes,
            is_over: false,
        })
    }

    /// Charges `bytes` for an answer if there is room and no task waits. A part of the budget is left to
    /// requests.
    #[inline]
    pub fn charge_answer(self: &Rc<Self>, bytes: u64) -> Option<Charge> {
        if self.is_short() {
            return None;
        }
        let used = self.used() + bytes;
        let missing = used.saturating_sub(self.taken.get());
        if missing > 0 && !self.fetch(missing, self.account.line_max()) {
            return None;
        }
        self.set_used(used);
        Some(Charge {
            account: self.clone(),
            bytes,
            is_over: false,
        })
    }

    /// Makes a charge of no bytes, which may grow.
    pub fn nothing(self: &Rc<Self>) -> Charge {
        Charge {
            account: self.clone(),
            bytes: 0,
            is_over: false,
        }
    }

    #[inline]
    fn take(&self, bytes: u64) -> bool {
        let used = self.used() + bytes;
        if used > self.taken.get() && !self.fetch(used - self.taken.get(), self.account.bytes_max) {
            return false;
        }
        self.set_used(used);
        true
    }

    #[cold]
    fn fetch(&self, missing: u64, max: u64) -> bool {
        let whole = missing.next_multiple_of(self.account.piece);
        // While memory is short, a thread takes no more than it needs.
        let taken = if !self.is_short() && self.account.take(whole, max) {
            whole
        } else if self.account.take(missing, max) {
            missing
        } else {
            return false;
        };
        self.taken.set(self.taken.get() + taken);
        true
    }

    #[inline]
    fn give(&self, bytes: u64) {
        let used = self.used().checked_sub(bytes);
        let used = used.expect("a charge was given back twice");
        self.set_used(used);
        let spare = self.taken.get() - used;
        let piece = self.account.piece;
        // A thread keeps up to two spare pieces. Charges that rise and fall by one piece then do not change
        // the shared `Account` each time.
        if spare > 2 * piece || self.is_short() {
            self.give_back(spare, if self.is_short() { 0 } else { piece });
        }
    }

    #[cold]
    fn give_back(&self, spare: u64, kept: u64) {
        let back = spare.saturating_sub(kept);
        self.taken.set(self.taken.get() - back);
        self.account.give(back);
    }

    /// Gives back the bytes that the thread has taken and does not use.
    pub fn give_back_spare(&self) {
        self.give_back(self.taken.get() - self.used(), 0);
    }

    /// Takes over a charge from another thread.
    pub fn adopt(self: &Rc<Self>, loose: Loose) -> Charge {
        let mut loose = loose;
        let (bytes, is_over) = (std::mem::take(&mut loose.bytes), loose.is_over);
        loose.is_over = false;
        self.hold(bytes, is_over)
    }

    fn hold(self: &Rc<Self>, bytes: u64, is_over: bool) -> Charge {
        self.taken.set(self.taken.get() + bytes);
        self.set_used(self.used() + bytes);
        Charge {
            account: self.clone(),
            bytes,
            is_over,
        }
    }

    /// Makes a wait for room for `bytes`. All such waits of the process form one line.
    pub fn wait(self: &Rc<Self>, bytes: u64) -> Wait {
        Wait {
            account: self.clone(),
            bytes,
            place: None,
        }
    }

    /// Returns whether the thread has something to do before it sleeps: one of its tasks was served, or tasks
    /// wait for bytes that this thread has taken and does not use.
    pub fn is_wanted(&self) -> bool {
        let has_turn = |(place, _): &(Arc<Place>, Waker)| place.state.load(SeqCst) != WAITS;
        self.waits.borrow().iter().any(has_turn)
            || (self.taken.get() > self.used() && self.is_short())
    }

    /// Wakes this thread's tasks that were served. The thread calls this after its bell has rung.
    pub fn wake(&self) {
        let waits = &mut *self.waits.borrow_mut();
        waits.retain(|(place, waker)| {
            let waits = place.state.load(SeqCst) == WAITS;
            if !waits {
                waker.wake_by_ref();
            }
            waits
        });
    }
}

/// Bytes that are held for a call or a client. Dropping the charge gives the bytes back.
pub struct Charge {
    account: Rc<ThreadAccount>,
    bytes: u64,
    is_over: bool,
}

impl Charge {
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds `bytes` to the charge if there is room. Returns whether there was room.
    #[inline]
    pub fn grow(&mut self, bytes: u64) -> bool {
        let fits = self.account.take(bytes);
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    /// Gives back everything above `bytes`.
    #[inline]
    pub fn cut_to(&mut self, bytes: u64) {
        if bytes < self.bytes {
            self.account.give(self.bytes - bytes);
            self.bytes = bytes;
        }
    }

    /// Prepares the charge to be sent to another thread.
    pub fn into_loose(mut self) -> Loose {
        let bytes = std::mem::take(&mut self.bytes);
        let is_over = std::mem::take(&mut self.is_over);
        let own = &self.account;
        own.set_used(own.used() - bytes);
        own.taken.set(own.taken.get() - bytes);
        Loose {
            account: own.account.clone(),
            bytes,
            is_over,
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.give(self.bytes);
        if self.is_over {
            self.account.account.end_over();
        }
    }
}

/// A charge that is sent from one thread to another.
pub struct Loose {
    account: Arc<Account>,
    bytes: u64,
    is_over: bool,
}

impl std::fmt::Debug for Loose {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Loose({})", self.bytes)
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        self.account.give(self.bytes);
        if self.is_over {
            self.account.end_over();
        }
    }
}

/// A wait for room. Dropping the `Wait` ends the wait.
pub struct Wait {
    account: Rc<ThreadAccount>,
    bytes: u64,
    /// None until the task has joined the line.
    place: Option<Arc<Place>>,
}

impl Wait {
    /// Returns the charge if there is room. If there is none, the task waits in the line, and is woken when
    /// it is served.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<Charge> {
        let own = &self.account;
        let place = match &self.place {
            Some(place) => place,
            None => {
                if let Some(charge) = own.charge_answer(self.bytes) {
                    return Poll::Ready(charge);
                }
                // Unused bytes of this thread are given back before the task joins the line, because the task
                // may need no more than these bytes.
                own.give_back_spare();
                let place = self.place.insert(Arc::new(Place {
                    bytes: self.bytes,
                    shard: own.shard,
                    state: AtomicU8::new(WAITS),
                }));
                own.account.join(place);
                place
            }
        };
        let state = place.state.load(SeqCst);
        if state == WAITS {
            let waits = &mut *own.waits.borrow_mut();
            match waits.iter_mut().find(|(one, _)| Arc::ptr_eq(one, place)) {
                Some((_, waker)) => waker.clone_from(cx.waker()),
                None => waits.push((place.clone(), cx.waker().clone())),
            }
            return Poll::Pending;
        }
        self.place = None;
        Poll::Ready(own.hold(self.bytes, state == IS_OVER))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        let own = &self.account;
        own.waits
            .borrow_mut()
            .retain(|(one, _)| !Arc::ptr_eq(one, &place));
        let state = own.account.leave(&place);
        if state != WAITS {
            // The task was served before this drop, so its bytes have to be given back.
            drop(own.hold(self.bytes, state == IS_OVER));
        }
    }
}
