//! Makes the Pod that runs a function's calls. The control plane's default template is merged over the fields
//! that WARM pods and Jobs share; the function's own `podTemplate` is merged over both. This module creates
//! no object in the cluster.

pub(crate) mod default_template;
pub(crate) mod security;

use std::collections::BTreeMap;

use nanofaas_core::function::Function;
use nanofaas_core::spec::{Platform, PodSecurity, SpecFields};
use serde_json::{Map, Value, json};

use crate::podspec::default_template::DefaultPodTemplate;

pub(crate) const CONTAINER: &str = "function";
pub(crate) const PORT: u16 = 8080;

/// The label by which Services and network policies select the control plane's pods. It is removed from the
/// pods of functions.
const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
pub(crate) const LABEL_APP: (&str, &str) = ("app", "nanofaas");
pub(crate) const LABEL_FUNCTION: &str = "nanofaas.io/function";
/// The value is `warm` or `job`.
pub(crate) const LABEL_KIND: &str = "nanofaas.io/kind";
pub(crate) const LABEL_EXECUTION: &str = "nanofaas.io/execution";
/// The instance of the process that created a Job.
pub(crate) const LABEL_INSTANCE: &str = "nanofaas.io/instance";
/// The name of the Job that a pod belongs to.
pub(crate) const LABEL_JOB: &str = "nanofaas.io/job";
/// A pod whose shape differs from its function's present shape must be replaced.
pub(crate) const ANNOTATION_SHAPE: &str = "nanofaas.io/shape";
pub(crate) const ANNOTATION_TRACE: &str = "nanofaas.io/trace-id";

/// Selects the platform's pods and Jobs in lists and watches.
pub(crate) const SELECTOR: &str = "app=nanofaas,nanofaas.io/kind";

