//! The book is the history of all functions: every change, with the times at which the change was sent and
//! answered. From this history the book computes the states that a function may have had in an interval. A
//! state is possible from the time when its change is sent until the next change is answered. `registrar`
//! writes the history. `clients` and `ledger` judge answers and received bodies by it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use nanofaas_testkit::wait::lock;

use crate::plan::{FUNCTIONS, FunctionMode, PoolEndpoint, Spec};

/// A time, in nanoseconds since the run began. The times of all threads are comparable.
pub(crate) type At = u64;

#[derive(Clone, Debug)]
struct FunctionState {
    sent: At,
    /// `At::MAX` until the change is answered.
    answered: At,
    /// `None` if the change removed the function.
    spec: Option<Spec>,
    version: Version,
}

/// Identifies a registration of a name. `life` counts the registrations at a time when no function had the
/// name, and `revision` counts all changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version {
    pub(crate) life: u64,
    pub(crate) revision: u64,
}

/// The states that a function may have had at some time of an interval.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Possible {
    pub(crate) absent: bool,
    pub(crate) removed: bool,
    pub(crate) warm: bool,
    pub(crate) job: bool,
    pub(crate) pool: bool,
    pub(crate) local: bool,
    pub(crate) closed: bool,
    pub(crate) rude: bool,
}

impl Possible {
    pub(crate) fn process(&self) -> bool {
        self.warm || self.job
    }
}

pub(crate) struct Book {
    begun: Instant,
    functions: [Mutex<Vec<FunctionState>>; FUNCTIONS],
    /// The largest `concurrency` of each life, by function and life.
    widest: Mutex<HashMap<(usize, u64), u64>>,
}

impl Book {
    pub(crate) fn new() -> Self {
        let absent = FunctionState {
            sent: 0,
            answered: 0,
            spec: None,
            version: Version::default(),
        };
        Self {
            begun: Instant::now(),
            functions: std::array::from_fn(|_| Mutex::new(vec![absent.clone()])),
            widest: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> At {
        u64::try_from(self.begun.elapsed().as_nanos()).expect("less than centuries")
    }

    /// Records a change that is about to be sent, with the spec after the change.
    pub(crate) fn begin(&self, function: usize, spec: Option<Spec>) -> Version {
        let mut states = lock(&self.functions[function]);
        let last = states.last().expect("the first state stays");
        // A life begins when an absent function is registered.
        let begins = spec.is_some() && last.spec.is_none();
        let version = Version {
            life: last.version.life + u64::from(begins),
            revision: last.version.revision + 1,
        };
        if let Some(spec) = &spec {
            let mut widest = lock(&self.widest);
            let most = widest.entry((function, version.life)).or_default();
            *most = spec.concurrency.max(*most);
        }
        states.push(FunctionState {
            sent: self.now(),
            answered: At::MAX,
            spec,
            version,
        });
        version
    }

    /// Records that the last change was answered with success.
    pub(crate) fn end(&self, function: usize) {
        let mut states = lock(&self.functions[function]);
        states.last_mut().expect("it was begun").answered = self.now();
    }

    pub(crate) fn is_present(&self, function: usize) -> bool {
        let states = lock(&self.functions[function]);
        states.last().is_some_and(|state| state.spec.is_some())
    }

    pub(crate) fn is_warm(&self, function: usize) -> bool {
        let states = lock(&self.functions[function]);
        let spec = states.last().and_then(|state| state.spec.as_ref());
        spec.is_some_and(|spec| spec.mode == FunctionMode::Warm)
    }

    /// Returns the earliest version under which a call that is sent now may run.
    pub(crate) fn floor(&self, function: usize) -> Version {
        self.floor_at(function, self.now())
    }

    /// Returns the earliest version under which a call that was sent at `now` may run.
    pub(crate) fn floor_at(&self, function: usize, now: At) -> Version {
        let states = lock(&self.functions[function]);
        let mut rest = states.iter().rev().skip_while(|state| state.answered > now);
        let last = rest.next().expect("the first state was always answered");
        Version {
            // After a removal, calls can run only in the function's next life.
            life: last.version.life + u64::from(last.spec.is_none()),
            revision: last.version.revision,
        }
    }

    /// Returns whether the function's first registration in this life was sent after `at`.
    pub(crate) fn began_after(&self, function: usize, life: u64, at: At) -> bool {
        let states = lock(&self.functions[function]);
        let first = states.iter().find(|state| state.version.life == life);
        first.is_none_or(|state| state.sent > at)
    }

    pub(crate) fn concurrency_max(&self, function: usize, life: u64) -> u64 {
        let widest = lock(&self.widest);
        widest.get(&(function, life)).copied().unwrap_or(0)
    }

    pub(crate) fn possible(&self, function: usize, from: At, to: At) -> Possible {
        let states = lock(&self.functions[function]);
        let mut found = Possible::default();
        // The loop runs from the latest state back to the state that was in force when the interval began.
        for (at, state) in states.iter().enumerate().rev() {
            if state.sent <= to {
                found.add(state.spec.as_ref());
                // A removal ends the calls that exist when it is sent, and may end some of them late. A
                // removal therefore counts if its answer came after `from`.
                found.removed |= state.spec.is_none() && at > 0 && state.answered >= from;
            }
            if state.answered < from {
                break;
            }
        }
        found
    }
}

impl Possible {
    fn add(&mut self, spec: Option<&Spec>) {
        let Some(spec) = spec else {
            self.absent = true;
            return;
        };
        match spec.mode {
            FunctionMode::Warm => self.warm = true,
            FunctionMode::Job => self.job = true,
            FunctionMode::Local => self.local = true,
            FunctionMode::Pool => {
                self.pool = true;
                self.closed |= spec.endpoint == PoolEndpoint::Closed;
                self.rude |= matches!(
                    spec.endpoint,
                    PoolEndpoint::RudeTcp | PoolEndpoint::RudeUnix
                );
            }
        }
    }
}
