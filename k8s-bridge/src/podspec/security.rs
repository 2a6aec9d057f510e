//! Makes the security contexts of function pods, as the Pod Security level `restricted` requires, and advises
//! users whose pods fail because of these contexts. The API server and the kubelet check the pods.

use nanofaas_core::spec::{PodSecurity, SpecFields};
use serde_json::{Map, Value, json};

/// The user id of restricted pods, and of our images. It is always set, because with `runAsNonRoot` alone, a
/// kubelet refuses an image that names no user id. A process with this id has the group 0, whatever group the
/// image names; images that are made for any user id let group 0 write.
const USER: u32 = 65532;

/// The pod's own security context, which a template may change.
pub(crate) fn pod_context(security: PodSecurity) -> Value {
    let profile = json!({"type": "RuntimeDefault"});
    match security {
        PodSecurity::Restricted => {
            json!({"runAsNonRoot": true, "runAsUser": USER, "seccompProfile": profile})
        }
        PodSecurity::Baseline => json!({"seccompProfile": profile}),
    }
}

/// Sets in every container the fields that `restricted` requires, also in containers of a template. A field
/// that is already set stays.
pub(crate) fn restrict_containers(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if let Value::Object(container) = container {
                restrict(container);
            }
        }
    }
}

fn restrict(container: &mut Map<String, Value>) {
    let context = container
        .entry("securityContext")
        .or_insert_with(|| json!({}));
    let Value::Object(context) = context else {
        return;
    };
    context
        .entry("allowPrivilegeEscalation")
        .or_insert(false.into());
    let capabilities = context.entry("capabilities").or_insert_with(|| json!({}));
    if let Value::Object(capabilities) = capabilities {
        capabilities.entry("drop").or_insert_with(|| json!(["ALL"]));
    }
}

/// Returns `why`, with advice if the pod's security context is the reason.
pub(crate) fn advised(spec: &SpecFields, why: &str) -> String {
    let has = |part: &str| why.contains(part);
    let is_restricted = spec.pod_security == PodSecurity::Restricted;
    let advice = if has("violates PodSecurity") && !is_restricted {
        "podSecurity: baseline needs a namespace whose label pod-security.kubernetes.io/enforce is \
         baseline"
    } else if has("violates PodSecurity") {
        "take it out of the podTemplate, or label the namespace otherwise"
    } else if has("runAsNonRoot") || has("non-root policy") {
        "leave runAsUser out of the podTemplate, or set podSecurity: baseline in the function's spec \
         if its image needs root"
    } else if is_restricted && (has("ermission denied") || has("peration not permitted")) {
        "the pod runs as user 65532 without capabilities; if that is why, let any user read and run \
         the image's files, or set podSecurity: baseline in the function's spec"
    } else {
        return why.to_owned();
    };
    // A reason with several lines, for instance a container's last output, gets the advice on its own line.
    let between = if has("\n") { "\n" } else { "; " };
    format!("{why}{between}{advice}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::tests::function;

    #[test]
    fn what_a_container_says_itself_stays() {
        let mut spec = json!({
            "containers": [{"name": "function"}, {"name": "s", "securityContext":
                {"allowPrivilegeEscalation": true, "capabilities": {"add": ["CHOWN"]}}}],
            "initContainers": [{"name": "i", "securityContext": {"capabilities": {"drop": []}}}],
        });
        restrict_containers(&mut spec);
        let all = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        assert_eq!(spec["containers"][0]["securityContext"], all);
        let own = json!({"allowPrivilegeEscalation": true,
            "capabilities": {"add": ["CHOWN"], "drop": ["ALL"]}});
        assert_eq!(spec["containers"][1]["securityContext"], own);
        let own = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": []}});
        assert_eq!(spec["initContainers"][0]["securityContext"], own);
    }

    #[test]
    fn a_failure_without_rights_names_the_remedy() {
        let of =
            |word: &str| function(json!({"name": "f", "image": "i", "podSecurity": word})).spec;
        let (restricted, baseline) = (of("restricted"), of("baseline"));
        let root =
            "CreateContainerConfigError: container has runAsNonRoot and image will run as root";
        let denied = "it exited with status 1; its last words:\nsh: /x: Permission denied";
        let refused = "pods \"f\" is forbidden: violates PodSecurity \"restricted:latest\": a != b";
        for (spec, why, advice) in [
            (&restricted, root, "; leave runAsUser out"),
            (&restricted, denied, "\nthe pod runs as user 65532"),
            (&restricted, refused, "; take it out of the podTemplate"),
            (
                &baseline,
                refused,
                "; podSecurity: baseline needs a namespace",
            ),
        ] {
            let message = advised(spec, why);
            assert!(message.starts_with(&format!("{why}{advice}")), "{message}");
        }
        for (spec, why) in [(&baseline, denied), (&restricted, "ErrImagePull: denied")] {
            assert_eq!(advised(spec, why), why);
        }
    }
}
