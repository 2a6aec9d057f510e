//! Computes round numbers: 1, 2 or 5 times a power of ten.

/// Returns the smallest round number that is not below `least`.
pub(crate) fn round_up(least: u64) -> u64 {
    let mut decade = 1_u64;
    loop {
        for factor in [1, 2, 5] {
            let step = decade.saturating_mul(factor);
            if step >= least {
                return step;
            }
        }
        decade = decade.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::round_up;

    #[test]
    fn steps_are_round_and_large_enough() {
        let steps = [0, 1, 3, 10, 11, 51, u64::MAX].map(round_up);
        assert_eq!(steps, [1, 1, 5, 10, 20, 100, u64::MAX]);
    }
}
