//! A `FunctionDraft` is a function as its author wrote it, in JSON or YAML, with unchecked fields. Reading a
//! draft rejects no single field; later, `FunctionSpec::resolve` checks all fields and returns all faults
//! together. The API's bodies, function files and the Kubernetes object are all read as drafts.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::json::{Json, JsonObject};

/// The group and version of the Kubernetes form.
pub const API_VERSION: &str = "nanofaas.io/v1";
/// The kind of the Kubernetes form.
pub const KIND: &str = "Function";

/// All fields of a function.
pub const FIELDS: [&str; 25] = [
    "name",
    "image",
    "imagePullPolicy",
    "imagePullSecrets",
    "command",
    "env",
    "resources",
    "podTemplate",
    "podSecurity",
    "executionMode",
    "endpointUrl",
    "timeoutMs",
    "concurrency",
    "queueSize",
    "maxRetries",
    "retryOn",
    "scalingConfig",
    "runtimeMode",
    "runtimeCommand",
    "healthPath",
    "http",
    "allowedOrigins",
    "streamIdleMs",
    "streamMaxMs",
    "local",
];

/// The fields that only a resolved function has. They are removed from each draft, because a client may have
/// made its draft from an answer of the API.
pub const RESOLVED_FIELDS: [&str; 1] = ["effectiveExecutionMode"];

/// The fields that are objects, each with the names of its own fields.
const INNER_FIELDS: [(&str, &[&str]); 3] = [
    ("resources", &["cpu", "memory"]),
    (
        "scalingConfig",
        &[
            "minReplicas",
            "maxReplicas",
            "targetInFlightPerPod",
            "idleTimeoutMs",
        ],
    ),
    ("local", &["command", "env", "build", "directory"]),
];

/// The fields of the Kubernetes form next to `spec`.
const AROUND: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

/// A field with an invalid value. `Display` writes `field: message`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FieldError {
    /// The dotted path of the field, for instance `scalingConfig.minReplicas`.
    pub field: String,
    /// What the value must be, and what it is.
    pub message: String,
}

impl FieldError {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.message)
    }
}

/// The fields of a function as its author gave them.
///
/// Reading accepts the bare form, in which `name` stands beside the other fields, and the Kubernetes form.
/// Writing produces the bare form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FunctionDraft {
    fields: JsonObject,
    /// The faults of the object around the fields.
    faults: Vec<FieldError>,
    /// The unknown fields beside `spec`; none in the bare form.
    around: Option<Vec<String>>,
}

impl FunctionDraft {
    /// Makes a draft from a JSON value in either form. Fails only if the value is not an object.
    pub fn from_json(value: Json) -> Result<Self, FieldError> {
        let Json::Object(fields) = value else {
            let message = format!("must be an object, is {}", value.describe());
            return Err(FieldError::new("function", message));
        };
        let wrapped = ["apiVersion", "kind", "spec"]
            .iter()
            .any(|key| fields.contains_key(*key));
        let mut draft = if wrapped {
            Self::unwrap(fields)
        } else {
            Self {
                fields,
                ..Self::default()
            }
        };
        for field in RESOLVED_FIELDS {
            draft.fields.remove(field);
        }
        Ok(draft)
    }

    fn unwrap(mut object: JsonObject) -> Self {
        let mut faults = Vec::new();
        for (field, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
            let given = object.get(field).unwrap_or(&Json::Null);
            if given.as_text() != Some(wanted) {
                let message = format!("must be {wanted:?}, is {}", given.describe());
                faults.push(FieldError::new(field, message));
            }
        }
        let mut fields = match object.remove("spec") {
            Some(Json::Object(fields)) => fields,
            None | Some(Json::Null) => JsonObject::new(),
            Some(other) => {
                let message = format!("must be an object, is {}", other.describe());
                faults.push(FieldError::new("spec", message));
                JsonObject::new()
            }
        };
        let metadata = object.get("metadata").and_then(Json::as_object);
        let name = metadata
            .and_then(|fields| fields.get("name"))
            .unwrap_or(&Json::Null);
        match fields.get("name") {
            Some(inner) if !inner.is_null() && inner != name => {
                let message = format!("differs from metadata.name, which is {}", name.describe());
                faults.push(FieldError::new("name", message));
            }
            _ => {
                fields.insert("name".to_owned(), name.clone());
            }
        }
        object.retain(|field, _| !AROUND.contains(&field.as_str()));
        Self {
            fields,
            faults,
            around: Some(object.into_keys().collect()),
        }
    }

