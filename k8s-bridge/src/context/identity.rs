//! Finds the identity of this control plane in the cluster: its name as the Lease's holder, the label of its
//! process, and the owners of the objects that it creates. This module only reads from the cluster.

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tokio::time::Instant;

use crate::api::cluster::{Cluster, ClusterError};

/// How long the control plane searches for the Deployment that it belongs to. If the search fails, warm pods
/// have no owner.
const SEARCH_MAX: Duration = Duration::from_secs(30);

/// The Pod that this process runs in.
#[derive(Clone, Debug)]
pub struct OwnPod {
    pub name: String,
    pub uid: String,
    /// The Pod's namespace; none means the namespace of the functions.
    pub namespace: Option<String>,
    pub service_account: Option<String>,
}

impl OwnPod {
    /// Returns the control plane's own service account, if pods in `namespace` could use it. If `namespace`
    /// is none, the control plane's own namespace is meant.
    pub fn account_in(&self, namespace: Option<&str>) -> Option<&str> {
        let home = self.namespace.as_deref();
        let is_home = namespace.is_none() || home.is_none() || namespace == home;
        self.service_account.as_deref().filter(|_| is_home)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PlaneIdentity {
    /// The holder's name in the Lease. All processes of one Pod have the same name, so that a restarted
    /// container gets the Lease back at once.
    pub(crate) holder: String,
    /// The label of this process's Jobs. It differs in each process, because the tokens of Jobs are valid
    /// only in the process that created them.
    pub(crate) instance: String,
    /// The owner of Jobs: Kubernetes deletes them with the control plane's Pod. It is none outside a cluster.
    /// It is also none if the functions are in another namespace, because the garbage collector would delete
    /// the Jobs at once.
    pub(crate) pod: Option<OwnerReference>,
    /// The Deployment of the control plane, which owns warm pods. These pods outlive the control plane's
    /// Pod and are deleted with the installation.
    pub(crate) deployment: Option<OwnerReference>,
}

impl PlaneIdentity {
    /// Finds the identity. It has no owners if the control plane runs outside a cluster or in another
    /// namespace than the functions.
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
    let until = Instant::now() + SEARCH_MAX;
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Controller {
    /// The owner is the controller, because `kubectl drain` and the cluster autoscaler move only pods with a
    /// controller. A Deployment neither counts nor replaces such pods.
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
