//! When something is due: a time, or never. A timer compares it on the path of every call, so it takes one
//! word; who wants the time in it has to say what happens where there is none.

/// A time of the process's clock, or never, which is later than every time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due(u64);

impl Due {
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) const fn at(at_ns: u64) -> Self {
        Self(at_ns)
    }

    pub(crate) const fn ns(self) -> Option<u64> {
        if self.0 == Self::NEVER.0 {
            None
        } else {
            Some(self.0)
        }
    }

    pub(crate) const fn has_come(self, now_ns: u64) -> bool {
        self.0 <= now_ns
    }
}

impl From<Option<u64>> for Due {
    fn from(at_ns: Option<u64>) -> Self {
        at_ns.map_or(Self::NEVER, Self::at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_is_later_than_every_time() {
        assert!(Due::at(u64::MAX - 1) < Due::NEVER);
        assert_eq!(Due::from(None), Due::NEVER);
        assert_eq!((Due::NEVER.ns(), Due::at(7).ns()), (None, Some(7)));
        assert!(Due::at(7).has_come(7) && !Due::at(7).has_come(6));
    }
}
