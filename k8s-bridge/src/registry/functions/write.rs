//! Writes changes of `Function` objects in the cluster, each within a deadline. This module handles
//! concurrent writes of other clients and lost answers, and translates refusals for the client. After a
//! write, `functions` changes the function table.

use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use nanofaas_core::message::BridgeError;
use nanofaas_core::spec::{FieldError, FunctionDraft};
use serde_json::json;
use tokio::time::Instant;

use crate::api::cluster::{Cluster, ClusterError};
use crate::registry::object::{FunctionObject, spec_of};

/// How long a change may take. It is less than the io thread's `ANSWER_WAIT_MAX`.
const CHANGE: Duration = Duration::from_secs(15);
/// The number of tries of a replacement while other clients change the same object.
const CONFLICTS_MAX: u32 = 5;

fn until() -> Instant {
    Instant::now() + CHANGE
}

pub(super) async fn register(
    cluster: &Cluster,
    name: &str,
    draft: &FunctionDraft,
    replace: bool,
) -> Result<FunctionObject, BridgeError> {
    let until = until();
    let api = cluster.api::<FunctionObject>();
    let parameters = PostParams::default();
    let object = FunctionObject::of(name, draft);
    for _ in 0..CONFLICTS_MAX {
        if replace {
            let found = cluster.ask(until, async |_| api.get(name).await).await;
            match found {
                Ok(mut found) => {
                    found.spec = spec_of(draft);
                    let put = async |_| api.replace(name, &parameters, &found).await;
                    match cluster.change(until, put).await {
                        Err(denied) if matches!(denied.code(), 404 | 409) => continue,
                        put => return put.map_err(refused),
                    }
                }
                Err(denied) if denied.code() == 404 => {}
                Err(denied) => return Err(refused(denied)),
            }
        }
        let post = async |is_doubtful| match api.create(&parameters, &object).await {
            // An earlier try whose answer was lost may have created the object. The write has succeeded if
            // the object has this spec.
            Err(kube::Error::Api(status)) if is_doubtful && status.code == 409 => {
                let there = api.get(name).await?;
                if there.spec == object.spec {
                    return Ok(there);
                }
                Err(kube::Error::Api(status))
            }
            other => other,
        };
        match cluster.change(until, post).await {
            Err(denied) if denied.code() == 409 && replace => {}
            Err(denied) if denied.code() == 409 => return Err(BridgeError::Exists),
            post => return post.map_err(refused),
        }
    }
    let why = "others keep changing the same Function; try again";
    Err(BridgeError::Unavailable(why.to_owned()))
}

pub(super) async fn scale(
    cluster: &Cluster,
    name: &str,
    replicas: u32,
) -> Result<FunctionObject, BridgeError> {
    let api = cluster.api::<FunctionObject>();
    let patch = Patch::Merge(json!({"spec": {"scalingConfig": {"minReplicas": replicas}}}));
    let parameters = PatchParams::default();
    let write = async |_| api.patch(name, &parameters, &patch).await;
    cluster.change(until(), write).await.map_err(refused)
}

/// Deletes the object; returns its uid if the API server's answer has it.
pub(super) async fn remove(cluster: &Cluster, name: &str) -> Result<Option<String>, BridgeError> {
    let api = cluster.api::<FunctionObject>();
    let parameters = DeleteParams::background();
    let delete = async |is_doubtful| match api.delete(name, &parameters).await {
        Err(kube::Error::Api(status)) if is_doubtful && status.code == 404 => Ok(None),
        Ok(answer) => Ok(answer.either(
            |object| object.metadata.uid,
            |status| status.details.map(|details| details.uid),
        )),
        Err(error) => Err(error),
    };
    let uid = cluster.change(until(), delete).await.map_err(refused)?;
    Ok(uid.filter(|uid| !uid.is_empty()))
}

fn refused(denied: ClusterError) -> BridgeError {
    match denied.code() {
        404 => BridgeError::NotFound,
        400 | 413 | 422 => {
            BridgeError::Invalid(vec![FieldError::new("function", denied.message())])
        }
        _ => BridgeError::Unavailable(denied.message()),
    }
}
