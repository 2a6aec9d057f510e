//! Sums how long a call waited and how long it was served, over all of its attempts. Only the state machine
//! changes these times.

use crate::call::Report;
use crate::ticket::Grant;
use crate::time::{Nanos, Uptime};

/// The parts of a call's time. Together they cover the time from the admission to the end of the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The time in which the call waited for a slot, for the report of how a pod ended, or for the end of a
    /// back-off. The time in `start` is not counted again here.
    pub queue: Nanos,
    /// The time in which the call waited for pods to start, whether or not they came up.
    pub start: Nanos,
    /// The time from each grant until the request was sent, without the part that `start` contains.
    pub dispatch: Nanos,
    /// The time from when the request was sent until the answer came or the attempt ended.
    pub function: Nanos,
}

impl Times {
    /// Adds a wait that began at `since` and ended with `grant`.
    pub(super) fn waited(&mut self, since: Uptime, grant: &Grant) {
        let start = grant.start.min(grant.granted_at.since(since));
        self.start += start;
        self.queue += grant.granted_at.since(since + start);
    }

    /// Adds a wait that began at `since` and ended without a slot. `for_a_start` is whether the call waited
    /// for a pod to start.
    pub(super) fn gave_up(&mut self, since: Uptime, now: Uptime, for_a_start: bool) {
        let waited = now.since(since);
        if for_a_start {
            self.start += waited;
        } else {
            self.queue += waited;
        }
    }

    pub(super) fn attempted(&mut self, grant: &Grant, report: &Report, now: Uptime) {
        let sent_at = report.sent_at.unwrap_or(now);
        let answered_at = report.answered_at.unwrap_or(now);
        self.start += report.start;
        self.dispatch += sent_at.since(grant.granted_at + report.start);
        self.function += answered_at.since(sent_at);
    }
}
