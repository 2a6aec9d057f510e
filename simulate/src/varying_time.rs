//! A time that is not quite the same each time. Its dice are an argument.

use nanofaas_core::time::Nanos;

use rand::RngExt as _;
use rand::rngs::SmallRng;

/// So long, and by how much more or less it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaryingTime {
    pub time: Nanos,
    /// At most 100.
    pub spread_percent: u8,
}

impl VaryingTime {
    /// Always the same.
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
