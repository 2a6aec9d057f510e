//! The addresses of pods, and this thread's idle kept-alive connections to each of them. `to_pod` opens
//! connections, takes idle ones from here and gives them back. The inbox adds pods, and removes them when
//! they end.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;

use foldhash::HashMap;
use nanofaas_core::message::{Phases, PodAddress, PodEnd};
use nanofaas_core::ticket::PodId;
use nanofaas_core::time::{Nanos, Uptime};

use crate::runtime::waiters::{Waiter, Waiters};
use crate::state::pod_conn::PodConn;

/// The largest number of idle connections that an io thread keeps to one pod.
const IDLE_PER_POD: usize = 1024;
/// Idle connections are kept for 30 s at most, because pods keep them for at least 60 s unless they announce
/// less.
const IDLE_TIME_MAX: Nanos = Nanos::from_s(30);
/// The largest number of ends of pods that are remembered, for the calls that wait for them.
const ENDS_KEPT: usize = 1024;

struct IdleConn {
    connection: PodConn,
    since: Uptime,
    /// From this time on the connection is not used.
    until: Uptime,
}

/// Returns how long a connection may be idle if its pod keeps it for `keep_alive_s`. The result is shorter by
/// at least a second, because a call that is sent while the pod closes the connection is lost.
fn patience(keep_alive_s: Option<u32>) -> Nanos {
    keep_alive_s.map_or(IDLE_TIME_MAX, |seconds| {
        let kept_for = Nanos::from_s(seconds.saturating_sub(1).into());
        kept_for.min(IDLE_TIME_MAX)
    })
}

#[derive(Default)]
struct PodPlace {
    generation: u32,
    address: Option<Rc<PodAddress>>,
    idle: Vec<IdleConn>,
    /// The phases of the pod's start, until a call takes them.
    start: Option<Phases>,
}

#[derive(Default)]
struct PodPoolInner {
    places: Vec<PodPlace>,
    ends: HashMap<PodId, PodEnd>,
    /// Idle connections to the endpoints of POOL functions, by address, because several functions may share
    /// an endpoint.
    endpoints: HashMap<Rc<PodAddress>, Vec<IdleConn>>,
}

#[derive(Default)]
pub(crate) struct PodPool(RefCell<PodPoolInner>, Waiters<PodId>);

/// What a connection leads to.
#[derive(Clone, Debug)]
pub(crate) enum Owner {
    Pod(PodId),
    /// The endpoint of a POOL function, by its address, so that a function whose endpoint changes takes no
    /// connection to the old endpoint.
    Endpoint(Rc<PodAddress>),
}

impl PodPool {
    /// Adds a pod, before a grant names the pod.
    pub(crate) fn put(&self, pod: PodId, address: PodAddress, start: Phases) {
        let mut inner = self.0.borrow_mut();
        let at = pod.index.get();
        if inner.places.len() <= at {
            inner.places.resize_with(at + 1, PodPlace::default);
        }
        inner.ends.remove(&pod);
        let address = Some(Rc::new(address));
        inner.places[at] = PodPlace {
            generation: pod.generation,
            address,
            idle: Vec::new(),
            start: Some(start).filter(|phases| !phases.is_empty()),
        };
    }

    /// Takes the phases of the pod's start. Only the first call of this function returns them.
    pub(crate) fn take_start(&self, pod: PodId) -> Option<Phases> {
        let mut inner = self.0.borrow_mut();
        let place = inner.places.get_mut(pod.index.get())?;
        place.start.take_if(|_| place.generation == pod.generation)
    }

    /// Removes a pod: closes its idle connections, remembers its end, and wakes the calls that wait for that
    /// end.
    pub(crate) fn gone(&self, pod: PodId, end: PodEnd) {
        let mut inner = self.0.borrow_mut();
        if let Some(place) = inner.places.get_mut(pod.index.get())
            && place.generation == pod.generation
        {
            *place = PodPlace {
                generation: pod.generation,
                ..PodPlace::default()
            };
        }
        if inner.ends.len() >= ENDS_KEPT {
            inner.ends.clear();
        }
        inner.ends.insert(pod, end);
        self.1.wake(pod);
    }

