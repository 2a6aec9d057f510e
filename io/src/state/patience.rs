//! How long a client may take nothing of its answer while tasks wait for memory. `readers` polls the clients.
//!
//! On a busy machine a client that reads may pause for longer than a round trip, so a client usually has a
//! second. But if hundreds of clients read nothing and each of them had a second, their memory would become
//! free too slowly. After several clients in a row were ended, the next ones therefore have less time, until
//! a client takes something after a pause.

use std::cell::Cell;

use nanofaas_core::time::Nanos;

/// How long a client may usually take nothing of its answer. With 150 ms for all clients, some clients were
/// ended although they read, on a machine under ten times the load that it can serve.
const LONG: Nanos = Nanos::from_s(1);
const SHORT: Nanos = Nanos::from_ms(150);
/// A client has at least the time of this many of its round trips.
const ROUND_TRIPS: u64 = 4;
/// After this many clients in a row were ended, the next clients have `SHORT` in place of `LONG`.
const SILENT_MAX: u32 = 3;

#[derive(Default)]
pub(crate) struct Patience {
    /// How many clients were ended since a client last took something after a pause of `SHORT` or more.
    silent: Cell<u32>,
}

impl Patience {
    /// Returns how long a client with this round trip may take nothing. The round trip may be unknown.
    pub(crate) fn span(&self, round_trip: Option<Nanos>) -> Nanos {
        let usual = if self.silent.get() < SILENT_MAX {
            LONG
        } else {
            SHORT
        };
        usual.max(ROUND_TRIPS * round_trip.unwrap_or_default())
    }

    /// Notes that a client took something after it had taken nothing for `silent_for`.
    pub(crate) fn took_after(&self, silent_for: Nanos) {
        if silent_for >= SHORT {
            self.silent.set(0);
        }
    }

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
        // This client paused for less than `SHORT`, so the count of ended clients stays.
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
