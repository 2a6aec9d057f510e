//! Keeps the objects of the fake API server with their versions, and the history of their changes. The server
//! and the kubelet read and change the objects.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use tokio::time::Instant;

/// One change of an object.
pub(crate) struct Happened {
    pub(crate) version: u64,
    pub(crate) resource: String,
    /// The kind of the change: `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) what: &'static str,
    pub(crate) object: Value,
    pub(crate) at: Instant,
}

/// The code and the body of a refusal, in the form of the API.
pub(crate) type ApiRefusal = (u16, Value);

pub(crate) fn refusal(code: u16, reason: &str, message: &str) -> ApiRefusal {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    (code, status)
}

/// The objects by resource and name, and the history of their changes.
#[derive(Default)]
pub(crate) struct ObjectStore {
    objects: BTreeMap<(String, String), Value>,
    version: u64,
    uids: HashMap<String, u32>,
    pub(crate) history: Vec<Happened>,
    /// The oldest version at which a watch may begin; a watch that begins at an earlier version has expired.
    pub(crate) oldest: u64,
}

const KINDS: [(&str, &str, &str); 6] = [
    ("pods", "v1", "Pod"),
    ("events", "v1", "Event"),
    ("jobs", "batch/v1", "Job"),
    ("functions", "nanofaas.io/v1", "Function"),
    ("leases", "coordination.k8s.io/v1", "Lease"),
    ("replicasets", "apps/v1", "ReplicaSet"),
];

pub(crate) fn kind_of(resource: &str) -> (&'static str, &'static str) {
    let known = KINDS.iter().find(|(name, ..)| *name == resource);
    let (_, api, kind) = known.unwrap_or_else(|| panic!("no such resource: {resource}"));
    (api, kind)
}

fn key(resource: &str, name: &str) -> (String, String) {
    (resource.to_owned(), name.to_owned())
}

pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

impl ObjectStore {
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn get(&self, resource: &str, name: &str) -> Option<&Value> {
        self.objects.get(&key(resource, name))
    }

    pub(crate) fn all(&self, resource: &str) -> Vec<&Value> {
        let all = self.objects.iter();
        let of = all.filter(|((of, _), _)| of == resource);
        of.map(|(_, object)| object).collect()
    }

