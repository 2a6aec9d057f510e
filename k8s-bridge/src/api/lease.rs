//! The Lease lets one control plane act at a time. A control plane that cannot renew its Lease still serves
//! calls but changes nothing in the cluster. It is deposed only when it reads another holder's name in the
//! Lease. A Lease is stale when this control plane has seen no change of it for `DURATION`; times that other
//! machines wrote are not compared with this machine's clock.

use std::cell::Cell;
use std::time::Duration;

use jiff_0_2::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use nanofaas_backend::backoff::Backoff;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use crate::api::cluster::{Cluster, ClusterError};

pub(crate) const NAME: &str = "nanofaas";
/// How long other control planes wait after the last renewal before they take the Lease.
const DURATION: Duration = Duration::from_secs(15);
/// How long this control plane acts after its last renewal. This is less than `DURATION`, because requests in
/// flight need time to end, and the clock of another machine may run a little faster.
const TENURE: Duration = Duration::from_secs(10);
const RENEWAL: Duration = Duration::from_secs(4);
/// The time between two reads of a Lease that another control plane holds.
const POLL: Duration = Duration::from_secs(1);
/// How long one request may take. It is short, so that a renewal without an answer leaves time for another
/// one.
const TRY: Duration = Duration::from_secs(3);
/// The wait after the first failed renewal. The wait doubles with each further failure, up to `RENEWAL`.
const AGAIN: Duration = Duration::from_millis(250);
/// The time between two log lines that give the same reason for waiting.
const SAME_REASON: Duration = Duration::from_secs(30);
/// How long the release of the Lease may take when the control plane stops.
const RELEASE: Duration = Duration::from_secs(3);

/// Whether this control plane holds the Lease now.
#[derive(Default)]
pub(crate) struct Tenure {
    until: Cell<Option<Instant>>,
    changed: Notify,
}

impl Tenure {
    fn renew(&self, requested_at: Instant) {
        self.until.set(Some(requested_at + TENURE));
        self.changed.notify_waiters();
    }

    fn end(&self) {
        self.until.set(None);
        self.changed.notify_waiters();
    }

    fn is_now(&self) -> bool {
        self.until.get().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until this control plane holds the Lease.
    pub(crate) async fn until_held(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_now() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until this control plane no longer holds the Lease.
    pub(crate) async fn until_lost(&self) {
        loop {
            let changed = self.changed.notified();
            let Some(until) = self.until.get().filter(|_| self.is_now()) else {
                return;
            };
            let _ = timeout_at(until, changed).await;
        }
    }
}

/// Tries to take the Lease until `holder` has it.
pub(crate) async fn acquire(cluster: &Cluster, holder: &str) {
    let mut backoff = Backoff::new(POLL, 4 * POLL);
    // The resource version of the other control plane's Lease, and when this version was first seen.
    let mut theirs: Option<(String, Instant)> = None;
    let mut waiting = LeaseWait::new();
    loop {
        // Take the time before the request. The API server may write the renewal at any time after that, and
        // other control planes may take the Lease 15 s after the renewal.
        let requested_at = Instant::now();
        let wait = match step(cluster, holder, &mut theirs).await {
            Ok(None) => {
                cluster.tenure.renew(requested_at);
                return;
            }
            Ok(Some(other)) => {
                let why = format!("the control plane {other} holds it and renews it");
                waiting.log(cluster, &why, "it is taken when that one ends");
                backoff.reset();
                POLL
            }
            Err(denied) => {
                let why = denied.message();
                waiting.log(cluster, &why, "the API server is asked on");
                backoff.wait()
            }
        };
        sleep(wait).await;
    }
}

/// Logs why this control plane waits for the Lease: a new reason at once, the same reason every
/// `SAME_REASON`.
struct LeaseWait {
    begun: Instant,
    since: Timestamp,
    logged: Option<(String, Instant)>,
}

impl LeaseWait {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            since: Timestamp::now(),
            logged: None,
        }
    }

    fn log(&mut self, cluster: &Cluster, why: &str, next: &str) {
        let logged = self.logged.as_ref();
        if logged.is_some_and(|(same, at)| same == why && at.elapsed() < SAME_REASON) {
            return;
        }
        self.logged = Some((why.to_owned(), Instant::now()));
        let (server, since) = (&cluster.server, self.since);
        let (namespace, seconds) = (&cluster.namespace, self.begun.elapsed().as_secs());
        tracing::warn!(
            %server, namespace, lease = NAME, %since,
            "waiting for the Lease for {seconds} s: {why}; {next}"
        );
    }
}

