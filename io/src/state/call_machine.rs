//! The environment of a call's state machine (`core/src/call.rs`) on an io thread: functions, random bits and
//! the table of entries. `invoke` drives the state machine.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use nanofaas_core::call::{self, Environment};
use nanofaas_core::entries::Entries;
use nanofaas_core::function::Function;
use nanofaas_core::ticket::LaneId;

use crate::runtime::Runtime;
use crate::state::Tables;
use crate::state::functions::FunctionEntry;

/// The state machine of a call of this thread.
pub(crate) type CallMachine = call::Call<Tables>;

impl Environment for Tables {
    type Entry = Rc<FunctionEntry>;

    fn function(entry: &Rc<FunctionEntry>) -> &Function {
        &entry.function
    }

    fn current(&self, lane: LaneId) -> Option<Rc<FunctionEntry>> {
        self.functions.borrow().at(lane).cloned()
    }

    fn entries(&self) -> &Entries {
        &self.entries
    }

    fn random(&self) -> u64 {
        Runtime::random(self) as u64
    }

    fn between_attempts(&self, change: i64) {
        let count = &self.ledger().backing_off;
        let was = count.load(Ordering::Relaxed);
        count.store(was.wrapping_add_signed(change), Ordering::Relaxed);
    }
}
