//! Sends requests to the API server. Each try has a deadline, the number of changes in flight is limited, and
//! a request that failed for a transient reason is tried again with back-off. The callers decide what to
//! request.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::core::{NamespaceResourceScope, Status};
use kube::{Api, Client, Resource};
use nanofaas_backend::backoff::Backoff;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use crate::api::lease::Tenure;
use crate::api::lenient::Lenient;

/// The largest number of changes in flight; further changes wait. Reads and the writes of the Lease are not
/// counted, so that the Lease is renewed even while the API server creates many pods slowly.
const AT_ONCE: usize = 32;
const ANSWER: Duration = Duration::from_secs(10);
/// How long a deletion is retried before a warning is logged. The retries go on after the warning.
const DELETION: Duration = Duration::from_secs(600);
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Why a request failed.
#[derive(Clone, Debug)]
pub(crate) enum ClusterError {
    /// The API server refused the request.
    Refused(Box<Status>),
    /// The request got no final answer before its deadline. It waited for the API server, for other changes,
    /// or for the Lease.
    Unreachable(String),
}

impl ClusterError {
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Refused(status) => status.code,
            Self::Unreachable(_) => 0,
        }
    }

    /// Returns whether the same request would be refused again.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self.code(), 400 | 403 | 404 | 413 | 422)
    }

    /// Returns the message of the API server, or why there was no final answer.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Refused(status) if status.message.is_empty() => {
                format!("the API server answered {} {}", status.code, status.reason)
            }
            Self::Refused(status) => status.message.clone(),
            Self::Unreachable(why) => why.clone(),
        }
    }
}

pub(crate) trait Object:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + 'static
{
}

impl<K> Object for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + 'static
{
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RequestKind {
    /// The request changes nothing, or only the Lease.
    Ask,
    /// The request changes the cluster. Only the control plane that holds the Lease may send it.
    Change,
}

pub(crate) struct Cluster {
    client: Client,
    pub(crate) server: String,
    pub(crate) namespace: String,
    pub(crate) tenure: Tenure,
    places: Semaphore,
}

impl Cluster {
    pub(crate) fn new(client: Client, server: String, namespace: String) -> Self {
        Self {
            client,
            server,
            namespace,
            tenure: Tenure::default(),
            places: Semaphore::new(AT_ONCE),
        }
    }

    pub(crate) fn api<K: Object>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Returns the API of a type of object, for lists and watches. An object that cannot be parsed does not
    /// make a list fail.
    pub(crate) fn lenient<K: Object>(&self) -> Api<Lenient<K>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Tries a request until the API server answers it, refuses it for a permanent reason, or the deadline
    /// `until` passes. The argument of `request` is true if an earlier try may have worked although its
    /// answer was lost.
    pub(crate) async fn ask<T>(
        &self,
        until: Instant,
        request: impl AsyncFn(bool) -> kube::Result<T>,
    ) -> Result<T, ClusterError> {
        self.tries(until, request, RequestKind::Ask).await
    }

