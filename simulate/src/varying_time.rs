//! A `VaryingTime` is a time that varies around a mean. The caller passes the random generator.

use nanofaas_core::time::Nanos;

use rand::RngExt as _;
use rand::rngs::SmallRng;

/// A mean time, and by how much it may vary in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaryingTime {
    pub time: Nanos,
    /// The largest difference from the mean, in percent of the mean, at most 100.
    pub spread_percent: u8,
}

impl VaryingTime {
    /// Makes a time without variation.
    pub const fn exactly(time: Nanos) -> Self {
        let spread_percent = 0;
        Self {
            time,
            spread_percent,
        }
    }

    pub(crate) fn draw(self, dice: &mut SmallRng) -> Nanos {
        let ns = self.time.as_ns();
        let most = u128::from(ns) * u128::from(self.spread_percent.min(100)) / 100;
        let most = u64::try_from(most).expect("a part of a u64");
        if most == 0 {
            return self.time;
        }
        Nanos::from_ns(dice.random_range(ns - most..=ns.saturating_add(most)))
    }
}
