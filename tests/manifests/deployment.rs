//! These tests check the Deployment and its Services. One plane runs at a time and has time to drain. It has
//! no privileges on its node, a memory limit, and only settings and ports that exist.

use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::files::{FUNCTION_LABELS, at, base_of, only};

fn pod() -> Value {
    at(&only("Deployment"), "/spec/template/spec").clone()
}

fn container() -> Value {
    let pod = pod();
    let containers = at(&pod, "/containers").as_array().expect("a list");
    assert_eq!(containers.len(), 1);
    containers[0].clone()
}

static HELP: LazyLock<String> = LazyLock::new(|| {
    let output = Command::new(env!("CARGO_BIN_EXE_nanofaas"))
        .args(["serve", "--help"])
        .output()
        .expect("nanofaas runs");
    String::from_utf8(output.stdout).expect("help is UTF-8")
});

/// Returns the default of a flag in the help.
fn default_of(flag: &str) -> u64 {
    let of_flag = HELP.split(&format!("{flag} ")).nth(1).expect("a flag");
    let text = of_flag.split("[default: ").nth(1).expect("a default");
    text.split(']')
        .next()
        .unwrap_or(text)
        .parse()
        .expect("a number")
}

/// Returns the names and values of the environment, in order.
fn environment() -> Vec<(String, Value)> {
    let container = container();
    let entries = at(&container, "/env").as_array().expect("a list").iter();
    entries
        .map(|entry| {
            let name = at(entry, "/name").as_str().expect("a text");
            (name.to_owned(), entry["value"].clone())
        })
        .collect()
}

fn setting(name: &str) -> String {
    let all = environment();
    let (_, value) = all
        .iter()
        .find(|(one, _)| one == name)
        .unwrap_or_else(|| panic!("no {name}"));
    value.as_str().expect("a text").to_owned()
}

#[test]
fn one_plane_at_once_with_time_to_drain() {
    let deployment = only("Deployment");
    assert_eq!(*at(&deployment, "/spec/replicas"), 1);
    assert_eq!(
        *at(&deployment, "/spec/strategy"),
        json!({"type": "Recreate"})
    );
    let grace = at(&pod(), "/terminationGracePeriodSeconds").as_u64();
    let drain = default_of("--drain-ms");
    assert!(
        grace.is_some_and(|seconds| seconds * 1000 >= drain + 10_000),
        "{grace:?} s are not well over --drain-ms {drain}"
    );
}

#[test]
fn it_may_do_nothing_to_its_node() {
    let pod = pod();
    let context = at(&pod, "/securityContext");
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!(context["runAsUser"], 65532);
    assert_eq!(context["runAsGroup"], 65532);
    assert_eq!(context["seccompProfile"], json!({"type": "RuntimeDefault"}));
    let expected = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    });
    assert_eq!(*at(&container(), "/securityContext"), expected);
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        assert_eq!(pod.get(field), None, "{field}");
    }
}

#[test]
fn its_only_volume_is_the_optional_default_template() {
    let map = json!({"name": "nanofaas-pod-template", "optional": true});
    let volumes = json!([{"name": "pod-template", "configMap": map}]);
    assert_eq!(pod()["volumes"], volumes);
    let mount = json!({"name": "pod-template", "mountPath": "/etc/nanofaas", "readOnly": true});
    assert_eq!(container()["volumeMounts"], json!([mount]));
    let file = setting("NANOFAAS_POD_TEMPLATE");
    assert_eq!(file, "/etc/nanofaas/podTemplate.yaml");
}

#[test]
fn only_its_pod_has_a_token() {
    assert_eq!(
        only("ServiceAccount")["automountServiceAccountToken"],
        false
    );
    let pod = pod();
    assert_eq!(pod["automountServiceAccountToken"], true);
    assert_eq!(
        pod["serviceAccountName"],
        only("ServiceAccount")["metadata"]["name"]
    );
    assert_eq!(pod["enableServiceLinks"], false);
}

