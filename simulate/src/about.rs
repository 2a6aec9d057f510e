//! A time that is not quite the same each time. Its dice are an argument.

use rand::RngExt as _;
use rand::rngs::SmallRng;

/// So long, and by how much more or less it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    pub ns: u64,
    /// At most 100.
    pub spread_percent: u8,
}

impl About {
    /// Always the same.
    pub const fn exactly(ns: u64) -> Self {
        let spread_percent = 0;
        Self { ns, spread_percent }
    }

    pub(crate) fn draw(self, dice: &mut SmallRng) -> u64 {
        let most = u128::from(self.ns) * u128::from(self.spread_percent.min(100)) / 100;
        let most = u64::try_from(most).expect("a part of a u64");
        if most == 0 {
            return self.ns;
        }
        dice.random_range(self.ns - most..=self.ns.saturating_add(most))
    }
}
