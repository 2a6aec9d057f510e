//! Where a call's time went, as differences of its timestamps, summed over its attempts. Only the state
//! machine writes it.

use crate::call::Report;
use crate::ticket::Grant;
use crate::time::{Nanos, Uptime};

/// The parts of a call's time. Their sum is the time from admission to the end of the last attempt, or to the
/// end of the last wait if no attempt followed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Time from admission to grant, less `start`. If another attempt follows, also the wait for it: the wait
    /// for the report of how a pod ended, and the back-off.
    pub queue: Nanos,
    /// Time for which the call waited for pods to start, successful or not.
    pub start: Nanos,
    /// Time from the grant until the request was sent.
    pub dispatch: Nanos,
    /// Time from the sent request to the answer.
    pub function: Nanos,
}

impl Times {
    /// The call waited from `since` until it was granted a slot.
    pub(super) fn waited(&mut self, since: Uptime, grant: &Grant) {
        let start = grant.start.min(grant.granted_at.since(since));
        self.start += start;
        self.queue += grant.granted_at.since(since + start);
    }

    /// The call waited from `since` and got no slot. `for_a_start` is whether no pod was up.
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
