//! `Pods` is the scheduler's table of pods, with their states, counts of running calls and times. The table
//! starts and ends no pod; the bridge does that when it receives an order. Only the scheduler uses the table.

use crate::ticket::{LaneId, PodId, PodIndex};
use crate::time::Uptime;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodState {
    /// The pod was ordered or adopted, and has not been reported as up yet.
    Starting,
    Usable,
    /// A connection to the pod failed, or a call was cut off in the pod. A probe decides which state follows.
    Quarantined,
    /// The pod gets no new call, and is stopped when its last call has ended.
    Draining,
    /// The pod was ordered to stop, or is known to be gone. Its place becomes free when the pod is gone and
    /// its last call has ended.
    Leaving,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pod {
    pub(crate) lane: LaneId,
    pub(crate) state: PodState,
    pub(crate) in_flight: u32,
    pub(crate) wanted_at: Uptime,
    /// When the pod came up; none while it starts.
    pub(crate) usable_at: Option<Uptime>,
    pub(crate) idle_since: Uptime,
    /// Whether the pod was made for an older spec. Such a pod takes calls until a new pod replaces it.
    pub(crate) stale: bool,
    /// Whether an earlier control plane started the pod. The pod may still run calls of that control plane.
    pub(crate) adopted: bool,
    /// Whether a call succeeded in the pod. A pod that ends soon without such a call counts as a failed
    /// start.
    pub(crate) proven: bool,
    /// Whether the bridge reported that the pod is gone.
    pub(crate) down: bool,
    generation: u32,
    used: bool,
}

/// The pods of all lanes. Each pod has a place in the table, which is used again after the pod is gone. The
/// `PodId` of the earlier pod then finds nothing.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    table: Vec<Pod>,
    free: Vec<PodIndex>,
}

impl Pods {
    /// Adds a pod that was ordered or is being adopted. Returns none if the table is full.
    pub(crate) fn add(&mut self, lane: LaneId, wanted_at: Uptime) -> Option<PodId> {
        let pod = Pod {
            lane,
            state: PodState::Starting,
            in_flight: 0,
            wanted_at,
            usable_at: None,
            idle_since: wanted_at,
            stale: false,
            adopted: false,
            proven: false,
            down: false,
            generation: 0,
            used: true,
        };
        if let Some(index) = self.free.pop() {
            let place = &mut self.table[index.get()];
            assert!(!place.used, "a place was given to two pods");
            let generation = place.generation.wrapping_add(1);
            *place = Pod { generation, ..pod };
            return Some(PodId { index, generation });
        }
        if self.table.len() >= crate::limits::PODS_MAX {
            return None;
        }
        self.table.push(pod);
        let index = u32::try_from(self.table.len() - 1).expect("PODS_MAX fits");
        Some(PodId::new(index, 0))
    }

    /// Returns the pod, or none if its place was freed.
    pub(crate) fn get(&mut self, pod: PodId) -> Option<&mut Pod> {
        let found = self.table.get_mut(pod.index.get())?;
        (found.used && found.generation == pod.generation).then_some(found)
    }

    /// Returns the pod at a place that is taken.
    pub(crate) fn at(&mut self, index: PodIndex) -> &mut Pod {
        let pod = &mut self.table[index.get()];
        assert!(pod.used, "a lane names a pod that is gone");
        pod
    }

    /// Counts a call that begins in a pod. `cap` is the largest number of calls in one pod.
    pub(crate) fn enter(&mut self, index: PodIndex, cap: u32) -> &mut Pod {
        let pod = self.at(index);
        assert!(
            pod.state == PodState::Usable && pod.in_flight < cap,
            "a call was granted a pod that has no room for it"
        );
        pod.in_flight += 1;
        pod
    }

    pub(crate) fn leave(&mut self, pod: PodId, lane: LaneId) -> &mut Pod {
        let pod = self.get(pod).expect("a pod's place outlives its calls");
        assert!(pod.lane == lane, "a call ended in another function's pod");
        assert!(pod.in_flight > 0, "a call ended twice in a pod");
        pod.in_flight -= 1;
        pod
    }

    pub(crate) fn reference(&self, index: PodIndex) -> PodId {
        PodId {
            index,
            generation: self.table[index.get()].generation,
        }
    }

    /// Frees a place in which no call runs.
    pub(crate) fn remove(&mut self, index: PodIndex) {
        let pod = &mut self.table[index.get()];
        assert!(
            pod.used && pod.in_flight == 0,
            "a pod was forgotten with calls in it"
        );
        pod.used = false;
        self.free.push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId { index: 0, epoch: 1 };

    fn usable() -> (Pods, PodId) {
        let mut pods = Pods::default();
        let pod = pods.add(LANE, Uptime::ZERO).expect("there is room");
        pods.at(pod.index).state = PodState::Usable;
        (pods, pod)
    }

    #[test]
    fn a_place_is_free_after_its_last_call() {
        let (mut pods, pod) = usable();
        assert_eq!(pods.enter(pod.index, 1).in_flight, 1);
        assert_eq!(pods.leave(pod, LANE).in_flight, 0);
        pods.remove(pod.index);
        assert!(pods.get(pod).is_none());
        let next = pods.add(LANE, Uptime::ZERO).expect("there is room");
        assert_eq!((next.index, next.generation), (pod.index, 1));
    }

    #[test]
    #[should_panic(expected = "a pod that has no room for it")]
    fn a_call_past_the_cap_is_refused() {
        let (mut pods, pod) = usable();
        pods.enter(pod.index, 1);
        pods.enter(pod.index, 1);
    }

    #[test]
    #[should_panic(expected = "a pod that has no room for it")]
    fn an_unusable_pod_gets_no_call() {
        let (mut pods, pod) = usable();
        pods.at(pod.index).state = PodState::Draining;
        pods.enter(pod.index, 1);
    }

    #[test]
    #[should_panic(expected = "another function's pod")]
    fn a_call_ends_in_its_functions_pod() {
        let (mut pods, pod) = usable();
        pods.enter(pod.index, 1);
        pods.leave(pod, LaneId { index: 1, epoch: 2 });
    }

    #[test]
    #[should_panic(expected = "a call ended twice in a pod")]
    fn a_call_ends_once() {
        let (mut pods, pod) = usable();
        pods.leave(pod, LANE);
    }
}
