//! Lists the reasons that end a call from outside, before it is answered. The state machine in `call.rs`
//! applies these reasons.

use std::sync::Arc;

use crate::outcome::ExecutionError;

/// A reason from outside to end a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Cancelled,
    /// The client of the call left, and no other client waits for the result.
    ClientLeft,
    /// The function of the call was removed. A waiting call ends, and a running attempt continues.
    Removed,
    /// No pod can be started. A queued call ends, and a call that is running or between two attempts
    /// continues.
    StartsFail(Arc<str>),
    /// The process stops.
    Shutdown,
}

impl End {
    /// Returns whether a running attempt continues.
    pub const fn spares_attempts(&self) -> bool {
        matches!(self, Self::Removed | Self::StartsFail(_))
    }

    /// Chooses one of two reasons, if the second arrives before the driver has applied the first. Returns the
    /// first reason, unless only the second one ends running attempts.
    pub fn merge(first: Option<Self>, second: Self) -> Self {
        match first {
            Some(first) if second.spares_attempts() || !first.spares_attempts() => first,
            _ => second,
        }
    }

    pub(super) fn failure(&self) -> ExecutionError {
        match self {
            Self::Cancelled | Self::ClientLeft => ExecutionError::Cancelled,
            Self::Removed => ExecutionError::FunctionRemoved,
            Self::StartsFail(why) => ExecutionError::ColdStart(why.clone()),
            Self::Shutdown => ExecutionError::Shutdown,
        }
    }
}

/// Returns whether a stored call continues when its own client leaves. A call with a key continues, because a
/// later call with this key may ask for the result. A call also continues if another client waits for its
/// result.
pub const fn goes_on_without_client(is_keyed: bool, waiters: u32) -> bool {
    is_keyed || waiters > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passing_end_hides_no_other() {
        let fails = || End::StartsFail("no image".into());
        assert_eq!(End::merge(None, fails()), fails());
        assert_eq!(End::merge(Some(fails()), End::Cancelled), End::Cancelled);
        assert_eq!(End::merge(Some(fails()), End::Removed), fails());
        assert_eq!(
            End::merge(Some(End::ClientLeft), End::Shutdown),
            End::ClientLeft
        );
        assert_eq!(
            End::merge(Some(End::Cancelled), End::Removed),
            End::Cancelled
        );
    }
}
