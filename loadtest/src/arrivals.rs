//! Computes the intended send times of an open loop, in nanoseconds from the start of the run. The times do
//! not depend on answers. This module reads no clock and waits for nothing; the client asks it for the next
//! arrival.

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand_distr::{Distribution as _, Exp};

use crate::load::{self, LoadSpec};
use crate::plan::{PlannedRequest, RequestPlan};
use crate::trace::TraceRows;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) intended_ns: u64,
    pub(crate) call: PlannedRequest,
}

pub(crate) enum ArrivalSequence {
    Fixed {
        gap_ns: f64,
        number: u64,
    },
    Poisson {
        gap_ns: Exp<f64>,
        dice: SmallRng,
        at_ns: f64,
    },
    Trace {
        rows: TraceRows,
        next: usize,
        ns_per_ms: f64,
        begin_ns: f64,
    },
}

impl ArrivalSequence {
    /// Returns `None` for a closed loop. `rows` are the rows of the load's trace, if it has one.
    pub(crate) fn new(load: &LoadSpec, rows: Option<TraceRows>) -> Result<Option<Self>, String> {
        Ok(match &load.arrivals {
            None => None,
            Some(load::ArrivalPattern::Fixed(rate)) => Some(Self::Fixed {
                gap_ns: 1e9 / rate,
                number: 0,
            }),
            Some(load::ArrivalPattern::Poisson(rate)) => Some(Self::Poisson {
                gap_ns: Exp::new(rate / 1e9).map_err(|error| error.to_string())?,
                // The send times have a random generator of their own, apart from the plan's, so that they
                // stay the same when the targets change.
                dice: SmallRng::seed_from_u64(load.seed ^ 0x9e37_79b9_7f4a_7c15),
                at_ns: 0.0,
            }),
            Some(load::ArrivalPattern::Trace(trace)) => Some(Self::Trace {
                rows: rows.unwrap_or_default(),
                next: 0,
                ns_per_ms: 1e6 / trace.speed,
                // The rows begin after the warm-up, so that all of them are measured.
                begin_ns: load.warm_up_s * 1e9,
            }),
        })
    }

    pub(crate) fn next(&mut self, plan: &mut RequestPlan) -> Option<Arrival> {
        match self {
            Self::Fixed { gap_ns, number } => {
                // The time is computed by multiplication, because a running sum would accumulate
                // rounding errors.
                let intended_ns = (*number as f64 * *gap_ns) as u64;
                *number += 1;
                Some(Arrival {
                    intended_ns,
                    call: plan.draw(),
                })
            }
            Self::Poisson {
                gap_ns,
                dice,
                at_ns,
            } => {
                *at_ns += gap_ns.sample(dice);
                Some(Arrival {
                    intended_ns: *at_ns as u64,
                    call: plan.draw(),
                })
            }
            Self::Trace {
                rows,
                next,
                ns_per_ms,
                begin_ns,
            } => {
                let row = rows.rows.get(*next)?;
                *next += 1;
                let call = PlannedRequest {
                    target: plan.draw_target(),
                    function: row.function,
                    duration_ms: row.duration_ms,
                };
                let intended_ns = (*begin_ns + row.start_ms * *ns_per_ms) as u64;
                Some(Arrival { intended_ns, call })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::RequestTarget;

    fn times(arrivals: load::ArrivalPattern, count: usize) -> Vec<u64> {
        let target = RequestTarget {
            url: "http://127.0.0.1:9/".to_owned(),
            ..RequestTarget::default()
        };
        let load = LoadSpec {
            targets: vec![target],
            arrivals: Some(arrivals),
            ..LoadSpec::default()
        };
        let mut plan = RequestPlan::new(&load, Vec::new(), false).expect("a plan");
        let mut arrivals = ArrivalSequence::new(&load, None)
            .expect("arrivals")
            .expect("an open loop");
        (0..count)
            .map(|_| arrivals.next(&mut plan).expect("an arrival").intended_ns)
            .collect()
    }

    #[test]
    fn a_fixed_rate_does_not_drift() {
        let times = times(load::ArrivalPattern::Fixed(3000.0), 9001);
        assert_eq!((times[0], times[9000]), (0, 3_000_000_000));
    }

    #[test]
    fn a_poisson_rate_holds_on_average_and_varies() {
        let times = times(load::ArrivalPattern::Poisson(1000.0), 20_000);
        let end = times[19_999] as f64 / 1e9;
        assert!((19.4..20.6).contains(&end), "{end}");
        let gaps: Vec<f64> = times
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) as f64)
            .collect();
        // Of exponentially distributed gaps, a share of 1 - 1/e is shorter than the mean.
        let short = gaps.iter().filter(|gap| **gap < 1e6).count() as f64 / gaps.len() as f64;
        assert!((0.61..0.65).contains(&short), "{short}");
    }
}
