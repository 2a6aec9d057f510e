//! Defines two types of time: a point of the process's clock (`Uptime`) and a span (`Nanos`). The difference
//! of two points is a span, and a point plus a span is a point; the compiler rejects the sum of two points.
//! Both types are one word, in nanoseconds. `Instant` and `Duration` of std take two words each, which is too
//! much for tickets, timers and atomics. `Instant` also has no zero at which a simulation could begin.
//! Nothing here reads a clock.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Sub, SubAssign};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const NS_PER_US: u64 = 1_000;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// A span of time in nanoseconds, up to 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Nanos(u64);

impl Nanos {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(u64::MAX);
    pub const SECOND: Self = Self::from_s(1);

    #[inline]
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Converts microseconds. A result that is too long becomes `MAX`.
    #[inline]
    pub const fn from_us(us: u64) -> Self {
        Self(us.saturating_mul(NS_PER_US))
    }

    /// Converts milliseconds. A result that is too long becomes `MAX`.
    #[inline]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(NS_PER_MS))
    }

    /// Converts seconds. A result that is too long becomes `MAX`.
    #[inline]
    pub const fn from_s(s: u64) -> Self {
        Self(s.saturating_mul(NS_PER_S))
    }

    #[inline]
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// Returns whole microseconds, rounded down.
    #[inline]
    pub const fn as_us(self) -> u64 {
        self.0 / NS_PER_US
    }

    /// Returns whole milliseconds, rounded down.
    #[inline]
    pub const fn as_ms(self) -> u64 {
        self.0 / NS_PER_MS
    }

    #[inline]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    #[inline]
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    #[inline]
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    #[inline]
    #[must_use]
    pub const fn saturating_mul(self, times: u64) -> Self {
        Self(self.0.saturating_mul(times))
    }

    #[inline]
    #[must_use]
    pub const fn abs_diff(self, other: Self) -> Self {
        Self(self.0.abs_diff(other.0))
    }
}

impl Add for Nanos {
    type Output = Self;

    #[inline]
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Nanos {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sub for Nanos {
    type Output = Self;

    #[inline]
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl SubAssign for Nanos {
    #[inline]
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}

impl Mul<Nanos> for u64 {
    type Output = Nanos;

    #[inline]
    fn mul(self, span: Nanos) -> Nanos {
        Nanos(self * span.0)
    }
}

impl Div<u64> for Nanos {
    type Output = Self;

    #[inline]
    fn div(self, by: u64) -> Self {
        Self(self.0 / by)
    }
}

/// Computes how many whole times one span fits into another.
impl Div for Nanos {
    type Output = u64;

    #[inline]
    fn div(self, by: Self) -> u64 {
        self.0 / by.0
    }
}

impl Sum for Nanos {
    fn sum<I: Iterator<Item = Self>>(spans: I) -> Self {
        spans.fold(Self::ZERO, Add::add)
    }
}

/// Converts a duration. A duration that is too long becomes `MAX`.
impl From<Duration> for Nanos {
    #[inline]
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Duration {
    #[inline]
    fn from(span: Nanos) -> Self {
        Self::from_nanos(span.0)
    }
}

/// A point of the process's clock: the time since the clock's origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Uptime(u64);

impl Uptime {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);

    #[inline]
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    #[inline]
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// Returns the span from `earlier` to this point; zero if `earlier` is later.
    #[inline]
    pub const fn since(self, earlier: Self) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }

    /// Adds a span. A sum that is too late becomes the last possible point.
    #[inline]
    #[must_use]
    pub const fn saturating_add(self, span: Nanos) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// Subtracts a span. A difference before the origin becomes the origin.
    #[inline]
    #[must_use]
    pub const fn saturating_sub(self, span: Nanos) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl Add<Nanos> for Uptime {
    type Output = Self;

    #[inline]
    fn add(self, span: Nanos) -> Self {
        Self(self.0 + span.0)
    }
}

impl AddAssign<Nanos> for Uptime {
    #[inline]
    fn add_assign(&mut self, span: Nanos) {
        self.0 += span.0;
    }
}

impl Sub<Nanos> for Uptime {
    type Output = Self;

    #[inline]
    fn sub(self, span: Nanos) -> Self {
        Self(self.0 - span.0)
    }
}

/// An optional point that several threads read. Each access is Relaxed, so no other data may be published by
/// means of a point.
#[derive(Debug, Default)]
pub struct AtomicUptime(AtomicU64);

impl AtomicUptime {
    pub const fn none() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub fn get(&self) -> Option<Uptime> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            ns => Some(Uptime(ns)),
        }
    }

    /// Stores a point. The origin is stored as the point one nanosecond later, because 0 stands for none.
    #[inline]
    pub fn set(&self, point: Option<Uptime>) {
        let ns = point.map_or(0, |point| point.0.max(1));
        self.0.store(ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_and_spans_stay_within_their_word() {
        let late = Uptime::from_ns(u64::MAX);
        assert_eq!(late.saturating_add(Nanos::SECOND), late);
        assert_eq!(Uptime::ZERO.since(late), Nanos::ZERO);
        assert_eq!(late.since(Uptime::ZERO), Nanos::MAX);
        assert_eq!(Nanos::from_ms(u64::MAX), Nanos::MAX);
        assert_eq!(Nanos::from(Duration::MAX), Nanos::MAX);
        assert_eq!(Nanos::from(Duration::from(Nanos::MAX)), Nanos::MAX);
    }

    #[test]
    fn an_absent_point_differs_from_the_origin() {
        let point = AtomicUptime::none();
        assert_eq!(point.get(), None);
        point.set(Some(Uptime::ZERO));
        assert_eq!(point.get(), Some(Uptime::from_ns(1)));
        point.set(None);
        assert_eq!(point.get(), None);
    }
}
