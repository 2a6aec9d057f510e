//! Pods and Jobs as the bridge would bring them: each comes up after its time, and ends when it is told to.

use std::collections::BTreeMap;

use nanofaas_core::event::{Event, Order, StartFailure};
use nanofaas_core::ticket::PodRef;
use rand::rngs::SmallRng;

use super::{What, World};
use crate::START_TIMEOUT_NS;

/// How long a pod whose call was cut off takes until it answers again: our runtimes stop such a call.
const PROBE_NS: u64 = 5_000_000;
/// How long the floor takes to come up where no other pod ever does.
const FLOOR_NS: u64 = 100_000_000;
/// Between the floor and the trace.
const PAUSE_NS: u64 = 1_000_000_000;

pub(super) const START_TOO_LONG: &str = "the start took longer than --start-timeout-ms";

/// Whether a start that would take so long ends before the platform gives it up.
pub(super) const fn comes_up(start_ns: u64) -> bool {
    start_ns < START_TIMEOUT_NS
}

/// How long a call holds its slot if nothing stops it. `start_ns` is that of its Job, which starts in the slot.
pub(super) fn held_ns(start_ns: Option<u64>, service_ns: u64) -> u64 {
    match start_ns {
        Some(start_ns) if !comes_up(start_ns) => START_TIMEOUT_NS,
        start_ns => start_ns.unwrap_or(0) + service_ns,
    }
}

/// What the bridge knows.
pub(super) struct Pods {
    /// When each pod that was ordered will be up, by its place and generation.
    pub(super) coming: BTreeMap<PodRef, u64>,
    pub(super) dice: SmallRng,
    pub(super) jobs_starting: u32,
    pub(super) jobs_up: u32,
}

impl World<'_> {
    /// The pods that a function without calls has come up; then the trace may begin.
    pub(super) fn raise_floor(&mut self) {
        let takes_ns = self.setup.start.map_or(FLOOR_NS, |start| start.ns);
        self.now_ns += takes_ns;
        for order in std::mem::take(&mut self.out.orders) {
            let Order::Start { pod, .. } = order else {
                unreachable!("a lane that was opened just now has nothing else to order");
            };
            self.hear(Event::PodUp(pod));
        }
        self.now_ns += PAUSE_NS;
        self.origin_ns = self.now_ns;
    }

    /// Does what the scheduler ordered.
    pub(super) fn obey(&mut self) {
        for order in std::mem::take(&mut self.out.orders) {
            self.knowledge.forget();
            match order {
                Order::Start { pod, .. } => self.start_pod(pod),
                Order::Probe { pod } => self.comes_up(pod, PROBE_NS),
                Order::Stop { pod } => {
                    self.pods.coming.remove(&pod);
                    self.hear(Event::PodDown(pod));
                }
                // No plane went before this one, and the function stays.
                Order::Adopted { .. } | Order::LaneGone { .. } => {}
            }
        }
    }

    fn start_pod(&mut self, pod: PodRef) {
        self.history.start(self.now_ns - self.origin_ns);
        let takes_ns = self
            .setup
            .start
            .map(|start| start.draw(&mut self.pods.dice));
        match takes_ns.filter(|takes_ns| comes_up(*takes_ns)) {
            Some(takes_ns) => self.comes_up(pod, takes_ns),
            None => self.at(self.now_ns + START_TIMEOUT_NS, What::StartFails(pod)),
        }
    }

    fn comes_up(&mut self, pod: PodRef, after_ns: u64) {
        let up_ns = self.now_ns + after_ns;
        self.pods.coming.insert(pod, up_ns);
        self.at(up_ns, What::PodUp(pod));
    }

    pub(super) fn pod_up(&mut self, pod: PodRef) {
        self.knowledge.forget();
        // One that was stopped meanwhile is not awaited any more.
        if self.pods.coming.remove(&pod).is_some() {
            self.hear(Event::PodUp(pod));
        }
    }

    pub(super) fn start_fails(&mut self, pod: PodRef) {
        self.knowledge.forget();
        let failure = StartFailure {
            permanent: false,
            message: START_TOO_LONG.into(),
        };
        // The scheduler passes over a pod that it has forgotten.
        self.hear(Event::StartFailed { pod, failure });
    }
}
