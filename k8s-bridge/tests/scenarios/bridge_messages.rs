//! Receives the bridge's messages: to the scheduler about its pods, and to io threads about the pods'
//! addresses and ends. Most of these functions wait for one kind of message and fail if another kind comes
//! first. `failure` skips reports about delays of the start, and `up` skips reports that a delay is over.

use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::message::{Message, PodAddress, PodEnd};
use nanofaas_core::ticket::PodId;

use crate::fixture::{ClusterFixture, until};
use crate::rings::IO_THREADS;

impl ClusterFixture {
    pub(crate) async fn event(&self) -> Event {
        let mut found = None;
        until("the scheduler gets something", || {
            found = self.rings.events.borrow_mut().pop_front();
            found.is_some()
        })
        .await;
        found.expect("there")
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.rings.events.borrow().is_empty()
    }

    pub(crate) async fn up(&self, pod: PodId) {
        loop {
            match self.event().await {
                Event::PodUp(up) => return assert_eq!(up, pod),
                // This event reports that a delay of the start is over.
                Event::StartHeldUp { why: None, .. } => {}
                Event::StartFailed { failure, .. } => panic!("{failure:?}"),
                _ => panic!("another event than PodUp"),
            }
        }
    }

    pub(crate) async fn down(&self, pod: PodId) {
        match self.event().await {
            Event::PodDown(down) => assert_eq!(down, pod),
            Event::StartFailed { failure, .. } => panic!("{failure:?}"),
            _ => panic!("another event than PodDown"),
        }
    }

    pub(crate) async fn leaving(&self, pod: PodId) {
        match self.event().await {
            Event::PodLeaving(leaving) => assert_eq!(leaving, pod),
            _ => panic!("another event than PodLeaving"),
        }
    }

    /// Waits until a start fails. Reports of a delay are skipped.
    pub(crate) async fn failure(&self, pod: PodId) -> StartFailure {
        loop {
            match self.event().await {
                Event::StartFailed { pod: of, failure } => {
                    assert_eq!(of, pod);
                    return failure;
                }
                Event::StartHeldUp { pod: of, .. } => assert_eq!(of, pod),
                _ => panic!("another event than StartFailed"),
            }
        }
    }

    /// Waits for the report that a start is delayed, and returns the reason.
    pub(crate) async fn held_up(&self, pod: PodId) -> String {
        match self.event().await {
            Event::StartHeldUp { pod: of, why } => {
                assert_eq!(of, pod);
                why.as_deref().unwrap_or_default().to_owned()
            }
            Event::StartFailed { failure, .. } => panic!("{failure:?}"),
            _ => panic!("another event than StartHeldUp"),
        }
    }

    pub(crate) async fn message(&self, thread: usize) -> Message {
        let mut found = None;
        until("the io thread gets something", || {
            found = self.rings.messages.borrow_mut()[thread].pop_front();
            found.is_some()
        })
        .await;
        found.expect("there")
    }

    /// Waits until all io threads have got the address of a pod, and returns the address.
    pub(crate) async fn address(&self, pod: PodId) -> String {
        let mut known = String::new();
        for thread in 0..IO_THREADS {
            match self.message(thread).await {
                Message::PodAddress {
                    pod: of,
                    address: PodAddress::Tcp(address),
                    ..
                } => {
                    assert_eq!(of, pod);
                    known = address.to_string();
                }
                _ => panic!("another message than an address"),
            }
        }
        known
    }

    /// Waits until all io threads have got the end of a pod, and returns the end.
    pub(crate) async fn gone(&self, pod: PodId) -> PodEnd {
        let mut known = None;
        for thread in 0..IO_THREADS {
            match self.message(thread).await {
                Message::PodGone { pod: of, end } => {
                    assert_eq!(of, pod);
                    known = Some(end);
                }
                _ => panic!("another message than an end"),
            }
        }
        known.expect("an end")
    }
}
