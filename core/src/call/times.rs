//! Where a call's time went, as differences of its stamps; attempts add up. Only the machine writes it.

use crate::call::Report;
use crate::ticket::Grant;

/// Nanoseconds of each part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Admitted to granted, less `start_ns`.
    pub queue_ns: u64,
    /// For pods to start, as far as this call waited for it.
    pub start_ns: u64,
    /// Granted to sent.
    pub dispatch_ns: u64,
    /// Sent to answered.
    pub function_ns: u64,
}

impl Times {
    pub(super) fn waited(&mut self, queued_ns: u64, grant: &Grant) {
        self.start_ns += grant.start_ns;
        self.queue_ns += grant.granted_ns.saturating_sub(queued_ns + grant.start_ns);
    }

    pub(super) fn attempted(&mut self, grant: &Grant, report: &Report, now_ns: u64) {
        let sent_ns = report.sent_ns.unwrap_or(now_ns);
        let answered_ns = report.answered_ns.unwrap_or(now_ns);
        self.start_ns += report.start_ns;
        self.dispatch_ns += sent_ns.saturating_sub(grant.granted_ns + report.start_ns);
        self.function_ns += answered_ns.saturating_sub(sent_ns);
    }
}