/// Makes one try to take the Lease. Returns the holder's name if another control plane has the Lease.
async fn step(
    cluster: &Cluster,
    holder: &str,
    theirs: &mut Option<(String, Instant)>,
) -> Result<Option<String>, ClusterError> {
    let Some(lease) = read(cluster, Instant::now() + TRY).await? else {
        return match create(cluster, holder, Instant::now() + TRY).await {
            Err(denied) if denied.code() == 409 => Ok(Some("somebody".to_owned())),
            other => other.map(|()| None),
        };
    };
    let other = holder_of(&lease);
    if !other.is_empty() && other != holder {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let same = theirs.as_ref().filter(|(seen, _)| *seen == version);
        let since = same.map_or_else(Instant::now, |(_, since)| *since);
        *theirs = Some((version, since));
        if since.elapsed() < DURATION {
            return Ok(Some(other.to_owned()));
        }
    }
    let other = other.to_owned();
    match write(cluster, lease, holder, Instant::now() + TRY).await {
        Err(denied) if denied.code() == 409 => Ok(Some(other)),
        written => written.map(|()| None),
    }
}

/// Renews the Lease until it names another holder; returns the name of that holder.
pub(crate) async fn keep(cluster: &Cluster, holder: &str) -> String {
    let mut is_late = false;
    let mut backoff = Backoff::new(AGAIN, RENEWAL);
    let mut wait = RENEWAL;
    loop {
        sleep(wait).await;
        let requested_at = Instant::now();
        match renew(cluster, holder).await {
            Ok(None) => {
                cluster.tenure.renew(requested_at);
                backoff.reset();
                wait = RENEWAL;
                if std::mem::take(&mut is_late) {
                    tracing::info!("the Lease is renewed again");
                }
            }
            Ok(Some(other)) => {
                cluster.tenure.end();
                return other;
            }
            Err(denied) => {
                wait = backoff.wait();
                if !std::mem::replace(&mut is_late, true) {
                    let why = denied.message();
                    tracing::warn!("the Lease cannot be renewed; calls go on: {why}");
                }
            }
        }
    }
}

/// Renews the Lease; returns the holder's name if another control plane has it now.
async fn renew(cluster: &Cluster, holder: &str) -> Result<Option<String>, ClusterError> {
    let Some(lease) = read(cluster, Instant::now() + TRY).await? else {
        // The Lease was deleted, so no other control plane holds it.
        let until = Instant::now() + TRY;
        return create(cluster, holder, until).await.map(|()| None);
    };
    let other = holder_of(&lease);
    if !other.is_empty() && other != holder {
        return Ok(Some(other.to_owned()));
    }
    // If another client wrote the Lease after `read`, `write` gets a 409, and the next renewal reads the
    // Lease again.
    write(cluster, lease, holder, Instant::now() + TRY)
        .await
        .map(|()| None)
}

/// Removes the holder's name from the Lease, so that the next control plane takes it without a wait.
pub(crate) async fn release(cluster: &Cluster, holder: &str) {
    cluster.tenure.end();
    let until = Instant::now() + RELEASE;
    if let Ok(Some(lease)) = read(cluster, until).await
        && holder_of(&lease) == holder
    {
        let _ = write(cluster, lease, "", until).await;
    }
}

fn holder_of(lease: &Lease) -> &str {
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
    holder.unwrap_or_default()
}

async fn read(cluster: &Cluster, until: Instant) -> Result<Option<Lease>, ClusterError> {
    let api = cluster.api::<Lease>();
    match cluster.ask(until, async |_| api.get(NAME).await).await {
        Err(denied) if denied.code() == 404 => Ok(None),
        other => other.map(Some),
    }
}

async fn create(cluster: &Cluster, holder: &str, until: Instant) -> Result<(), ClusterError> {
    let api = cluster.api::<Lease>();
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(spec(holder, 0)),
    };
    let create = async |_| api.create(&PostParams::default(), &lease).await.map(drop);
    cluster.ask(until, create).await
}

/// Writes the Lease with this holder's name and the resource version that was read. The API server answers
/// 409 if another client wrote the Lease after that read.
async fn write(
    cluster: &Cluster,
    mut lease: Lease,
    holder: &str,
    until: Instant,
) -> Result<(), ClusterError> {
    let old = lease.spec.take().unwrap_or_default();
    let was_ours = old.holder_identity.as_deref() == Some(holder);
    let transitions = old.lease_transitions.unwrap_or_default() + i32::from(!was_ours);
    let mut new = spec(holder, transitions);
    if was_ours {
        new.acquire_time = old.acquire_time;
    }
    lease.spec = Some(new);
    let api = cluster.api::<Lease>();
    let write = async |_| {
        let parameters = PostParams::default();
        api.replace(NAME, &parameters, &lease).await.map(drop)
    };
    cluster.ask(until, write).await
}

fn spec(holder: &str, transitions: i32) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}
