//! These tests check that the io_uring overlay differs from the base only in the seccomp profile and the
//! driver.

use std::process::Command;

use serde_json::{Value, json};

use crate::files::{at, base, document, documents, path, strings, text};

const FOLDER: &str = "k8s/overlays/io-uring";
const CALLS: [&str; 3] = ["io_uring_enter", "io_uring_register", "io_uring_setup"];

fn profile() -> Value {
    serde_json::from_str(&text(&format!("{FOLDER}/nanofaas-io-uring.json"))).expect("JSON")
}

fn installer(kind: &str) -> Value {
    let mut all = documents(&format!("{FOLDER}/seccomp-installer.yaml"));
    all.retain(|object| object["kind"] == kind);
    assert_eq!(all.len(), 1, "{kind}");
    all.remove(0)
}

#[test]
fn the_profile_adds_three_calls() {
    let profile = profile();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let blocks = at(&profile, "/syscalls").as_array().expect("a list");
    let list = strings(&blocks[0]["names"]);
    assert!(list.is_sorted() && list.len() > 250, "{} calls", list.len());
    assert_eq!(strings(&blocks[1]["names"]), CALLS);
    for block in &blocks[..2] {
        assert_eq!(block["action"], "SCMP_ACT_ALLOW");
        assert_eq!(block.get("args"), None);
    }
    // These system calls let a process leave its container or read other processes, so the profile must allow
    // none of them.
    let never = [
        "bpf",
        "chroot",
        "init_module",
        "keyctl",
        "kexec_load",
        "mount",
        "open_by_handle_at",
        "perf_event_open",
        "pivot_root",
        "process_vm_readv",
        "ptrace",
        "reboot",
        "setns",
        "umount2",
        "unshare",
        "userfaultfd",
    ];
    for block in blocks
        .iter()
        .filter(|block| block["action"] == "SCMP_ACT_ALLOW")
    {
        for name in strings(&block["names"]) {
            assert!(!never.contains(&name), "{name}");
        }
    }
    // The profile restricts the arguments of these system calls, so its list of unrestricted names must not
    // contain them.
    for name in ["clone", "clone3", "socket"] {
        assert!(!list.contains(&name), "{name}");
    }
}

#[test]
fn the_profile_is_installed_where_it_is_named() {
    let patch = document(&format!("{FOLDER}/deployment.yaml"));
    let named = at(&patch, "/spec/template/spec/securityContext/seccompProfile");
    let file = "nanofaas-io-uring.json";
    assert_eq!(
        *named,
        json!({"type": "Localhost", "localhostProfile": format!("profiles/{file}")})
    );
    let kustomization = document(&format!("{FOLDER}/kustomization.yaml"));
    let generated = at(&kustomization, "/configMapGenerator/0");
    assert_eq!(generated["files"], json!([file]));
    let daemon = installer("DaemonSet");
    assert_eq!(generated["namespace"], daemon["metadata"]["namespace"]);
    let pod = at(&daemon, "/spec/template/spec");
    assert_eq!(pod["volumes"][0]["configMap"]["name"], generated["name"]);
    assert_eq!(
        pod["volumes"][1]["hostPath"]["path"],
        "/var/lib/kubelet/seccomp/profiles"
    );
    let script = at(pod, "/initContainers/0/args/0")
        .as_str()
        .expect("a text");
    assert!(script.contains(&format!("/profiles/{file}\n")), "{script}");
}

#[test]
fn what_touches_a_node_is_elsewhere_without_capability() {
    let daemon = installer("DaemonSet");
    let namespace = installer("Namespace");
    assert_eq!(
        daemon["metadata"]["namespace"],
        namespace["metadata"]["name"]
    );
    assert_ne!(namespace["metadata"]["name"], "nanofaas");
    let pod = at(&daemon, "/spec/template/spec");
    assert_eq!(pod["automountServiceAccountToken"], false);
    for containers in ["initContainers", "containers"] {
        for container in at(pod, &format!("/{containers}"))
            .as_array()
            .expect("a list")
        {
            let context = at(container, "/securityContext");
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["allowPrivilegeEscalation"], false);
        }
    }
}

/// Returns the objects that kubectl renders from a folder, or `None` if no suitable kubectl is installed.
fn rendered(folder: &str) -> Option<Vec<Value>> {
    let output = Command::new("kubectl")
        .arg("kustomize")
        .arg(path(folder))
        .output()
        .ok()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        // Only kubectl 1.20 may fail here, because it cannot use folders as resources. k8s/kustomization.yaml
        // names that limit.
        assert!(
            errors.contains("must be a file") || errors.contains("cannot unmarshal"),
            "{errors}"
        );
        return None;
    }
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    Some(serde_saphyr::from_multiple(&text).expect("YAML"))
}

fn find<'a>(objects: &'a [Value], one: &Value) -> &'a Value {
    let same = |other: &&Value| {
        other["kind"] == one["kind"] && other["metadata"]["name"] == one["metadata"]["name"]
    };
    let found = objects.iter().find(same);
    found.unwrap_or_else(|| panic!("no {} {}", one["kind"], one["metadata"]["name"]))
}

#[test]
fn kubectl_renders_the_base_as_it_is_written() {
    let Some(objects) = rendered("k8s") else {
        return;
    };
    assert_eq!(objects.len(), base().len());
    for written in base() {
        assert_eq!(*find(&objects, &written), written);
    }
}

#[test]
fn kubectl_renders_the_overlay_with_two_changes() {
    let Some(objects) = rendered(FOLDER) else {
        return;
    };
    for mut written in base() {
        let given = find(&objects, &written);
        if written["kind"] != "Deployment" {
            assert_eq!(*given, written);
            continue;
        }
        let mut given = given.clone();
        let spec = "/spec/template/spec";
        let patch = document(&format!("{FOLDER}/deployment.yaml"));
        let profile = format!("{spec}/securityContext/seccompProfile");
        assert_eq!(at(&given, &profile), at(&patch, &profile));
        let env = format!("{spec}/containers/0/env");
        let driver = |object: &Value, value: &str| {
            let entry = json!({"name": "NANOFAAS_IO_DRIVER", "value": value});
            at(object, &env)
                .as_array()
                .is_some_and(|all| all.contains(&entry))
        };
        assert!(driver(&written, "epoll") && driver(&given, "auto"));
        for object in [&mut written, &mut given] {
            *object.pointer_mut(&profile).expect("a profile") = Value::Null;
            let entries = object
                .pointer_mut(&env)
                .and_then(Value::as_array_mut)
                .expect("a list");
            entries.retain(|entry| entry["name"] != "NANOFAAS_IO_DRIVER");
        }
        assert_eq!(given, written);
    }
    let daemon = find(&objects, &installer("DaemonSet"));
    let map = &at(daemon, "/spec/template/spec/volumes/0/configMap/name");
    let made = objects
        .iter()
        .find(|object| object["kind"] == "ConfigMap")
        .expect("a ConfigMap");
    assert_eq!(made["metadata"]["name"], **map);
}
