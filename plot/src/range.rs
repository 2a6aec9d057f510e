//! Chooses the visible range of an axis and its ticks. This module draws nothing; `plot` does.

use crate::plot::{Axis, Scale};

/// The visible range of an axis, and its ticks. `low` and `high` are logarithms of values unless the scale is
/// linear; `ticks` are plain values.
pub(crate) struct Range {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) ticks: Vec<f64>,
}

impl Range {
    pub(crate) fn new(axis: &Axis, values: impl Iterator<Item = f64>, zero: bool) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let span = axis.span.into_iter().flat_map(|(low, high)| [low, high]);
        for value in values.chain(span).filter(|value| value.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (1.0, 2.0);
        }
        match axis.scale {
            Scale::Linear => Self::linear(low, high, zero),
            Scale::Log => Self::log(low, high),
            Scale::Percentile => Self::percentile(high),
        }
    }

    /// Puts about five ticks at round numbers. If `zero` is true, the range includes zero.
    fn linear(mut low: f64, mut high: f64, zero: bool) -> Self {
        if zero {
            low = low.min(0.0);
        }
        if high <= low {
            high = low + 1.0;
        }
        let step = step((high - low) / 5.0);
        if zero {
            high = (high * 1.04 / step).ceil() * step;
        }
        let first = (low / step).ceil() as i64;
        let ticks = (first..).map(|number| number as f64 * step);
        Self {
            low,
            high,
            ticks: ticks.take_while(|tick| *tick <= high).collect(),
        }
    }

    /// Puts ticks at powers of ten, and also between them if the range has few powers.
    fn log(low: f64, high: f64) -> Self {
        let (low, high) = (low.max(1e-3).log10(), high.max(2e-3).log10());
        let steps: &[f64] = match high - low {
            ..1.2 => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
            ..2.6 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let (low, high) = (low - 0.04, high + 0.06);
        let decades = low.floor() as i32..=high.ceil() as i32;
        let ticks = decades
            .flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)))
            .filter(|tick| (low..=high).contains(&tick.log10()));
        Self {
            low,
            high,
            ticks: ticks.collect(),
        }
    }

    /// Puts a tick at each additional nine: 90 %, 99 %, 99.9 %.
    fn percentile(high: f64) -> Self {
        let high = high.max(10.0).log10();
        let ticks = (0..=high.floor() as i32).map(|nines| 10_f64.powi(nines));
        Self {
            low: 0.0,
            high,
            ticks: ticks.collect(),
        }
    }

    /// Adds space beside the first and the last dot. Ticks stay only at whole numbers, where the dots are.
    pub(crate) fn widen(&mut self) {
        self.ticks.retain(|tick| tick.fract() == 0.0);
        self.low -= 0.4;
        self.high += 0.4;
    }

    pub(crate) fn share(&self, place: f64) -> f64 {
        (place - self.low) / (self.high - self.low)
    }
}

/// Returns the smallest round step that is not below `least`, up to rounding.
fn step(least: f64) -> f64 {
    let decade = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * decade)
        .find(|step| *step >= least * 0.999)
        .unwrap_or(decade * 10.0)
}

#[cfg(test)]
mod tests {
    use super::step;

    #[test]
    fn steps_are_round() {
        assert_eq!([step(0.7), step(1.3), step(230.0)], [1.0, 2.0, 250.0]);
    }
}