    async fn tries<T>(
        &self,
        until: Instant,
        request: impl AsyncFn(bool) -> kube::Result<T>,
        act: RequestKind,
    ) -> Result<T, ClusterError> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut why = "there was no time left to ask".to_owned();
        let mut is_doubtful = false;
        while Instant::now() < until {
            let tried = match act {
                RequestKind::Ask => in_time(until, request(is_doubtful)).await,
                RequestKind::Change => self.while_held(until, request(is_doubtful)).await?,
            };
            let mut requested_wait = Duration::ZERO;
            why = match tried {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(kube::Error::Api(status))) if !may_mend(status.code) => {
                    return Err(ClusterError::Refused(status));
                }
                Ok(Err(kube::Error::Api(status))) => {
                    is_doubtful |= status.code >= 500;
                    requested_wait = retry_after(&status);
                    ClusterError::Refused(status).message()
                }
                Ok(Err(error)) => {
                    is_doubtful = true;
                    chain(&error)
                }
                Err(cut) => {
                    is_doubtful = true;
                    cut
                }
            };
            let wait = backoff.wait().max(requested_wait);
            if Instant::now() + wait >= until {
                break;
            }
            sleep(wait).await;
        }
        Err(ClusterError::Unreachable(format!("the API server: {why}")))
    }

    /// Tries a change as `ask` tries a request, but only while this control plane holds the Lease.
    pub(crate) async fn change<T>(
        &self,
        until: Instant,
        request: impl AsyncFn(bool) -> kube::Result<T>,
    ) -> Result<T, ClusterError> {
        self.tries(until, request, RequestKind::Change).await
    }

    /// Makes one try of a change while this control plane holds the Lease. When the Lease is lost, the try is
    /// dropped, because another control plane may take the Lease.
    async fn while_held<T>(
        &self,
        until: Instant,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<Result<kube::Result<T>, String>, ClusterError> {
        let place = timeout_at(until, self.places.acquire()).await;
        let _place = place.map_err(|_| denied("too many changes wait for the API server"))?;
        let held = timeout_at(until, self.tenure.until_held()).await;
        let why = "this control plane could not renew its Lease, so it changes nothing";
        held.map_err(|_| denied(why))?;
        let (answer, lost) = (
            pin!(in_time(until, request)),
            pin!(self.tenure.until_lost()),
        );
        Ok(match select(answer, lost).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => Err("its Lease ran out before the answer".to_owned()),
        })
    }

    /// Creates an object whose name no other client chooses. An object that exists already counts as success,
    /// because an earlier try created it and the answer was lost.
    pub(crate) async fn create<K: Object>(
        &self,
        object: &K,
        until: Instant,
    ) -> Result<(), ClusterError> {
        let api = self.api::<K>();
        let create = async |_| {
            let created = api.create(&PostParams::default(), object).await;
            match created {
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
                // Another request used the same resource quota at the same time. Treat this as a 503, so that
                // the request is tried again.
                Err(kube::Error::Api(mut status)) if status.reason == "Conflict" => {
                    status.code = 503;
                    Err(kube::Error::Api(status))
                }
                other => other.map(drop),
            }
        };
        self.change(until, create).await
    }

    /// Deletes an object, and retries until the API server answers. The garbage collector deletes the
    /// object's dependents later.
    pub(crate) async fn delete<K: Object>(&self, name: &str, grace_s: Option<u32>) {
        let api = self.api::<K>();
        let parameters = DeleteParams {
            grace_period_seconds: grace_s,
            ..DeleteParams::background()
        };
        loop {
            let until = Instant::now() + DELETION;
            let delete = async |_| api.delete(name, &parameters).await.map(drop);
            let Err(denied) = self.change(until, delete).await else {
                return;
            };
            if denied.code() != 404 {
                let why = denied.message();
                tracing::warn!(name, "it could not be deleted: {why}");
            }
            if let ClusterError::Refused(_) = denied {
                return;
            }
        }
    }

    pub(crate) async fn pod(&self, name: &str, until: Instant) -> Result<Pod, ClusterError> {
        let api = self.api::<Pod>();
        self.ask(until, async |_| api.get(name).await).await
    }
}

/// Returns how long the API server asks clients to wait before the next request; zero if it names no time.
pub(crate) fn retry_after(status: &Status) -> Duration {
    let details = status.details.as_ref();
    let seconds = details.map_or(0, |details| details.retry_after_seconds);
    Duration::from_secs(seconds.into())
}

async fn in_time<T>(
    until: Instant,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<kube::Result<T>, String> {
    let begun = Instant::now();
    let answer = timeout_at(until.min(begun + ANSWER), request).await;
    answer.map_err(|_| {
        let seconds = begun.elapsed().as_secs_f64();
        format!("it did not answer within {seconds:.0} s")
    })
}

fn denied(why: &str) -> ClusterError {
    ClusterError::Unreachable(why.to_owned())
}

/// Returns whether the same request may get another answer later.
const fn may_mend(code: u16) -> bool {
    matches!(code, 408 | 429 | 500..=599)
}

/// Returns an error's message with the messages of its sources, because the outermost message alone seldom
/// names the cause.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = inner.source();
    }
    text
}