    fn happened(&mut self, resource: &str, what: &'static str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push(Happened {
            version: self.version,
            resource: resource.to_owned(),
            what,
            object: object.clone(),
            at: Instant::now(),
        });
        let place = key(resource, name_of(&object));
        if what == "DELETED" {
            self.objects.remove(&place);
        } else {
            self.objects.insert(place, object.clone());
        }
        object
    }

    pub(crate) fn create(
        &mut self,
        resource: &str,
        mut object: Value,
    ) -> Result<Value, ApiRefusal> {
        let name = name_of(&object).to_owned();
        if self.get(resource, &name).is_some() {
            let why = format!("{resource} \"{name}\" already exists");
            return Err(refusal(409, "AlreadyExists", &why));
        }
        let (api, kind) = kind_of(resource);
        let count = self.uids.entry(format!("{resource}-{name}")).or_default();
        *count += 1;
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(format!("uid-{resource}-{name}-{count}"));
        metadata["namespace"] = json!("test");
        metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        metadata["generation"] = json!(1);
        object["apiVersion"] = json!(api);
        object["kind"] = json!(kind);
        Ok(self.happened(resource, "ADDED", object))
    }

    /// Replaces the `spec` and the `data` of an object. Refuses with 409 if `new` has a version that is not
    /// the stored one.
    pub(crate) fn replace(
        &mut self,
        resource: &str,
        name: &str,
        new: &Value,
    ) -> Result<Value, ApiRefusal> {
        let there = self.existing(resource, name)?.clone();
        let versions = [new, &there].map(|one| one["metadata"]["resourceVersion"].as_str());
        if versions[0].is_some() && versions[0] != versions[1] {
            let why = "the object has been modified; please apply your changes to the latest \
                       version and try again";
            return Err(refusal(409, "Conflict", why));
        }
        let mut object = there.clone();
        for field in ["spec", "data"] {
            if let Some(value) = new.get(field) {
                object[field] = value.clone();
            }
        }
        Ok(self.changed(resource, &there, object))
    }

    pub(crate) fn patch(
        &mut self,
        resource: &str,
        name: &str,
        subresource: Option<&str>,
        patch: &Value,
    ) -> Result<Value, ApiRefusal> {
        let there = self.existing(resource, name)?.clone();
        let mut object = there.clone();
        // A patch of an object changes only its spec, and a patch of the status only the status. A patch of
        // an Event may change any field, because an Event has neither spec nor status.
        if resource == "events" {
            merge(&mut object, patch);
        } else {
            let half = subresource.unwrap_or("spec");
            merge(&mut object[half], &patch[half]);
        }
        Ok(self.changed(resource, &there, object))
    }

    fn changed(&mut self, resource: &str, before: &Value, mut object: Value) -> Value {
        if before["spec"] != object["spec"] {
            let generation = before["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        if *before == object {
            return object;
        }
        self.happened(resource, "MODIFIED", object)
    }

    fn existing(&self, resource: &str, name: &str) -> Result<&Value, ApiRefusal> {
        let why = || {
            let why = format!("{resource} \"{name}\" not found");
            refusal(404, "NotFound", &why)
        };
        self.get(resource, name).ok_or_else(why)
    }

    /// Edits an object; does nothing if the object does not exist.
    pub(crate) fn edit(&mut self, resource: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let Some(before) = self.get(resource, name).cloned() else {
            return;
        };
        let mut object = before.clone();
        edit(&mut object);
        self.changed(resource, &before, object);
    }

    /// Sets an object's deletion timestamp. The caller removes the object later.
    pub(crate) fn condemn(
        &mut self,
        resource: &str,
        name: &str,
        grace_s: u64,
    ) -> Result<Value, ApiRefusal> {
        self.existing(resource, name)?;
        self.edit(resource, name, |object| {
            let metadata = &mut object["metadata"];
            if metadata["deletionTimestamp"].is_null() {
                metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                metadata["deletionGracePeriodSeconds"] = json!(grace_s);
            }
        });
        self.existing(resource, name).cloned()
    }

    pub(crate) fn remove(&mut self, resource: &str, name: &str) -> Result<Value, ApiRefusal> {
        let object = self.existing(resource, name)?.clone();
        Ok(self.happened(resource, "DELETED", object))
    }

    /// Clears the history, as a compaction of etcd does. The version grows, so every watch from an earlier
    /// version has expired.
    pub(crate) fn compact(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.history.clear();
    }
}

/// Applies a JSON merge patch (RFC 7386).
fn merge(base: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *base = patch.clone();
        return;
    };
    if !base.is_object() {
        *base = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            base.as_object_mut().expect("it is one").remove(name);
        } else {
            merge(&mut base[name], value);
        }
    }
}

/// Returns whether an object's labels match a selector, whose terms have the forms `a=b`, `a!=b` and `a`.
pub fn selects(selector: &str, object: &Value) -> bool {
    let label = |name: &str| object["metadata"]["labels"][name].as_str();
    let terms = selector.split(',').filter(|term| !term.is_empty());
    terms.into_iter().all(|term| {
        if let Some((name, value)) = term.split_once("!=") {
            label(name) != Some(value)
        } else if let Some((name, value)) = term.split_once('=') {
            label(name) == Some(value)
        } else {
            label(term).is_some()
        }
    })
}

/// Returns whether an object's fields match a selector, whose terms have the form `path=value`.
pub(crate) fn has_fields(selector: &str, object: &Value) -> bool {
    let terms = selector.split(',').filter(|term| !term.is_empty());
    terms.into_iter().all(|term| {
        let (path, value) = term.split_once('=').expect("path=value");
        let pointer = format!("/{}", path.replace('.', "/"));
        object.pointer(&pointer).and_then(Value::as_str) == Some(value)
    })
}
