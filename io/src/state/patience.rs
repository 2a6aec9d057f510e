//! How long a client may take nothing of its answer while others wait for memory. It polls no client;
//! `readers` does.
//!
//! A client that reads may pause, on a busy machine for longer than its network takes, so it has a second. But
//! 300 clients that read nothing, ended one after the other, would hold memory for half a minute. So after
//! several clients in a row that took nothing for a whole second, the next ones have less time, until a late
//! client takes something.

use std::cell::Cell;

use nanofaas_core::time::Nanos;

/// Measured with 150 ms for all clients: on a machine under ten times its load, some clients were ended
/// although they read.
const LONG: Nanos = Nanos::from_s(1);
const SHORT: Nanos = Nanos::from_ms(150);
/// A client has at least the time of this many round trips.
const ROUND_TRIPS: u64 = 4;
/// After this many ended clients in a row the time is short.
const SILENT_MAX: u32 = 3;

#[derive(Default)]
pub(crate) struct Patience {
    /// How many clients were ended in a row, since a late one last took something.
    silent: Cell<u32>,
}

impl Patience {
    /// The time for a client with this round trip, if it is known.
    pub(crate) fn span(&self, round_trip: Option<Nanos>) -> Nanos {
        let usual = if self.silent.get() < SILENT_MAX {
            LONG
        } else {
            SHORT
        };
        usual.max(ROUND_TRIPS * round_trip.unwrap_or_default())
    }

    /// Notes that a client took something after it had taken nothing for so long.
    pub(crate) fn took_after(&self, silent_for: Nanos) {
        if silent_for >= SHORT {
            self.silent.set(0);
        }
    }

    /// Notes that a client was ended.
    pub(crate) fn ended(&self) {
        self.silent.set(self.silent.get().saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_short_after_clients_that_took_nothing() {
        let patience = Patience::default();
        let ms = Nanos::from_ms;
        for _ in 0..SILENT_MAX {
            assert_eq!(patience.span(None), LONG);
            patience.ended();
        }
        assert_eq!(patience.span(None), SHORT);
        assert_eq!(patience.span(Some(ms(100))), ms(400));
        // This client was not late, so it does not count.
        patience.took_after(SHORT - Nanos::from_ns(1));
        assert_eq!(patience.span(None), SHORT);
    }

    #[test]
    fn patience_returns_once_a_late_client_reads() {
        let patience = Patience::default();
        (0..10).for_each(|_| patience.ended());
        patience.took_after(SHORT);
        assert_eq!(patience.span(None), LONG);
        assert_eq!(
            patience.span(Some(Nanos::from_ms(500))),
            Nanos::from_ms(2000)
        );
    }
}
