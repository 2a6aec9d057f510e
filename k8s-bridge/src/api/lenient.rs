//! Reads objects that may not match their type, because another release or another client wrote them. Each
//! object of a list is kept as JSON and parsed later, so one such object does not make the list unreadable.

use std::borrow::Cow;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// An object that is expected to be a `K`.
#[derive(Clone, Debug)]
pub(crate) struct Lenient<K> {
    metadata: ObjectMeta,
    object: Value,
    kind: PhantomData<fn() -> K>,
}

impl<'de, K> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        let metadata = &object["metadata"];
        let text = |field: &str| metadata[field].as_str().map(str::to_owned);
        Ok(Self {
            metadata: ObjectMeta {
                name: text("name"),
                uid: text("uid"),
                resource_version: text("resourceVersion"),
                ..ObjectMeta::default()
            },
            object,
            kind: PhantomData,
        })
    }
}

impl<K: DeserializeOwned> Lenient<K> {
    /// Parses the object; the error says why it is not a `K`.
    pub(crate) fn read(self) -> Result<K, String> {
        K::deserialize(self.object).map_err(|error| error.to_string())
    }

    /// Parses a deleted object. If the whole object cannot be parsed, only its metadata is, which says what
    /// was deleted.
    pub(crate) fn read_gone(self) -> Result<K, String> {
        let metadata = self.object["metadata"].clone();
        self.read().or_else(|_| {
            let rest = Value::Object(Map::from_iter([("metadata".to_owned(), metadata)]));
            K::deserialize(rest).map_err(|error| error.to_string())
        })
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Lenient<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    /// Returns metadata that has only the name, the uid and the resource version.
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn lenient(object: &Value) -> Lenient<Pod> {
        serde_json::from_value(object.clone()).expect("anything is taken")
    }

    #[test]
    fn an_unreadable_object_has_a_reason_and_name() {
        let odd = json!({"metadata": {"name": "p", "resourceVersion": "7", "labels": {"a": "b"}},
            "status": {"phase": 3}});
        let found = lenient(&odd);
        assert_eq!(found.meta().name.as_deref(), Some("p"));
        assert_eq!(found.meta().resource_version.as_deref(), Some("7"));
        assert!(
            found
                .clone()
                .read()
                .is_err_and(|why| why.contains("phase") || why.contains("3"))
        );
        let gone = found.read_gone().expect("its metadata is sound");
        assert_eq!(gone.metadata.labels.map(|labels| labels.len()), Some(1));
        assert!(gone.status.is_none());
        let sound = json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}});
        assert!(
            lenient(&sound)
                .read_gone()
                .is_ok_and(|pod| pod.status.is_some())
        );
        assert!(lenient(&json!("no object")).read().is_err());
    }
}
