//! How long a client may take nothing of its answer while others wait for memory. It looks at no client;
//! `readers` does.
//!
//! A client that reads may be held up for a while, on a busy machine for longer than its network is: it has a
//! second. But of 300 clients that read nothing, each after the other, the last would be found after half a
//! minute. So once several in a row have taken nothing for a whole second the next ones have less, until one
//! takes something after all.

use std::cell::Cell;

use nanofaas_core::time::Nanos;

const LONG: Nanos = Nanos::from_s(1);
const SHORT: Nanos = Nanos::from_ms(150);
/// Or so many round trips of the client's network, where that is more.
const ROUND_TRIPS: u64 = 4;
/// So many in a row make the next ones' time short.
const SILENT_MAX: u32 = 3;

#[derive(Default)]
pub(crate) struct Patience {
    /// How many clients in a row were ended, since one was late and took something.
    silent: Cell<u32>,
}

impl Patience {
    /// For a client that is so far away, where that is known.
    pub(crate) fn span(&self, round_trip: Option<Nanos>) -> Nanos {
        let usual = if self.silent.get() < SILENT_MAX {
            LONG
        } else {
            SHORT
        };
        usual.max(ROUND_TRIPS * round_trip.unwrap_or_default())
    }

    /// A client took something that it had not for so long.
    pub(crate) fn took_after(&self, silent_for: Nanos) {
        if silent_for >= SHORT {
            self.silent.set(0);
        }
    }

    /// A client was ended.
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
        // In time, which says nothing of those that are late.
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
