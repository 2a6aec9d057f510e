//! Records how every request ended, and how long it took. Times are nanoseconds since the start of the run.
//! This module reads no clock. The client reports each end, and reports use the sums.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::load::LoadSpec;

/// Makes a histogram with three significant digits, from 1 µs to an hour, in nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).expect("these bounds are sound")
}

/// Records a value. A value above the histogram's maximum counts as the maximum.
fn record(histogram: &mut Histogram<u64>, ns: u64) {
    histogram.saturating_record(ns);
}

/// How a request ends without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RequestError {
    /// The server closed the connection before its answer was complete.
    Closed,
    /// The bytes that came are not an HTTP/1.1 answer.
    NoAnswer,
    /// No answer came within the request's time limit.
    Timeout,
    /// The run ended before the answer came, or before the request could be sent.
    Unfinished,
    QueueFull,
}

impl RequestError {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::NoAnswer => "no_answer",
            Self::Timeout => "timeout",
            Self::Unfinished => "unfinished",
            Self::QueueFull => "queue_full",
        }
    }
}

/// The measured time. A request is measured if its intended send time is at or after `begin_ns` and before
/// `end_ns`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MeasuredSpan {
    pub(crate) begin_ns: u64,
    pub(crate) end_ns: u64,
}

impl MeasuredSpan {
    fn holds(self, ns: u64) -> bool {
        (self.begin_ns..self.end_ns).contains(&ns)
    }
}

/// A part of the run of about a tenth of a second, and the figures of the requests that ended in it.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) begin_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) answers: u64,
    pub(crate) errors: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) max_ns: u64,
}

pub(crate) struct RunTally {
    span: MeasuredSpan,
    expect: Vec<u16>,
    refusals: Vec<u16>,
    /// The number of requests whose intended send time is within the span.
    pub(crate) requests: u64,
    /// The number of expected answers that came within the span, also of requests from before the span.
    pub(crate) answered_in_span: u64,
    /// The latencies of expected answers. Timeouts and unfinished requests are included with the time until
    /// they ended, because the percentiles would look too good without them.
    pub(crate) latency: Histogram<u64>,
    /// Latency for each unexpected status, including refusals.
    pub(crate) unexpected: BTreeMap<u16, Histogram<u64>>,
    /// Latency for each target; empty if there is only one target.
    by_target: Vec<Histogram<u64>>,
    /// The wait in this client: the time from the intended send time to the first sent byte, or to the
    /// request's end if no byte was sent. It is recorded for answers, timeouts and unfinished requests.
    pub(crate) wait: Histogram<u64>,
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) faults: BTreeMap<RequestError, u64>,
    pub(crate) connect_errors: u64,
    /// Failures of connections on which no request was in flight, such as bytes without a request.
    pub(crate) unasked: u64,
    /// Attempts to connect again after the start of the run.
    pub(crate) reconnects: u64,
    pub(crate) windows: Vec<Window>,
    window: Histogram<u64>,
    window_begin_ns: u64,
    window_errors: u64,
}

const WINDOW_NS: u64 = 100_000_000;

impl RunTally {
    pub(crate) fn new(span: MeasuredSpan, targets: usize, load: &LoadSpec) -> Self {
        Self {
            span,
            expect: load.expect.clone(),
            refusals: load.refusals.clone(),
            requests: 0,
            answered_in_span: 0,
            latency: histogram(),
            unexpected: BTreeMap::new(),
            by_target: match targets {
                1 => Vec::new(),
                more => vec![histogram(); more],
            },
            wait: histogram(),
            statuses: BTreeMap::new(),
            faults: BTreeMap::new(),
            connect_errors: 0,
            unasked: 0,
            reconnects: 0,
            windows: Vec::new(),
            window: Histogram::new_with_bounds(1_000, 3_600_000_000_000, 2)
                .expect("these bounds are sound"),
            window_begin_ns: 0,
            window_errors: 0,
        }
    }

