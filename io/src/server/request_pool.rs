//! Reusable memory for requests that are being served. A request needs several times the memory of an idle
//! connection, and most connections are idle. The memory is therefore not part of the connection's own task.
//! Each listener has two pools for all of its connections: one for requests of `/fn/`, and one for other
//! requests.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;

/// The largest number of unused places that a pool keeps. If a pool has this many, a place is freed after its
/// request.
const SPARE_MAX: usize = 1024;

pub(crate) struct RequestPool<F>(RefCell<Vec<Pin<Box<Option<F>>>>>);

impl<F> Default for RequestPool<F> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<F: Future> RequestPool<F> {
    /// Runs the future of `make` in a place of the pool, until the future ends.
    pub(crate) async fn run(&self, make: impl FnOnce() -> F) -> F::Output {
        let spare = self.0.borrow_mut().pop();
        let mut place = spare.unwrap_or_else(|| Box::pin(None));
        place.set(Some(make()));
        let output = poll_fn(|cx| {
            let serving = place.as_mut().as_pin_mut();
            serving.expect("it was put there").poll(cx)
        })
        .await;
        place.set(None);
        let mut spare = self.0.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(place);
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn a_reused_place_keeps_nothing_of_its_guest() {
        let guest = std::rc::Rc::new(());
        let make = |pool: &RequestPool<_>| {
            let guest = guest.clone();
            let mut running = pin!(pool.run(|| async move {
                let _stays = guest;
                7
            }));
            running
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
        };
        let pool = RequestPool::default();
        let mut at = None;
        for _ in 0..3 {
            assert_eq!(make(&pool), Poll::Ready(7));
            assert_eq!(std::rc::Rc::strong_count(&guest), 1);
            let spare = pool.0.borrow();
            assert_eq!(spare.len(), 1);
            let now = std::ptr::from_ref(&*spare[0]).cast::<()>();
            assert_eq!(*at.get_or_insert(now), now);
        }
    }
}
