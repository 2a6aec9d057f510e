//! Lists and then watches one kind of object, for ever. After an error, a new list or a new watch begins,
//! with back-off. Only a watch that lived for longer than `SOUND` resets the back-off, so that a server that
//! ends each watch at once does not get requests in a tight loop. An object that cannot be parsed is logged
//! and skipped; its last readable state stays. The caller interprets the objects.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use kube::Resource;
use kube::api::{ListParams, WatchEvent, WatchParams};
use nanofaas_backend::backoff::Backoff;
use tokio::time::{Instant, sleep, timeout};

use crate::api::cluster::{Cluster, ClusterError, Object, chain, retry_after};
use crate::api::lenient::Lenient;

/// After this number of seconds the server ends a watch.
const WATCH_S: u32 = 60;
/// The bridge ends a watch that has been silent for this time.
const SILENT: Duration = Duration::from_secs(WATCH_S as u64 + 10);
/// A watch that lived for longer than this counts as working.
const SOUND: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long the server may take to return a page of a list or to begin a watch.
const LISTING: Duration = Duration::from_secs(30);
/// The time between two warnings that a list failed.
const WARNING: Duration = Duration::from_secs(30);
const PAGE: u32 = 500;

pub(crate) enum WatchUpdate<K> {
    /// A list begins. It is complete at the next `Listed`. If it fails, the next update is another `Listing`.
    Listing,
    There(K),
    Gone(K),
    /// The list is complete: the names of all objects in it.
    Listed(HashSet<String>),
}

/// Passes each update of the objects that `selector` names to `apply`. Never returns.
pub(crate) async fn follow<K: Object>(
    cluster: &Cluster,
    selector: &str,
    mut apply: impl FnMut(WatchUpdate<K>),
) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut version: Option<String> = None;
    let mut warned: Option<Instant> = None;
    loop {
        let began = Instant::now();
        let why = match &version {
            None => match list(cluster, selector, &mut apply).await {
                Ok(listed) => {
                    version = Some(listed);
                    continue;
                }
                Err(denied) => {
                    let why = denied.message();
                    // Warn the operator, because the bridge cannot work without a list, and only an operator
                    // can remove the cause of a refusal.
                    if warned.is_none_or(|at| at.elapsed() > WARNING) {
                        warned = Some(Instant::now());
                        let kind = K::kind(&());
                        tracing::warn!(%kind, "the cluster's objects cannot be listed: {why}");
                    }
                    why
                }
            },
            Some(from) => {
                let (reached, end) = watch(cluster, selector, from, &mut apply).await;
                version = reached;
                if began.elapsed() > SOUND {
                    backoff.reset();
                }
                match end {
                    // The server ended the watch after its time, so begin the next watch at once.
                    None if began.elapsed() > SOUND => continue,
                    None => "the server ended the watch at once".to_owned(),
                    Some(why) => why,
                }
            }
        };
        let (kind, wait) = (K::kind(&()), backoff.wait());
        tracing::debug!(%kind, waitMs = wait.as_millis() as u64, "the watch is begun anew: {why}");
        sleep(wait).await;
    }
}

/// Lists all objects; returns the version from which to watch.
async fn list<K: Object>(
    cluster: &Cluster,
    selector: &str,
    apply: &mut impl FnMut(WatchUpdate<K>),
) -> Result<String, ClusterError> {
    let api = cluster.lenient::<K>();
    let mut parameters = ListParams::default().labels(selector).limit(PAGE);
    let mut names = HashSet::new();
    apply(WatchUpdate::Listing);
    loop {
        let until = Instant::now() + LISTING;
        let page = cluster.ask(until, async |_| api.list(&parameters).await);
        let page = page.await?;
        for object in page.items {
            names.extend(object.meta().name.clone());
            pass_on(object, apply);
        }
        let next = page.metadata.continue_.filter(|token| !token.is_empty());
        if let Some(token) = next {
            parameters = parameters.continue_token(&token);
            continue;
        }
        apply(WatchUpdate::Listed(names));
        return Ok(page.metadata.resource_version.unwrap_or_default());
    }
}

/// Watches from a version until the watch ends. Returns the version that was reached, or none if a new list
/// is needed, and the error, if there was one.
async fn watch<K: Object>(
    cluster: &Cluster,
    selector: &str,
    from: &str,
    apply: &mut impl FnMut(WatchUpdate<K>),
) -> (Option<String>, Option<String>) {
    let api = cluster.lenient::<K>();
    let parameters = WatchParams::default().labels(selector).timeout(WATCH_S);
    let mut reached = from.to_owned();
    let begun = in_time(LISTING, api.watch(&parameters, from)).await;
    let mut events = match begun {
        Ok(Ok(events)) => events.boxed(),
        Ok(Err(kube::Error::Api(status))) if status.code == 410 => {
            return (None, Some(status.message));
        }
        Ok(Err(kube::Error::Api(status))) => {
            sleep(retry_after(&status)).await;
            return (Some(reached), Some(status.message));
        }
        Ok(Err(error)) => return (Some(reached), Some(chain(&error))),
        Err(why) => return (Some(reached), Some(why)),
    };
    loop {
        let event = match in_time(SILENT, events.next()).await {
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(error))) => return (Some(reached), Some(chain(&error))),
            Ok(None) => return (Some(reached), None),
            Err(why) => return (Some(reached), Some(why)),
        };
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                reached = object.meta().resource_version.clone().unwrap_or(reached);
                pass_on(object, apply);
            }
            WatchEvent::Deleted(object) => {
                reached = object.meta().resource_version.clone().unwrap_or(reached);
                let name = name_of(&object);
                match object.read_gone() {
                    Ok(object) => apply(WatchUpdate::Gone(object)),
                    Err(why) => cannot_be_read::<K>(&name, &why),
                }
            }
            WatchEvent::Bookmark(bookmark) => reached = bookmark.metadata.resource_version,
            // The error is usually 410 Gone, which means that the version is too old. The objects then have
            // to be listed again.
            WatchEvent::Error(status) => return (None, Some(status.message)),
        }
    }
}

fn pass_on<K: Object>(object: Lenient<K>, apply: &mut impl FnMut(WatchUpdate<K>)) {
    let name = name_of(&object);
    match object.read() {
        Ok(object) => apply(WatchUpdate::There(object)),
        Err(why) => cannot_be_read::<K>(&name, &why),
    }
}

fn name_of(object: &impl Resource) -> String {
    object.meta().name.clone().unwrap_or_default()
}

fn cannot_be_read<K: Object>(name: &str, why: &str) {
    let kind = K::kind(&());
    tracing::warn!(%kind, name, "the object cannot be read and stays as it was seen last: {why}");
}

async fn in_time<T>(longest: Duration, work: impl Future<Output = T>) -> Result<T, String> {
    let done = timeout(longest, work).await;
    done.map_err(|_| format!("the server was silent for {} s", longest.as_secs()))
}
