//! Where a call's time went, as differences of its stamps; attempts add up. Only the machine writes it.

use crate::call::Report;
use crate::ticket::Grant;

/// Nanoseconds of each part. Together they are what passed from the admission to the end of the last attempt,
/// or of the wait that no attempt ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Admitted to granted, less `start_ns`; after an attempt also what the next one waited for: to hear how a
    /// pod ended, and the pause.
    pub queue_ns: u64,
    /// For pods to start, as far as this call waited for it, whether they came up or not.
    pub start_ns: u64,
    /// Granted to sent.
    pub dispatch_ns: u64,
    /// Sent to answered.
    pub function_ns: u64,
}

impl Times {
    /// It waited since `since_ns`, and was granted a slot.
    pub(super) fn waited(&mut self, since_ns: u64, grant: &Grant) {
        let start_ns = grant
            .start_ns
            .min(grant.granted_ns.saturating_sub(since_ns));
        self.start_ns += start_ns;
        self.queue_ns += grant.granted_ns.saturating_sub(since_ns + start_ns);
    }

    /// It waited since `since_ns` in vain; `for_a_start` where no pod was up.
    pub(super) fn gave_up(&mut self, since_ns: u64, now_ns: u64, for_a_start: bool) {
        let waited_ns = now_ns.saturating_sub(since_ns);
        if for_a_start {
            self.start_ns += waited_ns;
        } else {
            self.queue_ns += waited_ns;
        }
    }

    pub(super) fn attempted(&mut self, grant: &Grant, report: &Report, now_ns: u64) {
        let sent_ns = report.sent_ns.unwrap_or(now_ns);
        let answered_ns = report.answered_ns.unwrap_or(now_ns);
        self.start_ns += report.start_ns;
        self.dispatch_ns += sent_ns.saturating_sub(grant.granted_ns + report.start_ns);
        self.function_ns += answered_ns.saturating_sub(sent_ns);
    }
}
