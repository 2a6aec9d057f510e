//! Makes all random numbers of a run with splitmix64, which begins at the seed.

use nanofaas_core::time::Nanos;

#[derive(Clone)]
pub(crate) struct SimulationRng(u64);

impl SimulationRng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// `end` must not be 0.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Draws a number from `first` to `last`, both included.
    pub(crate) const fn within(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    pub(crate) const fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Draws a span up to `most`. Short spans are as frequent as long ones, because the magnitude is drawn
    /// first.
    pub(crate) fn span(&mut self, most: Nanos) -> Nanos {
        let micros = most.as_ns() / 1000;
        let magnitudes = u64::from(64 - micros.max(1).leading_zeros());
        let drawn = 1000 << self.below(magnitudes);
        Nanos::from_ns(self.within(1, drawn)).min(most)
    }
}
