//! Keeps the last cold starts of each function, with the time of each phase, and histograms of these times
//! over all functions. This module reads no clock; a backend reports when a phase was reached. The work queue
//! owns the only `ColdStarts`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use crate::histogram::Histograms;
use crate::limits::COLD_STARTS_KEPT;
use crate::message::{ColdStart, Phases, ReadyTimestamps};
use crate::time::{Nanos, Uptime};

/// The phases of a start. The backend observes most phases, and the runtime reports three: started, loaded
/// and ready. A later phase from one source may therefore be known before an earlier phase from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Phase {
    /// The API server accepted the pod or Job.
    Created = 0,
    /// The pod was assigned to a node.
    Scheduled = 1,
    /// The pod has an address.
    Address = 2,
    /// The container runs.
    Running = 3,
    /// The process runs; only the local backend has this phase.
    Spawned = 4,
    /// The runtime executed its first instruction.
    Started = 5,
    /// The handler is loaded.
    Loaded = 6,
    /// The runtime is ready for calls.
    Ready = 7,
    /// The control plane may send calls to the pod.
    Usable = 8,
}

impl Phase {
    pub const ALL: [Self; 9] = [
        Self::Created,
        Self::Scheduled,
        Self::Address,
        Self::Running,
        Self::Spawned,
        Self::Started,
        Self::Loaded,
        Self::Ready,
        Self::Usable,
    ];

    /// Returns the phases for which the runtime has a timestamp, each with this timestamp in milliseconds
    /// since the Unix epoch.
    pub fn reported(timestamps: ReadyTimestamps) -> impl Iterator<Item = (Self, u64)> {
        let all = [
            (Self::Started, timestamps.started_at_ms),
            (Self::Loaded, timestamps.loaded_at_ms),
            (Self::Ready, timestamps.ready_at_ms),
        ];
        let known = |(phase, epoch_ms): (Self, Option<u64>)| Some((phase, epoch_ms?));
        all.into_iter().filter_map(known)
    }

    /// Returns the name of the phase in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Scheduled => "scheduled",
            Self::Address => "address",
            Self::Running => "running",
            Self::Spawned => "spawned",
            Self::Started => "started",
            Self::Loaded => "loaded",
            Self::Ready => "ready",
            Self::Usable => "usable",
        }
    }
}

/// Converts between the process's clock and the wall clock. The field is the wall clock's time at
/// `Uptime::ZERO`.
#[derive(Clone, Copy, Debug)]
pub struct WallClock(pub SystemTime);

