//! An `Index` is the place of an item in a table. An `Option<Index>` needs no more memory than a `u32`.

use std::fmt;
use std::num::NonZeroU32;

/// A place below `u32::MAX`. It is stored as the next higher number, so that zero stands for `None`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Index(NonZeroU32);

impl Index {
    #[inline]
    pub(crate) const fn new(place: u32) -> Self {
        assert!(place < u32::MAX, "a table has no such place");
        Self(NonZeroU32::MIN.saturating_add(place))
    }

    #[inline]
    pub(crate) const fn get(self) -> usize {
        (self.0.get() - 1) as usize
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(out)
    }
}

const _: () = assert!(size_of::<Option<Index>>() == size_of::<u32>());