#[test]
fn every_setting_is_one_of_serve() {
    for (name, value) in environment() {
        if name.starts_with("NANOFAAS_") {
            assert!(
                HELP.contains(&format!("[env: {name}=")),
                "no setting {name}"
            );
            assert!(value.is_string(), "{name}");
        }
    }
    assert_eq!(container()["args"], json!(["serve"]));
    assert_eq!(setting("NANOFAAS_BACKEND"), "kubernetes");
    assert_eq!(setting("NANOFAAS_IO_DRIVER"), "epoll");
}

#[test]
fn the_pod_knows_its_name_before_its_address() {
    let container = container();
    let fields = [
        ("POD_NAME", "metadata.name"),
        ("POD_UID", "metadata.uid"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("POD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ("POD_IP", "status.podIP"),
    ];
    let env = at(&container, "/env").as_array().expect("a list");
    for (name, field) in fields {
        let entry = env.iter().find(|entry| entry["name"] == name);
        let entry = entry.unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(*at(entry, "/valueFrom/fieldRef/fieldPath"), field);
    }
    // In a URL, an IPv6 address needs brackets, and the manifest cannot know whether the pod has such an
    // address. It therefore sets no callback URL, and the plane derives the URL from POD_IP.
    let names: Vec<String> = environment().into_iter().map(|(name, _)| name).collect();
    assert!(!names.contains(&"NANOFAAS_CALLBACK_URL".to_owned()));
}

#[test]
fn the_ports_are_those_it_listens_on() {
    let listening = [
        ("http", 8080, "NANOFAAS_LISTEN"),
        ("management", 8081, "NANOFAAS_MANAGEMENT"),
        ("internal", 8082, "NANOFAAS_INTERNAL_LISTEN"),
    ];
    let ports = listening.map(|(name, port, _)| json!({"name": name, "containerPort": port}));
    assert_eq!(container()["ports"], json!(ports));
    for (_, port, variable) in listening {
        assert_eq!(setting(variable), format!("[::]:{port}"));
    }
}

#[test]
fn probes_ask_the_management_port() {
    let container = container();
    for (probe, state) in [
        ("readinessProbe", "readiness"),
        ("livenessProbe", "liveness"),
    ] {
        let get = json!({"path": format!("/actuator/health/{state}"), "port": "management"});
        assert_eq!(container[probe]["httpGet"], get);
    }
}

#[test]
fn only_its_memory_is_limited() {
    let container = container();
    let resources = at(&container, "/resources");
    for one in ["cpu", "memory"] {
        assert!(resources["requests"][one].is_string(), "{one}");
    }
    let limits = at(resources, "/limits").as_object().expect("an object");
    assert_eq!(limits.keys().collect::<Vec<_>>(), ["memory"]);
}

#[test]
fn nothing_selects_pods_of_functions_as_the_planes() {
    let deployment = only("Deployment");
    let labels = at(&deployment, "/spec/template/metadata/labels");
    let mut selectors = vec![at(&deployment, "/spec/selector/matchLabels").clone()];
    for service in base_of("Service") {
        selectors.push(at(&service, "/spec/selector").clone());
    }
    for selector in selectors {
        let wanted = selector.as_object().expect("an object");
        let met_by_function = wanted.iter().all(|(key, value)| {
            let mut carried = FUNCTION_LABELS.iter();
            carried.any(|(name, given)| key == name && value == given)
        });
        assert!(!met_by_function, "{selector}");
        for (key, value) in wanted {
            assert_eq!(labels[key], *value, "{selector}");
        }
    }
}

#[test]
fn clients_and_operators_have_a_service_each() {
    let ports: Vec<Value> = base_of("Service")
        .iter()
        .map(|service| json!([service["metadata"]["name"], at(service, "/spec/ports")]))
        .collect();
    let expected = json!([
        ["nanofaas", [{"name": "http", "port": 8080, "targetPort": "http"}]],
        [
            "nanofaas-management",
            [{"name": "management", "port": 8081, "targetPort": "management"}]
        ],
    ]);
    assert_eq!(json!(ports), expected);
}
