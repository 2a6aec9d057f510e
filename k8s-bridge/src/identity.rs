//! Who this plane is in the cluster: its holder's name for the Lease, its process's own label, and
//! the objects that own what it makes. It changes nothing.

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use nanofaas_core::id::pod_token;
use tokio::time::Instant;

use crate::backoff::random;
use crate::cluster::{Cluster, Denied};

/// How long the plane looks for its own objects before it begins without owners.
const LOOK: Duration = Duration::from_secs(30);

/// Who this plane is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The same for every process of one Pod, so that a restarted container takes its Lease back.
    pub(crate) holder: String,
    /// This process's alone: the tokens of its Jobs end with it.
    pub(crate) instance: String,
    /// Owns Jobs: they go with the plane's Pod.
    pub(crate) pod: Option<OwnerReference>,
    /// Owns warm pods: they outlive the Pod and go with the installation.
    pub(crate) deployment: Option<OwnerReference>,
}

impl Identity {
    /// Finds out. Outside a cluster nothing owns what the plane makes.
    pub(crate) async fn find(cluster: &Cluster, own_pod: Option<(String, String)>) -> Self {
        let instance = pod_token(u128::from_ne_bytes(random()));
        let Some((name, uid)) = own_pod else {
            return Self {
                holder: format!("outside-{instance}"),
                instance,
                pod: None,
                deployment: None,
            };
        };
        let deployment = deployment_of(cluster, &name)
            .await
            .unwrap_or_else(|denied| {
                let why = denied.message();
                tracing::warn!("what the plane makes will have no owner: {why}");
                None
            });
        Self {
            holder: uid.clone(),
            instance,
            pod: Some(owner("v1", "Pod", name, uid)),
            deployment,
        }
    }
}

async fn deployment_of(cluster: &Cluster, pod: &str) -> Result<Option<OwnerReference>, Denied> {
    let until = Instant::now() + LOOK;
    let pod = cluster.pod(pod, until).await?;
    let Some(set) = of_kind(pod.metadata.owner_references, "ReplicaSet") else {
        return Ok(None);
    };
    let api = cluster.api::<ReplicaSet>();
    let set = cluster
        .ask(until, async |_| api.get(&set.name).await)
        .await?;
    let owner_of_set = of_kind(set.metadata.owner_references, "Deployment");
    Ok(owner_of_set.map(|found| owner("apps/v1", "Deployment", found.name, found.uid)))
}

fn of_kind(owners: Option<Vec<OwnerReference>>, kind: &str) -> Option<OwnerReference> {
    let mut owners = owners.into_iter().flatten();
    owners.find(|owner| owner.kind == kind)
}

/// Not a controlling owner: no controller of the cluster shall count or replace what is ours.
fn owner(api_version: &str, kind: &str, name: String, uid: String) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name,
        uid,
        controller: Some(false),
        block_owner_deletion: Some(false),
    }
}
