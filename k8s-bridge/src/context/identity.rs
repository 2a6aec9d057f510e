//! Who this plane is in the cluster: its holder's name for the Lease, its process's own label, and
//! the objects that own what it makes. It changes nothing.

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tokio::time::Instant;

use crate::api::cluster::{Cluster, ClusterError};

/// How long the plane looks for its own objects before it begins without owners.
const LOOK: Duration = Duration::from_secs(30);

/// The Pod that this process runs in.
#[derive(Clone, Debug)]
pub struct OwnPod {
    pub name: String,
    pub uid: String,
    /// Where it is not said it is the namespace of the functions.
    pub namespace: Option<String>,
    pub service_account: Option<String>,
}

impl OwnPod {
    /// The plane's own service account, where pods of a namespace could take it; no namespace is
    /// the plane's own.
    pub fn account_in(&self, namespace: Option<&str>) -> Option<&str> {
        let home = self.namespace.as_deref();
        let is_home = namespace.is_none() || home.is_none() || namespace == home;
        self.service_account.as_deref().filter(|_| is_home)
    }
}

/// Who this plane is.
#[derive(Clone, Debug)]
pub(crate) struct PlaneIdentity {
    /// The same for every process of one Pod, so that a restarted container takes its Lease back.
    pub(crate) holder: String,
    /// This process's alone: the tokens of its Jobs end with it.
    pub(crate) instance: String,
    /// Owns Jobs: they go with the plane's Pod. None where functions are in another namespace: an owner is
    /// looked for beside what it owns, and what has none there is collected at once. The next plane ends its
    /// Jobs in any case.
    pub(crate) pod: Option<OwnerReference>,
    /// Owns warm pods: they outlive the Pod and go with the installation.
    pub(crate) deployment: Option<OwnerReference>,
}

impl PlaneIdentity {
    /// Finds out. Outside a cluster nothing owns what the plane makes.
    pub(crate) async fn find(cluster: &Cluster, instance: &str, own_pod: Option<OwnPod>) -> Self {
        let instance = instance.to_owned();
        let Some(own) = own_pod else {
            return Self::without_owners(format!("outside-{instance}"), instance);
        };
        let OwnPod {
            name,
            uid,
            namespace,
            ..
        } = own;
        let is_elsewhere = |home: &String| *home != cluster.namespace;
        if let Some(home) = namespace.filter(is_elsewhere) {
            tracing::info!(
                "functions are in namespace {}, the plane in {home}: what it makes has no owner",
                cluster.namespace
            );
            return Self::without_owners(uid, instance);
        }
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
            pod: Some(owner("v1", "Pod", name, uid, Controller::None)),
            deployment,
        }
    }

    const fn without_owners(holder: String, instance: String) -> Self {
        Self {
            holder,
            instance,
            pod: None,
            deployment: None,
        }
    }
}

async fn deployment_of(
    cluster: &Cluster,
    pod: &str,
) -> Result<Option<OwnerReference>, ClusterError> {
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
    Ok(owner_of_set.map(|found| {
        owner(
            "apps/v1",
            "Deployment",
            found.name,
            found.uid,
            Controller::Full,
        )
    }))
}

fn of_kind(owners: Option<Vec<OwnerReference>>, kind: &str) -> Option<OwnerReference> {
    let mut owners = owners.into_iter().flatten();
    owners.find(|owner| owner.kind == kind)
}

/// Whether an owner is called the controller of what it owns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Controller {
    /// `kubectl drain` and the cluster autoscaler move pods that have one. A Deployment counts and replaces
    /// none by itself: its ReplicaSets do, for pods whose controller they are.
    Full,
    None,
}

fn owner(
    api_version: &str,
    kind: &str,
    name: String,
    uid: String,
    control: Controller,
) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name,
        uid,
        controller: Some(control == Controller::Full),
        block_owner_deletion: Some(false),
    }
}
