//! Why a call has to end before it is answered. It ends nothing; the machine does.

use std::sync::Arc;

use crate::outcome::Failure;

/// What ends a call from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Cancelled,
    /// Its client went away, and nothing else waits for it.
    ClientLeft,
    /// Its function was removed: what waits ends, what runs goes on.
    Removed,
    /// No pod can be started: what waits ends.
    StartsFail(Arc<str>),
    /// The process stops.
    Shutdown,
}

impl End {
    /// Whether an attempt that runs goes on.
    pub const fn spares_attempts(&self) -> bool {
        matches!(self, Self::Removed | Self::StartsFail(_))
    }

    /// Of two that reach the driver before it looks: the first one, but one that may pass a call by
    /// hides none that would end it.
    pub fn merge(first: Option<Self>, second: Self) -> Self {
        match first {
            Some(first) if second.spares_attempts() || !first.spares_attempts() => first,
            _ => second,
        }
    }

    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Cancelled | Self::ClientLeft => Failure::Cancelled,
            Self::Removed => Failure::FunctionRemoved,
            Self::StartsFail(why) => Failure::ColdStart(why.clone()),
            Self::Shutdown => Failure::Shutdown,
        }
    }
}

/// Whether a stored call goes on when its own client leaves: its key, or the others that wait for it,
/// may still ask for the result.
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
