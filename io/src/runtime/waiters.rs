//! Tasks that wait for an event. A task has a place here from its first poll until its wait ends, in whatever
//! way the wait ends. `executions` and `pod_pool` decide when to wake tasks.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

struct WaiterPlace<K> {
    number: u64,
    key: K,
    waker: Waker,
}

/// The tasks that wait, each with the key for which it waits.
pub(crate) struct Waiters<K> {
    next: Cell<u64>,
    places: RefCell<Vec<WaiterPlace<K>>>,
}

impl<K> Default for Waiters<K> {
    fn default() -> Self {
        Self {
            next: Cell::new(0),
            places: RefCell::default(),
        }
    }
}

impl<K: Copy + PartialEq> Waiters<K> {
    /// Returns a wait for `key`, which takes a place when it first gets a waker.
    pub(crate) const fn wait(&self, key: K) -> Waiter<'_, K> {
        Waiter {
            waiters: self,
            key,
            number: None,
        }
    }

    /// Wakes all tasks that wait for `key`. The tasks keep their places until their waits end.
    pub(crate) fn wake(&self, key: K) {
        let places = self.places.borrow();
        let of_key = places.iter().filter(|place| place.key == key);
        of_key.for_each(|place| place.waker.wake_by_ref());
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.places.borrow().len()
    }
}

/// A wait for a key. Dropping this value frees its place.
pub(crate) struct Waiter<'a, K> {
    waiters: &'a Waiters<K>,
    key: K,
    number: Option<u64>,
}

impl<K: Copy> Waiter<'_, K> {
    /// Stores the waker of the task of `cx`.
    pub(crate) fn keep(&mut self, cx: &Context<'_>) {
        let mut places = self.waiters.places.borrow_mut();
        let mut known = places.iter_mut();
        if let Some(place) = known.find(|place| Some(place.number) == self.number) {
            place.waker.clone_from(cx.waker());
            return;
        }
        let number = self.waiters.next.get();
        self.waiters.next.set(number + 1);
        self.number = Some(number);
        places.push(WaiterPlace {
            number,
            key: self.key,
            waker: cx.waker().clone(),
        });
    }
}

impl<K> Drop for Waiter<'_, K> {
    fn drop(&mut self) {
        let mut places = self.waiters.places.borrow_mut();
        let mut known = places.iter();
        if let Some(at) = known.position(|place| Some(place.number) == self.number) {
            places.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct WakeCounter(AtomicUsize);

    impl Wake for WakeCounter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_place_goes_with_its_wait() {
        let (waiters, counter) = (Waiters::default(), Arc::new(WakeCounter::default()));
        let waker = Waker::from(counter.clone());
        let cx = Context::from_waker(&waker);
        let mut first = waiters.wait(1);
        for _ in 0..1000 {
            let mut other = waiters.wait(1);
            other.keep(&cx);
            first.keep(&cx);
            first.keep(&cx);
        }
        assert_eq!(waiters.len(), 1);
        waiters.wake(2);
        assert_eq!(counter.0.load(Ordering::Relaxed), 0);
        waiters.wake(1);
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        drop(first);
        assert_eq!(waiters.len(), 0);
    }
}
