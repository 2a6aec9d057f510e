//! Simulates pods: each comes up after its start time, and ends when the scheduler orders its end. `held_for`
//! returns how long a call holds its slot.

use std::collections::BTreeMap;

use nanofaas_core::event::{Event, Order, StartFailure};
use nanofaas_core::ticket::PodId;
use nanofaas_core::time::{Nanos, Uptime};
use rand::rngs::SmallRng;

use super::{Simulator, VirtualEvent};
use crate::START_TIMEOUT;

/// How long a pod takes to answer a probe after its call was interrupted. The time is short, because the
/// project's runtimes stop such a call.
const PROBE: Nanos = Nanos::from_ms(5);
/// How long the `minReplicas` pods take to come up if `Setup::start` is `None`.
const FLOOR: Nanos = Nanos::from_ms(100);
/// The pause between the start of the `minReplicas` pods and the trace.
const PAUSE: Nanos = Nanos::from_s(1);

pub(super) const START_TOO_LONG: &str = "the start took longer than --start-timeout-ms";

/// Returns whether a start of this length ends before its time limit.
pub(super) fn comes_up(start: Nanos) -> bool {
    start < START_TIMEOUT
}

/// Returns how long a call holds its slot if nothing interrupts the call. This time includes `start`, the
/// start of the call's Job.
pub(super) fn held_for(start: Option<Nanos>, service: Nanos) -> Nanos {
    match start {
        Some(start) if !comes_up(start) => START_TIMEOUT,
        start => start.unwrap_or_default() + service,
    }
}

/// The state of the simulated bridge.
pub(super) struct SimulatedPods {
    /// When each pod that is starting or probed will be up, by its pod id.
    pub(super) coming: BTreeMap<PodId, Uptime>,
    pub(super) dice: SmallRng,
    pub(super) jobs_starting: u32,
    pub(super) jobs_up: u32,
}

impl Simulator<'_> {
    /// Brings up the `minReplicas` pods, and sets the time at which the trace begins.
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
                // There was no earlier control plane, and the function is never removed, so these orders need
                // no action.
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
        // A pod that was stopped in the meantime is no longer in `coming`.
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
        // The scheduler ignores this event for a pod that it has already removed.
        self.apply(Event::StartFailed { pod, failure });
    }
}