    fn is_expected(&self, status: u16) -> bool {
        if self.expect.is_empty() {
            (200..300).contains(&status)
        } else {
            self.expect.contains(&status)
        }
    }

    /// Returns the number of answers whose status is neither expected nor a refusal.
    pub(crate) fn unwanted(&self) -> u64 {
        let unwanted = self.unexpected.iter();
        unwanted
            .filter(|(status, _)| !self.refusals.contains(status))
            .map(|(_, latency)| latency.len())
            .sum()
    }

    pub(crate) fn answer(&mut self, target: u32, status: u16, times: RequestTimes) {
        let expected = self.is_expected(status);
        let latency_ns = times.now_ns.saturating_sub(times.intended_ns);
        if expected {
            record(&mut self.window, latency_ns);
            self.answered_in_span += u64::from(self.span.holds(times.now_ns));
        } else if !self.refusals.contains(&status) {
            self.window_errors += 1;
        }
        if !self.span.holds(times.intended_ns) {
            return;
        }
        self.requests += 1;
        *self.statuses.entry(status).or_default() += 1;
        self.waited(times);
        if expected {
            self.lasted(target, latency_ns);
        } else {
            record(
                self.unexpected.entry(status).or_insert_with(histogram),
                latency_ns,
            );
        }
    }

    pub(crate) fn failed(&mut self, error: RequestError, target: u32, times: RequestTimes) {
        self.window_errors += 1;
        if !self.span.holds(times.intended_ns) {
            return;
        }
        self.requests += 1;
        *self.faults.entry(error).or_default() += 1;
        if matches!(error, RequestError::Timeout | RequestError::Unfinished) {
            let lasted_ns = times.now_ns.saturating_sub(times.intended_ns);
            self.waited(times);
            self.lasted(target, lasted_ns);
        }
    }

    fn waited(&mut self, times: RequestTimes) {
        let wait_ns = times.sent_ns.saturating_sub(times.intended_ns);
        record(&mut self.wait, wait_ns);
    }

    fn lasted(&mut self, target: u32, ns: u64) {
        record(&mut self.latency, ns);
        if let Some(own) = self.by_target.get_mut(target as usize) {
            record(own, ns);
        }
    }

    /// Returns the latencies of one target. With only one target, this is the histogram of the whole run.
    pub(crate) fn of_target(&self, target: usize) -> &Histogram<u64> {
        self.by_target.get(target).unwrap_or(&self.latency)
    }

    /// Closes and returns the current window if its time is over.
    pub(crate) fn tick(&mut self, now_ns: u64) -> Option<&Window> {
        if now_ns < self.window_begin_ns + WINDOW_NS {
            return None;
        }
        self.windows.push(Window {
            begin_ns: self.window_begin_ns,
            end_ns: now_ns,
            answers: self.window.len(),
            errors: self.window_errors,
            p50_ns: self.window.value_at_quantile(0.5),
            p99_ns: self.window.value_at_quantile(0.99),
            max_ns: self.window.max(),
        });
        self.window.reset();
        self.window_errors = 0;
        self.window_begin_ns = now_ns;
        self.windows.last()
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestTimes {
    pub(crate) intended_ns: u64,
    pub(crate) sent_ns: u64,
    pub(crate) now_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_without_an_answer_counts() {
        let span = MeasuredSpan {
            begin_ns: 0,
            end_ns: 10,
        };
        let mut tally = RunTally::new(span, 1, &LoadSpec::default());
        let times = RequestTimes {
            intended_ns: 0,
            sent_ns: 2_000_000,
            now_ns: 5_000_000,
        };
        for error in [RequestError::Timeout, RequestError::Unfinished] {
            tally.failed(error, 0, times);
        }
        tally.failed(RequestError::Closed, 0, times);
        assert_eq!(tally.latency.count_at(5_000_000), 2);
        assert_eq!(tally.wait.count_at(2_000_000), 2);
    }
}
