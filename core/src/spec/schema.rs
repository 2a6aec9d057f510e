//! Generates the JSON Schema of a function's fields from the Rust types and the ranges of `bound`, in the
//! form that the API server needs for the CRD. The schema has no defaults, because a missing field gets its
//! value from the control plane's settings. The schema requires no field, because the control plane's own
//! message about a missing field is better.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::bound::{
    CONCURRENCY, IDLE_TIMEOUT_MS, MAX_REPLICAS, MAX_RETRIES, MIN_REPLICAS, QUEUE_SIZE,
    STREAM_IDLE_MS, STREAM_MAX_MS, TARGET_IN_FLIGHT_PER_POD, TIMEOUT_MS,
};
use super::choice::{ExecutionMode, GivenMode, ImagePullPolicy, PodSecurity, RetryOn, RuntimeMode};
use super::quantity::Quantity;
use super::{FIELDS, RESOLVED_FIELDS, SpecFields};

/// The fields with a range, as paths below the schema's `properties`.
const RANGES: [(&str, &RangeInclusive<u32>); 10] = [
    ("/timeoutMs", &TIMEOUT_MS),
    ("/concurrency", &CONCURRENCY),
    ("/queueSize", &QUEUE_SIZE),
    ("/maxRetries", &MAX_RETRIES),
    ("/streamIdleMs", &STREAM_IDLE_MS),
    ("/streamMaxMs", &STREAM_MAX_MS),
    ("/scalingConfig/properties/minReplicas", &MIN_REPLICAS),
    ("/scalingConfig/properties/maxReplicas", &MAX_REPLICAS),
    (
        "/scalingConfig/properties/targetInFlightPerPod",
        &TARGET_IN_FLIGHT_PER_POD,
    ),
    ("/scalingConfig/properties/idleTimeoutMs", &IDLE_TIMEOUT_MS),
];

/// Returns the schema of the object's `spec`: the fields of a draft without the name, which is in the
/// object's metadata.
pub fn schema() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let generated = settings
        .into_generator()
        .into_root_schema_for::<SpecFields>();
    let mut schema = generated.to_value();
    clean(&mut schema);
    let properties = &mut schema["properties"];
    for (path, range) in RANGES {
        let place = properties.pointer_mut(path).expect("a field with a range");
        place["minimum"] = json!(range.start());
        place["maximum"] = json!(range.end());
        // `kubectl explain` shows only the description.
        let text = place["description"].as_str().expect("a doc comment");
        let (first, last) = (range.start(), range.end());
        place["description"] = json!(format!("{text} The range is {first} to {last}."));
    }
    let fields = properties.as_object_mut().expect("an object of fields");
    fields.remove("name");
    for field in RESOLVED_FIELDS {
        fields.remove(field);
    }
    assert_eq!(fields.len(), FIELDS.len() - 1, "every field of a draft");
    json!({"type": "object", "properties": properties})
}

/// Removes what the API server does not accept, and rules about which the control plane's own checks report
/// better. Allows null for fields.
fn clean(value: &mut Value) {
    let Value::Object(schema) = value else { return };
    for key in ["required", "default", "title", "$schema", "components"] {
        // `components` is an object, and is removed, too. An object under one of the other keys is kept.
        if !schema.get(key).is_some_and(Value::is_object) || key == "components" {
            schema.remove(key);
        }
    }
    if schema.get("type") == Some(&json!("integer")) {
        schema.insert("format".into(), json!("int32"));
        schema.remove("minimum");
    }
    describe(schema);
    // Null means the same as a missing field. But items of lists and values of maps may not be null, so the
    // end of this function removes `nullable` from their schemas.
    if schema.contains_key("type") || schema.contains_key("x-kubernetes-int-or-string") {
        schema.insert("nullable".into(), json!(true));
    }
    if let Some(Value::Object(fields)) = schema.get_mut("properties") {
        fields.values_mut().for_each(clean);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            clean(inner);
            if let Value::Object(inner) = inner {
                inner.remove("nullable");
            }
        }
    }
}

/// Joins the lines of a description, which was a doc comment, into one line.
fn describe(schema: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
}

/// The schema of an object whose fields this crate does not define.
pub(super) struct AnyObject;

impl JsonSchema for AnyObject {
    fn schema_name() -> Cow<'static, str> {
        "AnyObject".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true})
    }
}

fn one_of<T>(names: &[(&'static str, T)]) -> Schema {
    let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    json_schema!({"type": "string", "enum": names})
}

impl JsonSchema for RetryOn {
    fn schema_name() -> Cow<'static, str> {
        "RetryOn".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "array", "items": one_of(&Self::NAMES)})
    }
}

macro_rules! one_of_its_names {
    ($($choice:ident),*) => {$(
        impl JsonSchema for $choice {
            fn schema_name() -> Cow<'static, str> {
                stringify!($choice).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                one_of(&Self::NAMES)
            }
        }
    )*};
}

one_of_its_names!(
    ExecutionMode,
    GivenMode,
    ImagePullPolicy,
    PodSecurity,
    RuntimeMode
);
