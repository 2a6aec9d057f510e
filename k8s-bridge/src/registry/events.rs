//! Writes Events (core/v1) on `Function` objects, for `kubectl describe fn` and `kubectl get events`. A
//! repetition is counted on the same Event. Each Event is written at most every 10 s, so that a crash loop
//! causes few writes. An Event is dropped if too many Events wait, or if its write fails.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams};
use nanofaas_backend::random::random;
use nanofaas_core::spec::{API_VERSION, KIND};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::api::cluster::ClusterError;
use crate::registry::ClusterRegistry;
use crate::registry::starts::now;

const BETWEEN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(500);
/// The largest number of Events that are written after one `POLL`.
const AT_ONCE: usize = 10;
const WAITING_MAX: usize = 256;
/// After this time without a write of an Event, a repetition becomes a new Event.
const FORGOTTEN: Duration = Duration::from_secs(600);
const WRITE: Duration = Duration::from_secs(10);
const COMPONENT: &str = "nanofaas";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EventReason {
    Accepted,
    Rejected,
    Ready,
    Scaled,
    StartHeldUp,
    StartFailed,
    PodLost,
    OomKilled,
}

impl EventReason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Rejected => "Rejected",
            Self::Ready => "Ready",
            Self::Scaled => "Scaled",
            Self::StartHeldUp => "StartHeldUp",
            Self::StartFailed => "StartFailed",
            Self::PodLost => "PodLost",
            Self::OomKilled => "OOMKilled",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Accepted | Self::Ready | Self::Scaled => "Normal",
            Self::Rejected
            | Self::StartHeldUp
            | Self::StartFailed
            | Self::PodLost
            | Self::OomKilled => "Warning",
        }
    }
}

/// Repetitions have the same key: the uid of the function's object, and the reason.
type EventKey = (String, EventReason);

struct PendingEvent {
    key: EventKey,
    function: String,
    message: String,
    count: i32,
    first: Time,
    last: Time,
}

struct Written {
    name: String,
    count: i32,
    at: Instant,
}

#[derive(Default)]
pub(crate) struct Events {
    waiting: RefCell<VecDeque<PendingEvent>>,
    was_full: Cell<bool>,
}

impl Events {
    pub(crate) fn note(&self, function: &str, uid: String, reason: EventReason, message: String) {
        let (key, at) = ((uid, reason), now());
        let mut waiting = self.waiting.borrow_mut();
        if let Some(same) = waiting.iter_mut().find(|one| one.key == key) {
            same.count = same.count.saturating_add(1);
            same.message = message;
            same.last = at;
            return;
        }
        if waiting.len() >= WAITING_MAX {
            if !self.was_full.replace(true) {
                tracing::warn!("more than {WAITING_MAX} Events wait; further ones are dropped");
            }
            return;
        }
        waiting.push_back(PendingEvent {
            key,
            function: function.to_owned(),
            message,
            count: 1,
            first: at.clone(),
            last: at,
        });
    }

    fn next(&self, written: &HashMap<EventKey, Written>) -> Option<PendingEvent> {
        let may_be = |one: &PendingEvent| {
            let before = written.get(&one.key);
            before.is_none_or(|before| before.at.elapsed() >= BETWEEN)
        };
        let mut waiting = self.waiting.borrow_mut();
        let at = waiting.iter().position(may_be)?;
        let next = waiting.remove(at);
        if waiting.is_empty() {
            self.was_full.set(false);
        }
        next
    }
}

pub(crate) async fn keep(registry: &ClusterRegistry) {
    let mut written: HashMap<EventKey, Written> = HashMap::new();
    loop {
        sleep(POLL).await;
        written.retain(|_, one| one.at.elapsed() < FORGOTTEN);
        for _ in 0..AT_ONCE {
            let Some(next) = registry.events.next(&written) else {
                break;
            };
            let before = written.remove(&next.key);
            match write(registry, &next, before).await {
                Ok(event) => {
                    written.insert(next.key, event);
                }
                Err(denied) => {
                    let (function, why) = (next.function, denied.message());
                    tracing::debug!(function, "an Event is not written: {why}");
                }
            }
        }
    }
}

async fn write(
    registry: &ClusterRegistry,
    what: &PendingEvent,
    before: Option<Written>,
) -> Result<Written, ClusterError> {
    if let Some(before) = before {
        let count = before.count.saturating_add(what.count);
        let more = json!({
            "count": count, "lastTimestamp": what.last, "message": what.message,
        });
        let api = registry.context.cluster.api::<Event>();
        let (patch, parameters) = (Patch::Merge(more), PatchParams::default());
        let name = &before.name;
        let write = async |_| api.patch(name, &parameters, &patch).await;
        match registry
            .context
            .cluster
            .change(Instant::now() + WRITE, write)
            .await
        {
            // The cluster keeps Events for a limited time. Create a new one.
            Err(denied) if denied.code() == 404 => {}
            Err(denied) => return Err(denied),
            Ok(_) => {
                let (name, at) = (before.name, Instant::now());
                return Ok(Written { name, count, at });
            }
        }
    }
    let event = object(registry, what);
    registry
        .context
        .cluster
        .create(&event, Instant::now() + WRITE)
        .await?;
    Ok(Written {
        name: event.metadata.name.unwrap_or_default(),
        count: what.count,
        at: Instant::now(),
    })
}

fn object(registry: &ClusterRegistry, what: &PendingEvent) -> Event {
    let (uid, reason) = &what.key;
    let namespace = Some(registry.context.cluster.namespace.clone());
    let random = u64::from_ne_bytes(random());
    let holder = registry.context.identity().map(|own| own.holder.clone());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{random:016x}", what.function)),
            namespace: namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(KIND.to_owned()),
            name: Some(what.function.clone()),
            namespace,
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(reason.kind().to_owned()),
        reason: Some(reason.as_str().to_owned()),
        message: Some(what.message.clone()),
        count: Some(what.count),
        first_timestamp: Some(what.first.clone()),
        last_timestamp: Some(what.last.clone()),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: None,
        }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: holder,
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(events: &Events, uid: &str) {
        let (uid, message) = (uid.to_owned(), "why".to_owned());
        events.note("f", uid, EventReason::StartFailed, message);
    }

    #[test]
    fn repeats_are_counted_and_overflow_is_dropped() {
        let events = Events::default();
        for _ in 0..5 {
            note(&events, "a");
        }
        for number in 0..2 * WAITING_MAX {
            note(&events, &format!("b{number}"));
        }
        let written = HashMap::new();
        let first = events.next(&written).expect("the first");
        assert_eq!(first.count, 5);
        let left = std::iter::from_fn(|| events.next(&written)).count();
        assert_eq!(left, WAITING_MAX - 1);
        assert!(!events.was_full.get());
    }
}
