//! Where a call's time went, as differences of its stamps; attempts add up. Only the machine writes it.

use crate::call::Report;
use crate::ticket::Grant;
use crate::time::{Nanos, Uptime};

/// Each part. Together they are what passed from the admission to the end of the last attempt,
/// or of the wait that no attempt ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Admitted to granted, less `start`; after an attempt also what the next one waited for: to hear how a
    /// pod ended, and the pause.
    pub queue: Nanos,
    /// For pods to start, as far as this call waited for it, whether they came up or not.
    pub start: Nanos,
    /// Granted to sent.
    pub dispatch: Nanos,
    /// Sent to answered.
    pub function: Nanos,
}

impl Times {
    /// It waited since `since`, and was granted a slot.
    pub(super) fn waited(&mut self, since: Uptime, grant: &Grant) {
        let start = grant.start.min(grant.granted_at.since(since));
        self.start += start;
        self.queue += grant.granted_at.since(since + start);
    }

    /// It waited since `since` in vain; `for_a_start` where no pod was up.
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
