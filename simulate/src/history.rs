//! Records the state over time: waiting and running calls, slots, pods. A history keeps the highest values of
//! each stretch of time, and sums over the whole trace. `simulator` writes the history, and `report` reads
//! it.

use nanofaas_core::time::Nanos;

/// The largest number of stretches of a history. If more are needed, neighbours are joined in pairs.
const STRETCHES_MAX: usize = 720;

/// The numbers of calls, slots and pods at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) waiting: u32,
    pub(crate) running: u32,
    /// The number of held and free slots.
    pub(crate) slots: u32,
    pub(crate) up: u32,
    pub(crate) starting: u32,
    /// Pods that are draining or quarantined.
    pub(crate) other: u32,
}

impl Moment {
    fn highest(self, other: Self) -> Self {
        Self {
            waiting: self.waiting.max(other.waiting),
            running: self.running.max(other.running),
            slots: self.slots.max(other.slots),
            up: self.up.max(other.up),
            starting: self.starting.max(other.starting),
            other: self.other.max(other.other),
        }
    }

    pub(crate) const fn pods(self) -> u32 {
        self.up + self.starting + self.other
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) highest: Moment,
    /// The largest number of pods or Jobs that were up or starting at the same time.
    pub(crate) pods_highest: u32,
    /// The number of pods and Jobs that began to start.
    pub(crate) starts: u32,
}

/// The history of a run. Times count from the beginning of the trace.
pub(crate) struct History {
    begin: Nanos,
    pub(crate) width: Nanos,
    pub(crate) stretches: Vec<Stretch>,
    now: Nanos,
    moment: Moment,
    /// The integrals of the numbers of pods, running calls and slots over time, in nanoseconds.
    pub(crate) pods_ns: u128,
    pub(crate) running_ns: u128,
    pub(crate) slots_ns: u128,
}

impl History {
    /// Makes a history that counts nothing before `begin`.
    pub(crate) fn new(begin: Nanos, width: Nanos) -> Self {
        Self {
            begin,
            width,
            stretches: vec![Stretch::default()],
            now: begin,
            moment: Moment::default(),
            pods_ns: 0,
            running_ns: 0,
            slots_ns: 0,
        }
    }

    pub(crate) fn length(&self) -> Nanos {
        self.now - self.begin
    }

    /// Sets the state from `at` on.
    pub(crate) fn see(&mut self, at: Nanos, moment: Moment) {
        let counts = self.pass_to(at);
        self.moment = moment;
        if counts {
            self.note();
        }
    }

    /// Counts the start of a pod or Job.
    pub(crate) fn start(&mut self, at: Nanos) {
        if at >= self.begin {
            self.pass_to(at);
            let last = self.stretches.last_mut().expect("there is one");
            last.starts += 1;
        }
    }

    /// Advances to `at`. Returns false if `at` is before the time that was reached.
    fn pass_to(&mut self, at: Nanos) -> bool {
        if at < self.now {
            return false;
        }
        let passed = at - self.now;
        // The old state lasted until `at`, so the last stretch counts it.
        self.note();
        let sum = |count: u32| u128::from(count) * u128::from(passed.as_ns());
        self.pods_ns += sum(self.moment.pods());
        self.running_ns += sum(self.moment.running);
        self.slots_ns += sum(self.moment.slots);
        self.now = at;
        while (self.length() / self.width) as usize >= self.stretches.len() {
            if self.stretches.len() == STRETCHES_MAX {
                self.join_pairs();
            } else {
                self.stretches.push(Stretch::default());
                self.note();
            }
        }
        true
    }

    fn note(&mut self) {
        let last = self.stretches.last_mut().expect("there is one");
        last.highest = last.highest.highest(self.moment);
        last.pods_highest = last.pods_highest.max(self.moment.up + self.moment.starting);
    }

    fn join_pairs(&mut self) {
        self.width = 2 * self.width;
        self.stretches = join(&self.stretches, 2);
    }
}

/// Joins every `many` stretches into one.
pub(crate) fn join(stretches: &[Stretch], many: usize) -> Vec<Stretch> {
    let joined = stretches.chunks(many).map(|part| {
        let mut all = Stretch::default();
        for one in part {
            all.highest = all.highest.highest(one.highest);
            all.pods_highest = all.pods_highest.max(one.pods_highest);
            all.starts += one.starts;
        }
        all
    });
    joined.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(ns: u64) -> Nanos {
        Nanos::from_ns(ns)
    }

    fn waiting(waiting: u32) -> Moment {
        Moment {
            waiting,
            ..Moment::default()
        }
    }

    #[test]
    fn lasting_things_count_in_every_stretch() {
        let mut history = History::new(ns(100), ns(10));
        history.see(ns(40), waiting(50));
        history.see(ns(50), waiting(9));
        history.see(ns(105), waiting(3));
        history.see(ns(125), waiting(1));
        let seen: Vec<u32> = history
            .stretches
            .iter()
            .map(|one| one.highest.waiting)
            .collect();
        assert_eq!(seen, [9, 3, 3]);
        assert_eq!(history.length(), ns(25));
    }

    #[test]
    fn a_long_time_has_longer_stretches() {
        let mut history = History::new(ns(0), ns(1));
        history.see(ns(5000), waiting(1));
        history.start(ns(5001));
        assert!(history.stretches.len() <= STRETCHES_MAX);
        assert_eq!(history.width, ns(8));
        assert_eq!(history.stretches.last().map(|last| last.starts), Some(1));
    }
}
