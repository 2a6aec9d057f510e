//! A table of the warm pods that have a task. It finds pods by id, by name and by function, and starts and
//! ends no pod.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use nanofaas_core::id::{is_same_token, pod_name};
use nanofaas_core::message::{BridgeError, Reply};
use nanofaas_core::ticket::PodId;
use nanofaas_core::work_queue::PodReady;

use super::WarmPod;
use crate::announcer::Announcer;
use crate::random::random;

/// The warm pods that have a task. `P` may hold more about a pod than a `WarmPod` does.
pub struct PodTable<P> {
    by_id: HashMap<PodId, Rc<P>>,
    by_name: HashMap<String, Rc<P>>,
    by_function: HashMap<Arc<str>, Vec<Rc<P>>>,
}

impl<P> Default for PodTable<P> {
    fn default() -> Self {
        Self {
            by_id: HashMap::new(),
            by_name: HashMap::new(),
            by_function: HashMap::new(),
        }
    }
}

impl<P: Borrow<WarmPod>> PodTable<P> {
    pub fn add(&mut self, pod: &Rc<P>) {
        let core: &WarmPod = (**pod).borrow();
        self.by_id.insert(core.id(), pod.clone());
        self.by_name.insert(core.name.clone(), pod.clone());
        let of_function = self.by_function.entry(core.function.name().clone());
        of_function.or_default().push(pod.clone());
    }

    pub fn remove(&mut self, pod: &P) {
        let pod: &WarmPod = pod.borrow();
        self.by_id.remove(&pod.id());
        self.by_name.remove(&pod.name);
        let function = pod.function.name();
        if let Some(pods) = self.by_function.get_mut(function) {
            pods.retain(|one| {
                let one: &WarmPod = (**one).borrow();
                one.name != pod.name
            });
            if pods.is_empty() {
                self.by_function.remove(function);
            }
        }
    }

    pub fn at(&self, id: PodId) -> Option<Rc<P>> {
        self.by_id.get(&id).cloned()
    }

    pub fn named(&self, name: &str) -> Option<Rc<P>> {
        self.by_name.get(name).cloned()
    }

    pub fn all(&self) -> Vec<Rc<P>> {
        self.by_id.values().cloned().collect()
    }

    pub fn of(&self, function: &str) -> &[Rc<P>] {
        self.by_function.get(function).map_or(&[], Vec::as_slice)
    }

    pub fn new_name(&self, function: &str) -> String {
        loop {
            let name = pod_name::<5>(function, random());
            if !self.by_name.contains_key(&name) {
                return name;
            }
        }
    }

    /// Applies a pod's ready report and answers it. A report without the pod's token is refused.
    pub fn report_ready(&self, announcer: &Announcer, ready: &PodReady) {
        let pod = self.by_name.get(&*ready.pod);
        let pod = pod.map(|pod| -> &WarmPod { (**pod).borrow() });
        let reply = match pod {
            None => Reply::Refused(BridgeError::NotFound),
            Some(pod) if !is_same_token(&pod.token, &ready.token) => {
                Reply::Refused(BridgeError::Forbidden)
            }
            Some(pod) => {
                let function = pod.function.name();
                announcer.with_work_queue(|queue| {
                    queue
                        .starts
                        .apply_timestamps(function, &ready.pod, ready.timestamps)
                });
                pod.report_ready(ready.address);
                Reply::Ready
            }
        };
        announcer.with_work_queue(|queue| queue.reply(ready.reply, reply));
    }
}
