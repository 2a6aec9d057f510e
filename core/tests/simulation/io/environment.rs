//! Gives a call's state machine what it needs from its io thread: the table of functions, the state words,
//! random numbers and the ledger. Only that io thread changes the table and the ledger.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nanofaas_core::call::Environment;
use nanofaas_core::entries::Entries;
use nanofaas_core::function::Function;
use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::ticket::LaneId;

use crate::rng::SimulationRng;

pub(crate) struct ThreadEnvironment {
    entries: Arc<Entries>,
    functions: BTreeMap<Arc<str>, Arc<Function>>,
    pub(super) ledger: ThreadLedger,
    dice: Cell<u64>,
}

impl ThreadEnvironment {
    pub(super) fn new(entries: Arc<Entries>) -> Self {
        Self {
            entries,
            functions: BTreeMap::new(),
            ledger: ThreadLedger::default(),
            dice: Cell::new(0),
        }
    }

    pub(super) fn roll(&self, rng: &mut SimulationRng) {
        self.dice.set(rng.next());
    }

    pub(super) fn put(&mut self, function: Arc<Function>) {
        self.functions.insert(function.name().clone(), function);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.functions.remove(name).expect("it was told of");
    }

    pub(super) fn any(&self, rng: &mut SimulationRng) -> Option<Arc<Function>> {
        let count = self.functions.len() as u64;
        let at = (count > 0).then(|| rng.below(count) as usize)?;
        self.functions.values().nth(at).cloned()
    }

    pub(super) fn newest(&self, lane: LaneId) -> Option<Arc<Function>> {
        let mut functions = self.functions.values();
        functions.find(|function| function.lane == lane).cloned()
    }
}

impl Environment for ThreadEnvironment {
    type Entry = Arc<Function>;

    fn function(entry: &Arc<Function>) -> &Function {
        entry
    }

    fn current(&self, lane: LaneId) -> Option<Arc<Function>> {
        self.newest(lane)
    }

    fn entries(&self) -> &Entries {
        &self.entries
    }

    fn random(&self) -> u64 {
        self.dice.get()
    }

    fn between_attempts(&self, change: i64) {
        let backing_off = &self.ledger.backing_off;
        let was = backing_off.load(Ordering::Relaxed);
        let is = was.checked_add_signed(change);
        backing_off.store(
            is.expect("no more calls leave than came"),
            Ordering::Relaxed,
        );
    }
}
