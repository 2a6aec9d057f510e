//! Simulated pods and Jobs: each comes up after its start time, and ends when the scheduler orders it.

use std::collections::BTreeMap;

use nanofaas_core::event::{Event, Order, StartFailure};
use nanofaas_core::ticket::PodId;
use nanofaas_core::time::{Nanos, Uptime};
use rand::rngs::SmallRng;

use super::{Simulator, VirtualEvent};
use crate::START_TIMEOUT;

/// How long a pod takes to answer again after its call was interrupted: our runtimes stop such a call.
const PROBE: Nanos = Nanos::from_ms(5);
/// How long the floor takes to come up where no other pod ever does.
const FLOOR: Nanos = Nanos::from_ms(100);
/// Between the floor and the trace.
const PAUSE: Nanos = Nanos::from_s(1);

pub(super) const START_TOO_LONG: &str = "the start took longer than --start-timeout-ms";

/// Whether a start of this length ends before the platform gives it up.
pub(super) fn comes_up(start: Nanos) -> bool {
    start < START_TIMEOUT
}

/// How long a call holds its slot if nothing stops it. `start` is that of its Job, which starts in the slot.
pub(super) fn held_for(start: Option<Nanos>, service: Nanos) -> Nanos {
    match start {
        Some(start) if !comes_up(start) => START_TIMEOUT,
        start => start.unwrap_or_default() + service,
    }
}

/// What the bridge knows.
pub(super) struct SimulatedPods {
    /// When each pod that was ordered will be up, by its place and generation.
    pub(super) coming: BTreeMap<PodId, Uptime>,
    pub(super) dice: SmallRng,
    pub(super) jobs_starting: u32,
    pub(super) jobs_up: u32,
}

impl Simulator<'_> {
    /// The pods that a function without calls has come up; then the trace may begin.
    pub(super) fn raise_floor(&mut self) {
        let takes = self.setup.start.map_or(FLOOR, |start| start.time);
        self.now += takes;
        for order in std::mem::take(&mut self.out.orders) {
            let Order::Start { pod, .. } = order else {
                unreachable!("a lane that was opened just now has nothing else to order");
            };
            self.apply(Event::PodUp(pod));
        }
        self.now += PAUSE;
        self.origin = self.now;
    }

    /// Does what the scheduler ordered.
    pub(super) fn apply_orders(&mut self) {
        for order in std::mem::take(&mut self.out.orders) {
            self.knowledge.forget();
            match order {
                Order::Start { pod, .. } => self.start_pod(pod),
                Order::Probe { pod } => self.comes_up(pod, PROBE),
                Order::Stop { pod } => {
                    self.pods.coming.remove(&pod);
                    self.apply(Event::PodDown(pod));
                }
                // No plane went before this one, and the function stays.
                Order::Adopted { .. } | Order::LaneGone { .. } => {}
            }
        }
    }

    fn start_pod(&mut self, pod: PodId) {
        self.history.start(self.now.since(self.origin));
        let takes = self
            .setup
            .start
            .map(|start| start.draw(&mut self.pods.dice));
        match takes.filter(|takes| comes_up(*takes)) {
            Some(takes) => self.comes_up(pod, takes),
            None => self.at(self.now + START_TIMEOUT, VirtualEvent::StartFails(pod)),
        }
    }

    fn comes_up(&mut self, pod: PodId, after: Nanos) {
        let up_at = self.now + after;
        self.pods.coming.insert(pod, up_at);
        self.at(up_at, VirtualEvent::PodUp(pod));
    }

    pub(super) fn pod_up(&mut self, pod: PodId) {
        self.knowledge.forget();
        // One that was stopped meanwhile is not awaited any more.
        if self.pods.coming.remove(&pod).is_some() {
            self.apply(Event::PodUp(pod));
        }
    }

    pub(super) fn start_fails(&mut self, pod: PodId) {
        self.knowledge.forget();
        let failure = StartFailure {
            permanent: false,
            message: START_TOO_LONG.into(),
        };
        // The scheduler passes over a pod that it has forgotten.
        self.apply(Event::StartFailed { pod, failure });
    }
}