/// The fields that may differ between two pods of one function.
pub(crate) struct PodParts {
    pub(crate) labels: BTreeMap<&'static str, String>,
    pub(crate) annotations: BTreeMap<&'static str, String>,
    /// Variables that override the function's own. Kubernetes does not expand `$(NAME)` in their values.
    pub(crate) env: Vec<(&'static str, String)>,
    /// Variables that override the function's own. Kubernetes expands `$(NAME)` in their values.
    pub(crate) expanded_env: Vec<(&'static str, String)>,
}

/// Returns the shape as the pods' annotation has it.
pub(crate) fn shape(spec: &SpecFields, default: Option<&DefaultPodTemplate>) -> String {
    let own = spec.shape_hash(Platform::Kubernetes);
    match default {
        None => format!("{own:016x}"),
        Some(default) => format!("{own:016x}-{:016x}", default.hash),
    }
}

pub(crate) fn template(
    function: &Function,
    parts: &PodParts,
    default: Option<&DefaultPodTemplate>,
) -> Value {
    let spec = &function.spec;
    let mut template = json!({
        "metadata": {},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": spec.grace_s(),
            "securityContext": security::pod_context(spec.pod_security),
            "containers": [container(spec)],
        },
    });
    if !spec.image_pull_secrets.is_empty() {
        let secrets = spec.image_pull_secrets.iter();
        let secrets: Vec<Value> = secrets.map(|name| json!({"name": name})).collect();
        template["spec"]["imagePullSecrets"] = secrets.into();
    }
    if let Some(default) = default {
        merge(&mut template, default.value.clone());
    }
    if let Some(over) = &spec.pod_template {
        let over = serde_json::to_value(over).unwrap_or_default();
        merge(&mut template, over);
    }
    if spec.pod_security == PodSecurity::Restricted {
        security::restrict_containers(&mut template["spec"]);
    }
    ours(&mut template, function, parts);
    template
}

fn container(spec: &SpecFields) -> Value {
    let mut container = json!({
        "name": CONTAINER,
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        // If a failed container wrote no termination message, the kubelet takes the last lines of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if !spec.command.is_empty() {
        let words: Vec<String> = spec.command.iter().map(|word| literal(word)).collect();
        container["command"] = words.into();
    }
    let env = spec.env.iter();
    let env: Vec<Value> = env.map(|(name, value)| variable(name, value)).collect();
    container["env"] = env.into();
    let mut requests = Map::new();
    let mut limits = Map::new();
    if let Some(cpu) = &spec.resources.cpu {
        requests.insert("cpu".into(), cpu.as_str().into());
    }
    if let Some(memory) = &spec.resources.memory {
        requests.insert("memory".into(), memory.as_str().into());
        limits.insert("memory".into(), memory.as_str().into());
    }
    container["resources"] = json!({"requests": requests, "limits": limits});
    container
}

fn variable(name: &str, value: &str) -> Value {
    json!({"name": name, "value": literal(value)})
}

/// Escapes `$`, because Kubernetes would expand `$(NAME)` in a function's own text.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// Sets the fields that no template may change: the restart policy, and the platform's labels, annotations
/// and variables.
fn ours(template: &mut Value, function: &Function, parts: &PodParts) {
    let metadata = object(&mut template["metadata"]);
    metadata.retain(|name, _| name == "labels" || name == "annotations");
    let labels = object(metadata.entry("labels").or_insert(Value::Null));
    labels.remove(LABEL_COMPONENT);
    labels.insert(LABEL_APP.0.into(), LABEL_APP.1.into());
    labels.insert(LABEL_FUNCTION.into(), (&**function.name()).into());
    for (name, value) in &parts.labels {
        labels.insert((*name).into(), value.as_str().into());
    }
    let annotations = object(metadata.entry("annotations").or_insert(Value::Null));
    for (name, value) in &parts.annotations {
        annotations.insert((*name).into(), value.as_str().into());
    }
    object(&mut template["spec"]).insert("restartPolicy".into(), "Never".into());
    let spec = &function.spec;
    let mut env = vec![json!({"name": "NANOFAAS_POD_IP",
        "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})];
    env.push(variable("PORT", &PORT.to_string()));
    env.push(variable("FUNCTION_NAME", function.name()));
    env.push(variable("EXECUTION_MODE", spec.runtime_mode.as_str()));
    env.push(variable("NANOFAAS_HEALTH_PATH", &spec.health_path));
    let watchdog = spec.runtime_command.as_deref();
    env.extend(watchdog.map(|line| variable("WATCHDOG_CMD", line)));
    let own = parts.env.iter();
    env.extend(own.map(|(name, value)| variable(name, value)));
    let expanded = parts.expanded_env.iter();
    env.extend(expanded.map(|(name, value)| json!({"name": name, "value": value})));
    let containers = template["spec"]["containers"].as_array_mut();
    let ours = containers
        .into_iter()
        .flatten()
        .find(|container| container["name"] == CONTAINER);
    if let Some(container) = ours {
        let theirs = container["env"].take();
        let names: Vec<String> = env.iter().filter_map(name_of).map(str::to_owned).collect();
        let theirs = theirs.as_array().cloned().unwrap_or_default();
        let kept = theirs.into_iter().filter(|one| {
            let name = name_of(one).unwrap_or_default();
            !names.iter().any(|ours| ours == name)
        });
        // The platform's variables come first, because Kubernetes expands `$(NAME)` only if NAME is earlier
        // in the list.
        env.extend(kept);
        container["env"] = env.into();
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it is one now")
}

/// Merges objects field by field, and lists of named items by name. A null in `over` removes the field; any
/// other value replaces the value of `base`.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                if value.is_null() {
                    base.remove(&name);
                } else {
                    merge(base.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(base), Value::Array(over)) => match key_of_both(base, &over) {
            Some(key) => merge_lists(base, over, key),
            None => *base = over,
        },
        (base, over) => *base = over,
    }
}

/// Returns the field that identifies the items of both lists, as in Kubernetes' own merge. `mountPath` comes
/// before `name`, because one volume may be mounted two times.
fn key_of_both(base: &[Value], over: &[Value]) -> Option<&'static str> {
    let has = |key: &&str| {
        let mut all = base.iter().chain(over);
        all.all(|one| one.get(*key).is_some_and(Value::is_string))
    };
    ["mountPath", "devicePath", "name"].into_iter().find(has)
}

fn merge_lists(base: &mut Vec<Value>, over: Vec<Value>, key: &str) {
    for value in over {
        match base.iter_mut().find(|one| one[key] == value[key]) {
            Some(known) => merge(known, value),
            None => base.push(value),
        }
    }
}

fn name_of(value: &Value) -> Option<&str> {
    value.get("name").and_then(Value::as_str)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use nanofaas_core::queue_stats::QueueStats;
    use nanofaas_core::spec::{Defaults, FunctionSpec};
    use nanofaas_core::ticket::LaneId;
    use std::sync::Arc;

    pub(crate) fn function(fields: Value) -> Function {
        let draft = serde_json::from_value(fields).expect("a draft");
        let spec = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, Platform::Kubernetes);
        Function {
            spec: spec.expect("a sound spec"),
            lane: LaneId { index: 0, epoch: 1 },
            stats: Arc::new(QueueStats::new(1)),
            version: 1,
        }
    }

    fn parts() -> PodParts {
        PodParts {
            labels: BTreeMap::from([(LABEL_KIND, "warm".to_owned())]),
            annotations: BTreeMap::new(),
            env: vec![("EXECUTION_ID", "a$(PORT)".to_owned())],
            expanded_env: vec![("NANOFAAS_READY_URL", "http://$(NANOFAAS_POD_IP)".to_owned())],
        }
    }

    fn env<'a>(template: &'a Value, name: &str) -> &'a Value {
        let env = template["spec"]["containers"][0]["env"].as_array();
        let found = env
            .expect("a list")
            .iter()
            .filter(|one| one["name"] == name);
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1, "{name} is there {} times", found.len());
        &found[0]["value"]
    }

    #[test]
    fn a_spec_becomes_a_pod() {
        let function = function(
            json!({"name": "f", "image": "i:1", "imagePullPolicy": "Never",
            "imagePullSecrets": ["s"], "command": ["run", "$HOME"], "env": {"A": "$(B)"},
            "resources": {"cpu": "100m", "memory": "64Mi"}, "timeoutMs": 5000,
            "runtimeMode": "STDIO", "runtimeCommand": "wc -w"}),
        );
        let template = template(&function, &parts(), None);
        let spec = &template["spec"];
        assert_eq!(spec["restartPolicy"], "Never");
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(spec["terminationGracePeriodSeconds"], 15);
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "s"}]));
        let container = &spec["containers"][0];
        assert_eq!(container["image"], "i:1");
        assert_eq!(container["imagePullPolicy"], "Never");
        assert_eq!(container["command"], json!(["run", "$$HOME"]));
        let resources = json!({"requests": {"cpu": "100m", "memory": "64Mi"},
            "limits": {"memory": "64Mi"}});
        assert_eq!(container["resources"], resources);
        assert_eq!(env(&template, "A"), "$$(B)");
        assert_eq!(env(&template, "EXECUTION_ID"), "a$$(PORT)");
        assert_eq!(
            env(&template, "NANOFAAS_READY_URL"),
            "http://$(NANOFAAS_POD_IP)"
        );
        assert_eq!(env(&template, "WATCHDOG_CMD"), "wc -w");
        assert_eq!(env(&template, "EXECUTION_MODE"), "STDIO");
        assert_eq!(template["metadata"]["labels"]["nanofaas.io/function"], "f");
    }

    #[test]
    fn a_template_merges_below_the_platforms_fields() {
        let function = function(json!({"name": "f", "image": "i", "podTemplate": {
            "metadata": {"name": "mine", "labels": {"team": "a", "app": "mine",
                "app.kubernetes.io/component": "control-plane"}},
            "spec": {
                "restartPolicy": "Always", "nodeSelector": {"disk": "ssd"},
                "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [
                    {"name": "function", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                     "env": [{"name": "PORT", "value": "1"}, {"name": "B", "value": "$(PORT)"}]},
                    {"name": "sidecar", "image": "s"}]}}}));
        let template = template(&function, &parts(), None);
        let metadata = &template["metadata"];
        assert_eq!(metadata.get("name"), None);
        assert_eq!(metadata["labels"]["team"], "a");
        assert_eq!(metadata["labels"]["app"], "nanofaas");
        assert_eq!(metadata["labels"].get("app.kubernetes.io/component"), None);
        let spec = &template["spec"];
        assert_eq!(spec["restartPolicy"], "Never");
        assert_eq!(spec["nodeSelector"]["disk"], "ssd");
        assert_eq!(spec["containers"][1]["name"], "sidecar");
        let container = &spec["containers"][0];
        assert_eq!(container["image"], "i");
        assert_eq!(container["volumeMounts"][0]["mountPath"], "/v");
        assert_eq!(env(&template, "PORT"), "8080");
        assert_eq!(env(&template, "B"), "$(PORT)");
    }

    #[test]
    fn pods_are_restricted_unless_the_spec_differs() {
        let sidecar = json!({"spec": {"containers": [{"name": "sidecar", "image": "s"}]}});
        let of = |word: &str| {
            let function = function(json!({"name": "f", "image": "i", "podSecurity": word,
                "podTemplate": sidecar}));
            template(&function, &parts(), None)["spec"].clone()
        };
        let spec = of("restricted");
        let profile = json!({"type": "RuntimeDefault"});
        let pod = json!({"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": profile});
        assert_eq!(spec["securityContext"], pod);
        let container =
            json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        for at in [0, 1] {
            assert_eq!(spec["containers"][at]["securityContext"], container);
        }
        let spec = of("baseline");
        assert_eq!(spec["securityContext"], json!({"seccompProfile": profile}));
        for at in [0, 1] {
            assert_eq!(spec["containers"][at].get("securityContext"), None);
        }
    }

    #[test]
    fn the_default_template_lies_between_both() {
        let default = DefaultPodTemplate {
            value: json!({
                "metadata": {"labels": {"team": "all", "site": "a", "app": "mine"}},
                "spec": {"nodeSelector": {"disk": "hdd"}, "restartPolicy": "Always",
                    "enableServiceLinks": true, "securityContext": {"runAsUser": 1000},
                    "containers": [{"name": "function", "env": [
                        {"name": "A", "value": "default"}, {"name": "B", "value": "default"},
                        {"name": "PORT", "value": "1"}]}]}}),
            hash: 1,
        };
        let function = function(json!({"name": "f", "image": "i", "podTemplate": {
            "metadata": {"labels": {"team": "own"}},
            "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [
                {"name": "function", "env": [{"name": "A", "value": "own"}]}]}}}));
        let template = template(&function, &parts(), Some(&default));
        let labels = &template["metadata"]["labels"];
        let shown = ["team", "site", "app"].map(|name| labels[name].as_str());
        assert_eq!(shown, [Some("own"), Some("a"), Some("nanofaas")]);
        let spec = &template["spec"];
        assert_eq!(spec["nodeSelector"]["disk"], "ssd");
        assert_eq!(spec["restartPolicy"], "Never");
        assert_eq!(spec["enableServiceLinks"], true);
        assert_eq!(spec["securityContext"]["runAsUser"], 1000);
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        let shown = ["A", "B", "PORT"].map(|name| env(&template, name).as_str());
        assert_eq!(shown, [Some("own"), Some("default"), Some("8080")]);
    }

    #[test]
    fn the_default_template_is_part_of_the_shape() {
        let function = function(json!({"name": "f", "image": "i"}));
        let with = |hash| {
            let value = Value::Null;
            shape(&function.spec, Some(&DefaultPodTemplate { value, hash }))
        };
        let (none, one, other) = (shape(&function.spec, None), with(1), with(2));
        assert!(none != one && one != other && one == with(1));
    }
}
