//! What ring, bitmap and doorbell stand on: std's atomics and cell, or loom's in a model build
//! (`--cfg loom`), and the switch for planted bugs.
//!
//! It never holds a protocol: orderings are chosen, and explained, where they are used.
//!
//! A planted bug is an `if planted` with the bug's name beside the line that it breaks. Without the
//! feature `planted-bugs` the answer is a constant and the branch is gone. With it the variable
//! `NANOFAAS_PLANTED_BUG` names the one bug that is live in the process, and the models or the
//! simulation have to fail: `core/model planted` collects the names from these files. A name begins
//! with the file it lives in (`ring_`, `doorbell_`, `bitmap_`, `slots_`, `fifo_` …).

#[cfg(loom)]
pub use loom::{
    cell::UnsafeCell,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicU64, Ordering, fence},
};

#[cfg(not(loom))]
pub use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
};

use std::ops::Deref;

/// std's cell behind loom's access closures, which let the model see when an access begins and ends.
#[cfg(not(loom))]
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get().cast_const())
    }

    #[inline(always)]
    pub fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

/// A value on cache lines of its own: two, since x86 fetches lines in pairs.
#[repr(align(128))]
pub struct CachePadded<T>(pub T);

impl<T> Deref for CachePadded<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Whether `bug` is the planted bug of this process; see the top of this file.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_bug: &str) -> bool {
    false
}

/// Whether `bug` is the planted bug of this process; see the top of this file.
#[cfg(feature = "planted-bugs")]
pub fn planted(bug: &str) -> bool {
    static LIVE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    LIVE.get_or_init(|| std::env::var("NANOFAAS_PLANTED_BUG").ok())
        .as_deref()
        == Some(bug)
}