    /// Returns a wait for the end of a pod.
    pub(crate) const fn until_ended(&self, pod: PodId) -> UntilEnded<'_> {
        UntilEnded {
            pods: self,
            pod,
            waiter: self.1.wait(pod),
        }
    }

    /// Returns the address of the pod, unless the pod is gone.
    pub(crate) fn address(&self, pod: PodId) -> Option<Rc<PodAddress>> {
        let inner = self.0.borrow();
        let place = inner.places.get(pod.index.get())?;
        (place.generation == pod.generation)
            .then(|| place.address.clone())
            .flatten()
    }

    /// Takes the most recently used idle connection that is still usable.
    pub(crate) fn take(&self, owner: &Owner, now: Uptime) -> Option<PodConn> {
        let mut inner = self.0.borrow_mut();
        let idle = inner.idle(owner)?;
        while let Some(IdleConn {
            connection, until, ..
        }) = idle.pop()
        {
            if connection.check_fresh() && now < until {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next call, for a shorter time than the pod keeps it. Drops the connection
    /// if no time is left, or if enough connections are idle.
    pub(crate) fn give(
        &self,
        owner: &Owner,
        mut connection: PodConn,
        keep_alive_s: Option<u32>,
        now: Uptime,
    ) {
        let patience = patience(keep_alive_s);
        if patience.is_zero() {
            return;
        }
        connection.rest();
        let mut inner = self.0.borrow_mut();
        if let Owner::Endpoint(address) = owner
            && !inner.endpoints.contains_key(address)
        {
            inner.endpoints.insert(address.clone(), Vec::new());
        }
        if let Some(idle) = inner.idle(owner)
            && idle.len() < IDLE_PER_POD
        {
            idle.push(IdleConn {
                connection,
                since: now,
                until: now + patience,
            });
        }
    }

    /// Closes the connection that has been idle for the longest, to free its descriptor. Returns false if no
    /// connection is idle.
    pub(crate) fn close_one(&self) -> bool {
        let inner = &mut *self.0.borrow_mut();
        let all = inner.places.iter_mut().map(|place| &mut place.idle);
        let all = all.chain(inner.endpoints.values_mut());
        // In each list the first connection has been idle for the longest, because `give` adds connections at
        // the end and `take` removes them from the end.
        let longest = all
            .filter(|idle| !idle.is_empty())
            .min_by_key(|idle| idle[0].since);
        longest.map(|idle| idle.remove(0)).is_some()
    }

    /// Closes connections that were idle for too long or cannot be used. Returns whether an idle connection
    /// is left.
    pub(crate) fn sweep(&self, now: Uptime) -> bool {
        let mut inner = self.0.borrow_mut();
        let mut keep = |idle: &mut IdleConn| now < idle.until && idle.connection.check_fresh();
        inner
            .places
            .iter_mut()
            .for_each(|place| place.idle.retain_mut(&mut keep));
        inner.endpoints.retain(|_, idle| {
            idle.retain_mut(&mut keep);
            !idle.is_empty()
        });
        !inner.endpoints.is_empty() || inner.places.iter().any(|place| !place.idle.is_empty())
    }
}

/// A wait for the end of a pod. Dropping this value ends the wait.
pub(crate) struct UntilEnded<'a> {
    pods: &'a PodPool,
    pod: PodId,
    waiter: Waiter<'a, PodId>,
}

impl UntilEnded<'_> {
    /// Returns the pod's end, if it is known. If it is not known, the task of `cx` is woken when the pod has
    /// ended.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Option<PodEnd> {
        let end = self.pods.0.borrow().ends.get(&self.pod).cloned();
        if end.is_none() {
            self.waiter.keep(cx);
        }
        end
    }
}

impl PodPoolInner {
    fn idle(&mut self, owner: &Owner) -> Option<&mut Vec<IdleConn>> {
        match owner {
            Owner::Pod(pod) => {
                let place = self.places.get_mut(pod.index.get())?;
                let same = place.generation == pod.generation && place.address.is_some();
                same.then_some(&mut place.idle)
            }
            Owner::Endpoint(address) => self.endpoints.get_mut(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn connections_are_dropped_before_the_pod_drops_them() {
        for (keep_alive_s, patience_s) in [
            (None, 30),
            (Some(0), 0),
            (Some(1), 0),
            (Some(2), 1),
            (Some(5), 4),
            (Some(31), 30),
            (Some(u32::MAX), 30),
        ] {
            assert_eq!(patience(keep_alive_s), Nanos::from_s(patience_s));
        }
    }

    #[test]
    fn a_wait_that_ends_otherwise_leaves_nothing_behind() {
        let (pods, cx) = (PodPool::default(), &Context::from_waker(Waker::noop()));
        for index in 0..100 {
            let pod = PodId::new(index, 1);
            assert!(pods.until_ended(pod).poll(cx).is_none());
        }
        assert_eq!(pods.1.len(), 0);
    }
}
