//! When something is due: a time, or never. The value takes one word, because every call compares such
//! values. Code that needs the time gets an `Option`, so it has to handle `never`.

use nanofaas_core::time::Uptime;

/// A time of the process's clock, or never. Never is later than every time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due(u64);

impl Due {
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) const fn at(at: Uptime) -> Self {
        Self(at.as_ns())
    }

    pub(crate) const fn time(self) -> Option<Uptime> {
        if self.0 == Self::NEVER.0 {
            None
        } else {
            Some(Uptime::from_ns(self.0))
        }
    }

    pub(crate) const fn has_come(self, now: Uptime) -> bool {
        self.0 <= now.as_ns()
    }
}

impl From<Option<Uptime>> for Due {
    fn from(at: Option<Uptime>) -> Self {
        at.map_or(Self::NEVER, Self::at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_is_later_than_every_time() {
        let time = Uptime::from_ns;
        assert!(Due::at(time(u64::MAX - 1)) < Due::NEVER);
        assert_eq!(Due::from(None), Due::NEVER);
        assert_eq!(
            (Due::NEVER.time(), Due::at(time(7)).time()),
            (None, Some(time(7)))
        );
        assert!(Due::at(time(7)).has_come(time(7)) && !Due::at(time(7)).has_come(time(6)));
    }
}