    /// Returns the name, if the field is a text. The name may be invalid.
    pub fn name(&self) -> Option<&str> {
        self.get("name").and_then(Json::as_text)
    }

    /// Sets the name to the name in a request's path. Another name in the body is a fault.
    pub fn name_by_path(&mut self, name: &str) {
        let given = self.get("name");
        if let Some(given) = given.filter(|given| given.as_text() != Some(name)) {
            let message = format!("must be {name:?} as in the path, is {}", given.describe());
            self.faults.push(FieldError::new("name", message));
        }
        self.set("name", Json::from(name));
    }

    /// Returns the field at a dotted path. Null counts as absent.
    pub fn get(&self, path: &str) -> Option<&Json> {
        let mut parts = path.split('.');
        let mut value = self.fields.get(parts.next()?)?;
        for part in parts {
            value = value.as_object()?.get(part)?;
        }
        (!value.is_null()).then_some(value)
    }

    /// Sets the field at a dotted path. Creates objects on the path that are missing or null. Does nothing if
    /// a part of the path is another value, because `resolve` reports that part.
    pub fn set(&mut self, path: &str, value: Json) {
        let mut parts: Vec<&str> = path.split('.').collect();
        let Some(last) = parts.pop() else { return };
        let mut fields = &mut self.fields;
        for part in parts {
            let inner = fields.entry(part.to_owned()).or_insert(Json::Null);
            if inner.is_null() {
                *inner = Json::Object(JsonObject::new());
            }
            let Json::Object(inner) = inner else { return };
            fields = inner;
        }
        fields.insert(last.to_owned(), value);
    }

    /// Returns the paths of the fields that no function has. Such fields are ignored; often they are
    /// misspelt.
    pub fn unknown_fields(&self) -> Vec<String> {
        let mut unknown = Vec::new();
        for (name, value) in &self.fields {
            if !FIELDS.contains(&name.as_str()) {
                unknown.push(name.clone());
            }
            let inner = INNER_FIELDS.iter().find(|(outer, _)| outer == name);
            if let (Some((_, known)), Json::Object(fields)) = (inner, value) {
                let others = fields
                    .keys()
                    .filter(|field| !known.contains(&field.as_str()));
                unknown.extend(others.map(|field| format!("{name}.{field}")));
            }
        }
        unknown
    }

    /// Returns the warning about a field that no function has.
    pub fn ignored(field: &str) -> String {
        format!("{field} is not a field of a function, and is ignored")
    }

    /// Returns the unknown fields by their paths in the source. In the Kubernetes form the paths of fields
    /// inside `spec` begin with `spec.`, and the unknown fields beside `spec` are returned, too.
    pub fn unknown_paths(&self) -> Vec<String> {
        let inside = self.unknown_fields();
        match &self.around {
            None => inside,
            Some(around) => {
                let inside = inside.iter().map(|field| format!("spec.{field}"));
                inside.chain(around.iter().cloned()).collect()
            }
        }
    }

    pub(super) fn fields(&self) -> &JsonObject {
        &self.fields
    }

    /// Returns the faults of the object around the fields (`apiVersion`, `kind`, `spec`, `name`).
    pub fn faults(&self) -> &[FieldError] {
        &self.faults
    }
}

impl<'de> Deserialize<'de> for FunctionDraft {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(Json::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Serialize for FunctionDraft {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fields.serialize(serializer)
    }
}
