//! The warm pods that have a task, by place, by name and by function. It starts and ends none.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use nanofaas_core::ticket::PodRef;

use super::Pod;

/// Warm pods by place and by name.
#[derive(Default)]
pub(crate) struct Pods {
    by_place: HashMap<PodRef, Rc<Pod>>,
    by_name: HashMap<String, Rc<Pod>>,
    by_function: HashMap<Arc<str>, Vec<Rc<Pod>>>,
}

impl Pods {
    pub(crate) fn add(&mut self, pod: &Rc<Pod>) {
        self.by_place.insert(pod.place(), pod.clone());
        self.by_name.insert(pod.name.clone(), pod.clone());
        let function = pod.function.name().clone();
        self.by_function
            .entry(function)
            .or_default()
            .push(pod.clone());
    }

    pub(crate) fn remove(&mut self, pod: &Pod) {
        self.by_place.remove(&pod.place());
        self.by_name.remove(&pod.name);
        let function = pod.function.name();
        if let Some(pods) = self.by_function.get_mut(function) {
            pods.retain(|one| one.name != pod.name);
            if pods.is_empty() {
                self.by_function.remove(function);
            }
        }
    }

    pub(crate) fn at(&self, place: PodRef) -> Option<Rc<Pod>> {
        self.by_place.get(&place).cloned()
    }

    pub(crate) fn named(&self, name: &str) -> Option<Rc<Pod>> {
        self.by_name.get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Rc<Pod>> {
        self.by_place.values().cloned().collect()
    }

    /// Pods of a function.
    pub(crate) fn of(&self, function: &str) -> &[Rc<Pod>] {
        self.by_function.get(function).map_or(&[], Vec::as_slice)
    }
}
