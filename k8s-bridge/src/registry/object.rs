//! Defines the `Function` object in the cluster (`functions.nanofaas.io`, v1) with its status, and converts
//! the object to and from a draft. The registry checks the fields of a draft.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::Resource;
use kube::core::NamespaceResourceScope;
use nanofaas_core::spec::{API_VERSION, FieldError, FunctionDraft, KIND};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::registry::starts::FailedStart;

pub(crate) const GROUP: &str = "nanofaas.io";
pub(crate) const VERSION: &str = "v1";
pub(crate) const PLURAL: &str = "functions";

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FunctionObject {
    #[serde(default)]
    pub(crate) api_version: TypeText<0>,
    #[serde(default)]
    pub(crate) kind: TypeText<1>,
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    /// The spec as it was read. A client of the API server may have written anything; the registry checks the
    /// fields later.
    #[serde(default)]
    pub(crate) spec: Map<String, Value>,
    /// None if there is no status, or if another client wrote an invalid one. The control plane overwrites
    /// such a status.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "sound"
    )]
    pub(crate) status: Option<FunctionStatus>,
}

fn sound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<FunctionStatus>, D::Error> {
    let status = Value::deserialize(deserializer)?;
    Ok(Option::deserialize(status).unwrap_or_default())
}

/// The text of `apiVersion` (0) or of `kind` (1). Each text is fixed, so the text that is read is ignored.
/// The items of a list have neither field.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(from = "serde::de::IgnoredAny")]
pub(crate) struct TypeText<const KIND: u8>;

impl<const N: u8> From<serde::de::IgnoredAny> for TypeText<N> {
    fn from(_: serde::de::IgnoredAny) -> Self {
        Self
    }
}

impl<const N: u8> Serialize for TypeText<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if N == 0 { API_VERSION } else { KIND })
    }
}

/// The status that the control plane writes. The CRD's schema explains each field.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct FunctionStatus {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) ready_pods: u32,
    pub(crate) wanted_pods: u32,
    /// The scale subresource reads this number and `selector`.
    pub(crate) replicas: u32,
    pub(crate) selector: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_failed_start: Option<FailedStart>,
    pub(crate) observed_generation: i64,
    /// The accepted spec as JSON. None while the object's own spec is in force, and if no spec was accepted.
    pub(crate) accepted_spec: Option<String>,
}

impl FunctionStatus {
    pub(crate) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|one| one.type_ == kind)
    }
}

impl Resource for FunctionObject {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl FunctionObject {
    pub(crate) fn of(name: &str, draft: &FunctionDraft) -> Self {
        Self {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: spec_of(draft),
            ..Self::default()
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(crate) fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    /// Returns whether the object's deletion was requested. A finalizer of another controller may delay it.
    pub(crate) const fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    pub(crate) fn draft(&self) -> Result<FunctionDraft, FieldError> {
        let object = json!({
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self.name()},
            "spec": self.spec,
        });
        // The only possible error is a value that is nested too deep for a draft.
        serde_json::from_value(object)
            .map_err(|error| FieldError::new("spec", format!("cannot be taken: {error}")))
    }
}

/// Returns a draft's fields as the object's `spec`, without the name, which the metadata has. Nulls outside
/// the `podTemplate` are left out, because they mean an absent field, and the API server rejects them.
pub(crate) fn spec_of(draft: &FunctionDraft) -> Map<String, Value> {
    let fields = serde_json::to_value(draft).unwrap_or_default();
    let Value::Object(mut fields) = fields else {
        return Map::new();
    };
    fields.remove("name");
    let template = fields
        .remove("podTemplate")
        .filter(|value| !value.is_null());
    drop_nulls(&mut fields);
    fields.extend(template.map(|template| ("podTemplate".to_owned(), template)));
    fields
}

fn drop_nulls(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| !value.is_null());
    for value in fields.values_mut() {
        if let Value::Object(inner) = value {
            drop_nulls(inner);
        }
    }
}

pub(crate) fn name_of(draft: &FunctionDraft) -> Arc<str> {
    draft.name().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_returns_from_its_object_without_nulls() {
        let draft: FunctionDraft = serde_json::from_value(json!({
            "name": "echo", "image": "i", "timeoutMs": null, "env": {"A": "b"},
            "scalingConfig": {"minReplicas": 2, "maxReplicas": null},
            "podTemplate": {"spec": {"nodeSelector": null}},
        }))
        .expect("a draft");
        let object = FunctionObject::of("echo", &draft);
        let written = serde_json::to_value(&object).expect("JSON");
        let spec = json!({
            "image": "i", "env": {"A": "b"}, "scalingConfig": {"minReplicas": 2},
            "podTemplate": {"spec": {"nodeSelector": null}},
        });
        let whole = json!({
            "apiVersion": "nanofaas.io/v1", "kind": "Function",
            "metadata": {"name": "echo"}, "spec": spec,
        });
        assert_eq!(written, whole);
        let read: FunctionObject = serde_json::from_value(written).expect("an object");
        let back = read.draft().expect("a draft");
        assert_eq!(back.name(), Some("echo"));
        assert_eq!(Value::Object(spec_of(&back)), spec);
    }
}
