//! Checks that a `podTemplate` does not use the control plane's own service account. With the token of this
//! account, a pod could change every function and create any pod. The check compares only the names of
//! accounts. The registry checks the template of each function; the Kubernetes bridge checks the default
//! template and the merge of both.

use super::FieldError;
use super::json::{Json, JsonObject};

/// The service account of a pod whose template names none.
const DEFAULT: &str = "default";
/// The field that names a pod's service account, and the older name of that field.
const NAMES: [&str; 2] = ["serviceAccountName", "serviceAccount"];

/// Returns a fault if the template's pods would get the token of the account `own`. The fault's field is a
/// path inside the template.
pub fn check_account(template: &JsonObject, own: &str) -> Result<(), FieldError> {
    let Some(spec) = template.get("spec").and_then(Json::as_object) else {
        return Ok(());
    };
    let mut is_named = false;
    for name in NAMES {
        let given = spec.get(name).and_then(Json::as_text);
        is_named |= given.is_some_and(|account| !account.is_empty());
        if given == Some(own) {
            let message = format!(
                "must not be {own:?}, the control plane's own service account; make one for the \
                 function"
            );
            return Err(FieldError::new(format!("spec.{name}"), message));
        }
    }
    if own == DEFAULT
        && !is_named
        && let Some(field) = token_wish(spec)
    {
        let message = format!(
            "would give pods a token of {own:?}, the control plane's own service account; name \
             another one in spec.serviceAccountName"
        );
        return Err(FieldError::new(field, message));
    }
    Ok(())
}

/// Returns the field by which a template that names no account asks for a token of the pod's account.
fn token_wish(spec: &JsonObject) -> Option<String> {
    let automount = "automountServiceAccountToken";
    if matches!(spec.get(automount), Some(Json::Bool(true))) {
        return Some(format!("spec.{automount}"));
    }
    let Some(Json::List(volumes)) = spec.get("volumes") else {
        return None;
    };
    let at = volumes.iter().position(has_token)?;
    Some(format!("spec.volumes[{at}]"))
}

fn has_token(volume: &Json) -> bool {
    let projected = volume
        .as_object()
        .and_then(|volume| volume.get("projected"));
    let sources = projected
        .and_then(Json::as_object)
        .and_then(|projected| projected.get("sources"));
    let Some(Json::List(sources)) = sources else {
        return false;
    };
    let mut sources = sources.iter().filter_map(Json::as_object);
    sources.any(|source| source.contains_key("serviceAccountToken"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn fault(template: Value, own: &str) -> Option<String> {
        let template: Json = serde_json::from_value(template).expect("JSON");
        let template = template.as_object().expect("an object");
        check_account(template, own)
            .err()
            .map(|fault| fault.to_string())
    }

    #[test]
    fn both_account_fields_refuse_the_planes_account() {
        for field in NAMES {
            let fault = fault(json!({"spec": {field: "plane"}}), "plane").expect("a fault");
            assert!(
                fault.starts_with(&format!("spec.{field}: must not be")),
                "{fault}"
            );
        }
        for sound in [
            json!({}),
            json!({"spec": null}),
            json!({"spec": {"serviceAccountName": "mine", "automountServiceAccountToken": true}}),
            json!({"spec": {"automountServiceAccountToken": true}}),
        ] {
            assert_eq!(fault(sound.clone(), "plane"), None, "{sound}");
        }
    }

    #[test]
    fn the_default_account_gives_no_token() {
        let token = json!([{"name": "a"}, {"name": "t", "projected": {"sources": [
            {"configMap": {}}, {"serviceAccountToken": {"path": "token"}}]}}]);
        for (spec, field) in [
            (json!({"automountServiceAccountToken": true}), "spec.auto"),
            (json!({"volumes": token}), "spec.volumes[1]"),
            (
                json!({"serviceAccountName": null, "volumes": token}),
                "spec.volumes[1]",
            ),
            (
                json!({"serviceAccountName": "default"}),
                "spec.serviceAccountName",
            ),
        ] {
            let fault = fault(json!({"spec": spec}), DEFAULT).expect("a fault");
            assert!(fault.starts_with(field), "{fault}");
        }
        let named = json!({"spec": {"serviceAccountName": "mine", "volumes": token}});
        assert_eq!(fault(named, DEFAULT), None);
        assert_eq!(
            fault(json!({"spec": {"nodeName": "n"}}), DEFAULT),
            None,
            "no token is asked for"
        );
    }
}
