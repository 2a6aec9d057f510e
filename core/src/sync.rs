//! Provides the primitives of ring, bitmap and doorbell: the atomics and the cell of std, or those of loom in
//! a model build (`--cfg loom`). The switch for planted bugs is here, too.
//!
//! There is no protocol here: orderings are chosen and explained where they are used.
//!
//! A planted bug is an `if planted` with the bug's name beside the line that it breaks. `planted` is always
//! false without the feature `planted-bugs`, and the branch is compiled away. With the feature, the variable
//! `NANOFAAS_PLANTED_BUG` names the one bug that is active in the process, and the models or the simulation
//! must fail. `core/model planted` collects the names from the source files. A name begins with the name of
//! its file (`ring_`, `doorbell_`, `bitmap_`, `slots_`, `fifo_` …).

#[cfg(loom)]
pub use loom::{
    cell::UnsafeCell,
    sync::Arc,
    sync::atomic::{Ordering, fence},
};

#[cfg(loom)]
pub use model::{AtomicBool, AtomicU64};

#[cfg(not(loom))]
pub use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
};

use std::ops::Deref;

/// The cell of std with the methods of loom's cell. These methods take a closure, so that the model sees when
/// an access begins and ends.
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

/// A value that shares no cache line with other data. It has two lines, because x86 fetches lines in pairs.
#[repr(align(128))]
pub struct CachePadded<T>(pub T);

impl<T> Deref for CachePadded<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Returns whether `bug` is the planted bug of this process; see the top of this file.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_bug: &str) -> bool {
    false
}

/// Returns whether `bug` is the planted bug of this process; see the top of this file.
#[cfg(feature = "planted-bugs")]
#[expect(clippy::disallowed_methods, reason = "a build for tests alone")]
pub fn planted(bug: &str) -> bool {
    static LIVE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    LIVE.get_or_init(|| std::env::var("NANOFAAS_PLANTED_BUG").ok())
        .as_deref()
        == Some(bug)
}

/// The atomics of loom, changed so that loom explores every order of accesses.
///
/// loom 0.7 keeps only the last access to each location. A thread's own load therefore hides an earlier load
/// of the same location by another thread, and loom never puts the first thread's next store before that
/// earlier load (loom's issue 166). The pattern "load, then store", of which a ring consists, would stay
/// unexplored.
///
/// As a workaround, each access first stores to a second location, which no code ever reads. These stores
/// form one chain of accesses that loom does reorder. They order nothing in the memory model, because the
/// second location is never read.
#[cfg(loom)]
mod model {
    use loom::sync::atomic;

    use super::Ordering::{self, Relaxed};

    macro_rules! atomic {
        ($name:ident, $value:ty, $($operation:ident),*) => {
            pub struct $name {
                chain: atomic::AtomicBool,
                value: atomic::$name,
            }

            impl $name {
                #[track_caller]
                pub fn new(value: $value) -> Self {
                    Self {
                        chain: atomic::AtomicBool::new(false),
                        value: atomic::$name::new(value),
                    }
                }

                #[track_caller]
                pub fn load(&self, order: Ordering) -> $value {
                    self.chain.store(true, Relaxed);
                    self.value.load(order)
                }

                #[track_caller]
                pub fn store(&self, value: $value, order: Ordering) {
                    self.chain.store(true, Relaxed);
                    self.value.store(value, order);
                }

                $(#[track_caller]
                pub fn $operation(&self, value: $value, order: Ordering) -> $value {
                    self.chain.store(true, Relaxed);
                    self.value.$operation(value, order)
                })*

                #[track_caller]
                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.chain.store(true, Relaxed);
                    self.value.compare_exchange(current, new, success, failure)
                }

                /// Unlike the operation of std, this one never fails spuriously.
                #[track_caller]
                pub fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.compare_exchange(current, new, success, failure)
                }
            }
        };
    }

    atomic!(AtomicBool, bool, swap);
    atomic!(AtomicU64, u64, swap, fetch_or, fetch_add, fetch_sub);
}