impl WallClock {
    fn origin_ns(self) -> u128 {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_nanos())
    }

    pub fn epoch_ms(self, at: Uptime) -> u64 {
        let ms = (self.origin_ns() + u128::from(at.as_ns())) / 1_000_000;
        u64::try_from(ms).unwrap_or(u64::MAX)
    }

    /// Converts a time of the wall clock to the process's clock. A time before `Uptime::ZERO` becomes zero.
    pub fn uptime_at(self, epoch_ms: u64) -> Uptime {
        let ns = (u128::from(epoch_ms) * 1_000_000).saturating_sub(self.origin_ns());
        Uptime::from_ns(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

struct Record {
    pod: Box<str>,
    wanted_at: Uptime,
    /// When each phase was reached; none if that is not known.
    reached_at: [Option<Uptime>; Phase::ALL.len()],
    failure: Option<Arc<str>>,
}

impl Record {
    /// Returns the known phases, sorted by time. The runtime's timestamps come from another clock. If the
    /// timestamp of a phase is earlier than that of the runtime's phase before it, both get the later time.
    fn phases(&self) -> Phases {
        let mut latest = Nanos::ZERO;
        let mut phases = Vec::new();
        for phase in Phase::ALL {
            let Some(at) = self.reached_at[phase as usize] else {
                continue;
            };
            let mut after = at.since(self.wanted_at);
            if matches!(phase, Phase::Started | Phase::Loaded | Phase::Ready) {
                latest = after.max(latest);
                after = latest;
            }
            phases.push((phase.as_str(), after));
        }
        phases.sort_by_key(|(_, after)| *after);
        phases.into()
    }
}

/// Histograms of the times from when a pod was wanted until the pod reached a phase. The index is the phase.
pub type StartTimes = Histograms<{ Phase::ALL.len() }>;

/// The last starts of each function.
pub struct ColdStarts {
    clock: WallClock,
    records: HashMap<Arc<str>, VecDeque<Record>>,
    times: Arc<StartTimes>,
}

impl ColdStarts {
    pub fn new(clock: WallClock) -> Self {
        Self {
            clock,
            records: HashMap::new(),
            times: Arc::default(),
        }
    }

    /// Returns the histograms of the starts of all functions.
    pub fn times(&self) -> Arc<StartTimes> {
        self.times.clone()
    }

    /// Adds the record of a start. If the function already has `COLD_STARTS_KEPT` records, removes the oldest
    /// one.
    pub fn begin(&mut self, function: &Arc<str>, pod: &str, wanted_at: Uptime) {
        let records = self.records.entry(function.clone()).or_default();
        if records.len() == COLD_STARTS_KEPT {
            records.pop_front();
        }
        records.push_back(Record {
            pod: pod.into(),
            wanted_at,
            reached_at: [None; Phase::ALL.len()],
            failure: None,
        });
    }

    fn record(&mut self, function: &str, pod: &str) -> Option<&mut Record> {
        let records = self.records.get_mut(function)?;
        records.iter_mut().rev().find(|record| &*record.pod == pod)
    }

    /// Notes when a phase was reached. Only the first report of a phase counts.
    pub fn reached(&mut self, function: &str, pod: &str, phase: Phase, at: Uptime) {
        let Some(record) = self.record(function, pod) else {
            return;
        };
        let place = &mut record.reached_at[phase as usize];
        if place.is_none() {
            *place = Some(at);
            let took = at.since(record.wanted_at);
            self.times.record(phase as usize, took);
        }
    }

    /// Applies the timestamps that a runtime reported. The timestamps may arrive when the pod already serves
    /// calls.
    pub fn apply_timestamps(&mut self, function: &str, pod: &str, timestamps: ReadyTimestamps) {
        for (phase, epoch_ms) in Phase::reported(timestamps) {
            let at = self.clock.uptime_at(epoch_ms);
            self.reached(function, pod, phase, at);
        }
    }

    /// Notes why a start failed. Only the first reason is kept.
    pub fn failed(&mut self, function: &str, pod: &str, why: Arc<str>) {
        if let Some(record) = self.record(function, pod) {
            record.failure.get_or_insert(why);
        }
    }

    /// Forgets the starts of a removed function.
    pub fn forget(&mut self, function: &str) {
        self.records.remove(function);
    }

    /// Returns the phases of one start that are known by now.
    pub fn phases(&mut self, function: &str, pod: &str) -> Phases {
        self.record(function, pod)
            .map_or_else(Phases::default, |record| record.phases())
    }

    /// Returns the starts of a function, the oldest first.
    pub fn of(&self, function: &str) -> Vec<ColdStart> {
        let records = self.records.get(function).into_iter().flatten();
        let shown = records.map(|record| ColdStart {
            pod: record.pod.clone().into(),
            wanted_at_ms: self.clock.epoch_ms(record.wanted_at),
            phases: record.phases(),
            failure: record.failure.clone(),
        });
        shown.collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    const MS: Nanos = Nanos::from_ms(1);

    fn at_ms(ms: u64) -> Uptime {
        Uptime::ZERO + ms * MS
    }

    fn starts() -> ColdStarts {
        let origin = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        ColdStarts::new(WallClock(origin))
    }

    #[test]
    fn phases_are_in_order_and_since_the_want() {
        let mut starts = starts();
        let function: Arc<str> = "f".into();
        starts.begin(&function, "p", at_ms(500));
        starts.reached("f", "p", Phase::Spawned, at_ms(503));
        starts.reached("f", "p", Phase::Usable, at_ms(540));
        let timestamps = ReadyTimestamps {
            started_at_ms: Some(1_000_504),
            loaded_at_ms: Some(1_000_503),
            ready_at_ms: None,
        };
        starts.apply_timestamps("f", "p", timestamps);
        let shown = &starts.of("f")[0];
        assert_eq!(shown.wanted_at_ms, 1_000_500);
        let expected = [
            ("spawned", 3 * MS),
            ("started", 4 * MS),
            ("loaded", 4 * MS),
            ("usable", 40 * MS),
        ];
        assert_eq!(shown.phases[..], expected);
        assert_eq!(starts.phases("f", "p")[..], expected);
        assert_eq!(shown.failure, None);
    }

    #[test]
    fn late_cluster_reports_delay_no_runtime_timestamp() {
        let mut starts = starts();
        starts.begin(&"f".into(), "p", Uptime::ZERO);
        starts.reached("f", "p", Phase::Created, at_ms(10));
        let timestamps = ReadyTimestamps {
            started_at_ms: Some(1_000_400),
            loaded_at_ms: Some(1_000_450),
            ready_at_ms: Some(1_000_460),
        };
        starts.apply_timestamps("f", "p", timestamps);
        starts.reached("f", "p", Phase::Usable, at_ms(470));
        starts.reached("f", "p", Phase::Running, at_ms(1500));
        let phases = starts.phases("f", "p");
        let names: Vec<_> = phases.iter().map(|(name, _)| *name).collect();
        assert_eq!(names[..4], ["created", "started", "loaded", "ready"]);
        let late = [
            ("ready", 460 * MS),
            ("usable", 470 * MS),
            ("running", 1500 * MS),
        ];
        assert_eq!(phases[3..], late);
    }

    #[test]
    fn each_phase_is_counted_once() {
        let mut starts = starts();
        starts.begin(&"f".into(), "p", Uptime::ZERO);
        for ms in [1, 2] {
            starts.reached("f", "p", Phase::Created, at_ms(ms));
        }
        starts.reached("f", "nobody", Phase::Created, at_ms(1));
        let mut counts = [0; crate::histogram::BUCKETS];
        let sum = starts.times().add_to(Phase::Created as usize, &mut counts);
        assert_eq!((counts.iter().sum::<u64>(), sum), (1, MS));
    }

    #[test]
    fn the_last_ones_stay_until_their_function_goes() {
        let mut starts = starts();
        let function: Arc<str> = "f".into();
        for number in 0..COLD_STARTS_KEPT + 5 {
            starts.begin(&function, &format!("p{number}"), Uptime::ZERO);
        }
        starts.failed("f", "p36", "why".into());
        starts.failed("f", "p0", "too old to matter".into());
        let shown = starts.of("f");
        assert_eq!(shown.len(), COLD_STARTS_KEPT);
        assert_eq!(shown[0].pod, "p5");
        assert_eq!(shown[31].failure.as_deref(), Some("why"));
        starts.forget("f");
        assert!(starts.of("f").is_empty());
    }
}
