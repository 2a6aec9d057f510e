//! How long a client may take nothing of its answer while others wait for memory. It looks at no client;
//! `readers` does.
//!
//! A client that reads may be held up for a while, on a busy machine for longer than its network is: it has a
//! second. But of 300 clients that read nothing, each after the other, the last would be found after half a
//! minute. So once several in a row have taken nothing for a whole second the next ones have less, until one
//! takes something after all.

use std::cell::Cell;

const LONG_NS: u64 = 1_000_000_000;
const SHORT_NS: u64 = 150_000_000;
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
    pub(crate) fn ns(&self, round_trip_ns: Option<u64>) -> u64 {
        let usual_ns = if self.silent.get() < SILENT_MAX {
            LONG_NS
        } else {
            SHORT_NS
        };
        usual_ns.max(ROUND_TRIPS * round_trip_ns.unwrap_or(0))
    }

    /// A client took something that it had not for so long.
    pub(crate) fn took_after(&self, silent_ns: u64) {
        if silent_ns >= SHORT_NS {
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
        for _ in 0..SILENT_MAX {
            assert_eq!(patience.ns(None), LONG_NS);
            patience.ended();
        }
        assert_eq!(patience.ns(None), SHORT_NS);
        assert_eq!(patience.ns(Some(100_000_000)), 400_000_000);
        // In time, which says nothing of those that are late.
        patience.took_after(SHORT_NS - 1);
        assert_eq!(patience.ns(None), SHORT_NS);
    }

    #[test]
    fn it_is_long_again_once_a_late_client_took_something() {
        let patience = Patience::default();
        (0..10).for_each(|_| patience.ended());
        patience.took_after(SHORT_NS);
        assert_eq!(patience.ns(None), LONG_NS);
        assert_eq!(patience.ns(Some(500_000_000)), 2_000_000_000);
    }
}
