//! The last cold starts of each function, taken apart by phase. It measures nothing by itself:
//! pods say when what was reached. The bridge answers clients from it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use nanofaas_core::limits::COLD_STARTS_KEPT;
use nanofaas_core::message::{ColdStart, ReadyStamps};

/// Nanoseconds of the process's clock to and from the world's.
#[derive(Clone, Copy)]
pub(crate) struct WallClock(pub(crate) SystemTime);

impl WallClock {
    fn origin_ns(self) -> u128 {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_nanos())
    }

    fn epoch_ms(self, at_ns: u64) -> u64 {
        let ms = (self.origin_ns() + u128::from(at_ns)) / 1_000_000;
        u64::try_from(ms).unwrap_or(u64::MAX)
    }

    /// What a runtime stamped, as nanoseconds of the process's clock; 0 before its origin.
    fn process_ns(self, epoch_ms: u64) -> u64 {
        let ns = (u128::from(epoch_ms) * 1_000_000).saturating_sub(self.origin_ns());
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

struct Record {
    pod: String,
    wanted_ns: u64,
    spawned_ns: Option<u64>,
    stamps: Option<ReadyStamps>,
    usable_ns: Option<u64>,
    failure: Option<Arc<str>>,
}

impl Record {
    fn shown(&self, clock: WallClock) -> ColdStart {
        let stamp = |of: fn(&ReadyStamps) -> u64| {
            let ms = self.stamps.as_ref().map(of).filter(|ms| *ms > 0);
            ms.map(|ms| clock.process_ns(ms))
        };
        let reached = [
            ("spawned", self.spawned_ns),
            ("started", stamp(|stamps| stamps.started_at_ms)),
            ("loaded", stamp(|stamps| stamps.loaded_at_ms)),
            ("ready", stamp(|stamps| stamps.ready_at_ms)),
            ("usable", self.usable_ns),
        ];
        // Stamps are whole milliseconds of another clock: none is shown before the one it follows.
        let mut latest = 0;
        let phases = reached.into_iter().filter_map(|(name, at_ns)| {
            latest = latest.max(at_ns?.saturating_sub(self.wanted_ns));
            Some((name, latest))
        });
        ColdStart {
            pod: self.pod.clone(),
            wanted_at_ms: clock.epoch_ms(self.wanted_ns),
            phases: phases.collect(),
            failure: self.failure.clone(),
        }
    }
}

/// The last 32 of each function.
#[derive(Default)]
pub(crate) struct ColdStarts(HashMap<Arc<str>, VecDeque<Record>>);

impl ColdStarts {
    /// A start begins.
    pub(crate) fn begin(&mut self, function: &Arc<str>, pod: &str, wanted_ns: u64) {
        let records = self.0.entry(function.clone()).or_default();
        if records.len() == COLD_STARTS_KEPT {
            records.pop_front();
        }
        records.push_back(Record {
            pod: pod.to_owned(),
            wanted_ns,
            spawned_ns: None,
            stamps: None,
            usable_ns: None,
            failure: None,
        });
    }

    fn record(&mut self, function: &str, pod: &str) -> Option<&mut Record> {
        let records = self.0.get_mut(function)?;
        records.iter_mut().rev().find(|record| record.pod == pod)
    }

    /// Its process runs.
    pub(crate) fn spawned(&mut self, function: &str, pod: &str, at_ns: u64) {
        if let Some(record) = self.record(function, pod) {
            record.spawned_ns.get_or_insert(at_ns);
        }
    }

    /// Its runtime said how it came up; that may be after the pod is used.
    pub(crate) fn stamped(&mut self, function: &str, pod: &str, stamps: ReadyStamps) {
        if let Some(record) = self.record(function, pod) {
            record.stamps.get_or_insert(stamps);
        }
    }

    /// The scheduler may use it.
    pub(crate) fn usable(&mut self, function: &str, pod: &str, at_ns: u64) {
        if let Some(record) = self.record(function, pod) {
            record.usable_ns.get_or_insert(at_ns);
        }
    }

    /// It did not come up.
    pub(crate) fn failed(&mut self, function: &str, pod: &str, why: Arc<str>) {
        if let Some(record) = self.record(function, pod) {
            record.failure.get_or_insert(why);
        }
    }

    /// A removed function's starts are forgotten.
    pub(crate) fn forget(&mut self, function: &str) {
        self.0.remove(function);
    }

    /// The starts of a function, oldest first.
    pub(crate) fn of(&self, function: &str, clock: WallClock) -> Vec<ColdStart> {
        let records = self.0.get(function).into_iter().flatten();
        records.map(|record| record.shown(clock)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MS: u64 = 1_000_000;

    fn clock() -> WallClock {
        WallClock(SystemTime::UNIX_EPOCH + Duration::from_secs(1000))
    }

    #[test]
    fn phases_are_in_order_and_since_the_want() {
        let mut starts = ColdStarts::default();
        let function: Arc<str> = "f".into();
        starts.begin(&function, "p", 500 * MS);
        starts.spawned("f", "p", 503 * MS);
        starts.usable("f", "p", 540 * MS);
        let stamps = ReadyStamps {
            started_at_ms: 1_000_501,
            loaded_at_ms: 1_000_530,
            ready_at_ms: 0,
        };
        starts.stamped("f", "p", stamps);
        let shown = &starts.of("f", clock())[0];
        assert_eq!(shown.wanted_at_ms, 1_000_500);
        assert_eq!(
            shown.phases,
            [
                ("spawned", 3 * MS),
                ("started", 3 * MS),
                ("loaded", 30 * MS),
                ("usable", 40 * MS)
            ]
        );
        assert_eq!(shown.failure, None);
    }

    #[test]
    fn the_last_ones_are_kept_until_the_function_goes() {
        let mut starts = ColdStarts::default();
        let function: Arc<str> = "f".into();
        for number in 0..COLD_STARTS_KEPT + 5 {
            starts.begin(&function, &format!("p{number}"), 0);
        }
        starts.failed("f", "p36", "why".into());
        starts.failed("f", "p0", "too old to matter".into());
        let shown = starts.of("f", clock());
        assert_eq!(shown.len(), COLD_STARTS_KEPT);
        assert_eq!(shown[0].pod, "p5");
        assert_eq!(shown[31].failure.as_deref(), Some("why"));
        starts.forget("f");
        assert!(starts.of("f", clock()).is_empty());
    }
}
