//! These tests check the privileges of function pods, on their node and with the plane. Pods are restricted
//! unless the spec allows more, no function gets the plane's service account, and every function pod follows
//! the operator's default podTemplate.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nanofaas_testkit::client::Request;
use serde_json::{Value, json};

use crate::cluster::{
    ListedPod, NAMESPACE, accepted, apply, kubectl, kubectl_with, object, staying, try_wait, wait,
};
use crate::plane::{image, manifest, output, plane, spec};
use crate::starts::both_refused;

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// The time until a kubelet has updated a ConfigMap and the plane has replaced the pods.
const CONFIG_MAP: Duration = Duration::from_secs(180);
const JUDGED: Duration = Duration::from_secs(20);

fn root_image() -> Value {
    json!({"image": "localhost/nanofaas-test-root:1"})
}

fn both_modes() -> [&'static str; 2] {
    ["JOB", "WARM"]
}

/// Registers a function and calls it in one of the modes. Returns the function's user and privileges.
#[track_caller]
fn who(name: &str, mode: &str, more: Value) -> Value {
    let plane = plane();
    let name = format!("{name}-{}", mode.to_lowercase());
    plane.register(&spec(&name, mode, more));
    let mut who = output(plane.invoke(&name, &json!({"do": "who"})));
    println!("    {name}: {who}");
    for field in ["attempt", "pod"] {
        who.as_object_mut().expect("an object").remove(field);
    }
    who
}

/// A change of the namespace's label `ENFORCE`. Dropping this value sets the label to `restricted` again.
struct Relabelled;

impl Relabelled {
    fn to(level: &str) -> Self {
        let label = format!("{ENFORCE}={level}");
        kubectl(&["label", "--overwrite", "namespace", NAMESPACE, &label]);
        Self
    }
}

impl Drop for Relabelled {
    fn drop(&mut self) {
        let label = format!("{ENFORCE}=restricted");
        kubectl_with(
            &["label", "--overwrite", "namespace", NAMESPACE, &label],
            "",
        );
    }
}

pub(crate) fn any_image_runs_restricted_in_both_modes() {
    let path = format!("/api/v1/namespaces/{NAMESPACE}");
    let namespace = object(&path).expect("a namespace");
    assert_eq!(namespace["metadata"]["labels"][ENFORCE], "restricted");
    for mode in both_modes() {
        for (name, image) in [
            ("ours", json!({"image": image(1)})),
            ("rooted", root_image()),
        ] {
            let who = who(name, mode, image);
            assert_eq!(
                (&who["user"], &who["capabilities"], &who["noNewPrivileges"]),
                (&json!(65532), &json!(0), &json!("1")),
                "{who}"
            );
            // The kernel reports mode 2 for a process with a seccomp filter.
            assert_eq!(who["seccomp"], "2", "{who}");
        }
    }
}

pub(crate) fn root_runs_only_where_baseline_is_enforced() {
    let mut fields = root_image();
    fields["podSecurity"] = json!("baseline");
    for message in both_refused(&plane(), "root", &fields) {
        assert!(
            message.contains("violates PodSecurity \"restricted"),
            "{message}"
        );
        assert!(
            message.contains("podSecurity: baseline needs a namespace"),
            "{message}"
        );
    }
    let _relabelled = Relabelled::to("baseline");
    for mode in both_modes() {
        let who = who("roots", mode, fields.clone());
        assert_eq!(
            (&who["user"], &who["seccomp"]),
            (&json!(0), &json!("2")),
            "{who}"
        );
        assert_ne!(who["capabilities"], 0, "{who}");
    }
}

pub(crate) fn a_template_against_restricted_says_what_to_do() {
    let plane = plane();
    // The API server does not know the user of an image, so it accepts this pod, and the kubelet refuses it.
    let mut fields = root_image();
    fields["podTemplate"] = json!({"spec": {"securityContext": {"runAsUser": null}}});
    for message in both_refused(&plane, "imaged", &fields) {
        assert!(message.contains("runAsNonRoot"), "{message}");
        assert!(message.contains("set podSecurity: baseline"), "{message}");
    }
    let fields = json!({"podTemplate": {"spec": {"hostNetwork": true}}});
    for message in both_refused(&plane, "hosted", &fields) {
        assert!(message.contains("violates PodSecurity"), "{message}");
        assert!(
            message.contains("take it out of the podTemplate"),
            "{message}"
        );
    }
    // The first command of this program needs the rights of root, but the pod runs as another user.
    let command = json!([
        "sh",
        "-c",
        "echo > /usr/mine && exec python3 -m nanofaas_runtime"
    ]);
    let fields = json!({"command": command, "retryOn": []});
    let name = "writes";
    plane.register(&spec(name, "WARM", fields));
    let message = crate::starts::refused(&plane, name);
    assert!(message.contains("Permission denied"), "{message}");
    assert!(message.contains("the pod runs as user 65532"), "{message}");
}

pub(crate) fn only_the_planes_account_is_refused() {
    let plane = plane();
    let with = |account: &str| {
        let spec = json!({"serviceAccountName": account, "automountServiceAccountToken": true});
        json!({"podTemplate": {"spec": spec}})
    };
    let field = "podTemplate.spec.serviceAccountName";
    let body = spec("thief", "JOB", with("nanofaas"));
    let answer = plane.send(&Request::new("POST", "/v1/functions").json(&body));
    let body = answer.expect_error(400, "VALIDATION_ERROR").text();
    assert!(body.contains(field), "{body}");
    assert!(body.contains("own service account"), "{body}");
    apply(&manifest("thief", "WARM", with("nanofaas"))).expect("the schema takes it");
    let (status, message) = wait("the spec is accepted or rejected", JUDGED, || {
        accepted("thief")
    });
    assert_eq!(status, "False", "{message}");
    assert!(message.contains(field), "{message}");
    assert!(staying("thief").is_empty());
    let other = who("lent", "JOB", with("default"));
    assert_eq!(other["user"], 65532, "{other}");
}

/// The operator's ConfigMap exists until this value is dropped.
struct DefaultTemplate;

impl DefaultTemplate {
    #[track_caller]
    fn set(template: &Value) -> Self {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "nanofaas-pod-template", "namespace": NAMESPACE},
            "data": {"podTemplate.yaml": template.to_string()},
        });
        apply(&map).expect("a ConfigMap");
        hasten();
        Self
    }
}

impl Drop for DefaultTemplate {
    fn drop(&mut self) {
        let delete = [
            "-n",
            NAMESPACE,
            "delete",
            "configmap",
            "nanofaas-pod-template",
        ];
        kubectl_with(&delete, "");
        hasten();
    }
}

/// Changes an annotation of the plane's pod. A kubelet updates the ConfigMaps of a changed pod at once, and
/// those of other pods within a minute.
fn hasten() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let annotation = format!("hastened={}", now.expect("a time").as_millis());
    let pods = "app.kubernetes.io/component=control-plane";
    let annotate = [
        "-n",
        NAMESPACE,
        "annotate",
        "--overwrite",
        "pods",
        "-l",
        pods,
    ];
    kubectl_with(&[&annotate[..], &[&annotation]].concat(), "");
}

/// Waits until a function has one pod that stays and accepts calls, with this value of the label `site`.
#[track_caller]
fn only_pod(function: &str, site: Option<&str>) -> ListedPod {
    let what = format!("{function} has one pod of the site {site:?}");
    wait(&what, CONFIG_MAP, || {
        let mut pods = staying(function);
        let pod = pods.pop().filter(|_| pods.is_empty())?;
        let shown = pod.object["metadata"]["labels"]["site"].as_str();
        (shown == site && pod.ready).then_some(pod)
    })
}

pub(crate) fn a_default_template_goes_below_the_functions_own() {
    let plane = plane();
    let own = json!({"metadata": {"labels": {"team": "own"}}});
    plane.register(&spec("templated", "WARM", json!({"podTemplate": own})));
    let before = only_pod("templated", None);
    let container = json!({"name": "function", "env": [{"name": "FROM_DEFAULT", "value": "yes"}]});
    let template = json!({
        "metadata": {"labels": {"site": "here", "team": "all"}},
        "spec": {"containers": [container]},
    });
    let set = DefaultTemplate::set(&template);
    let pod = only_pod("templated", Some("here"));
    assert_ne!(pod.uid, before.uid, "it was replaced");
    assert_eq!(pod.object["metadata"]["labels"]["team"], "own");
    assert_eq!(pod.env("FROM_DEFAULT"), Some("yes"));
    output(plane.invoke("templated", &json!({"do": "echo"})));
    drop(set);
    // The ConfigMap is deleted, so a pod without the default template must replace the pod that has it.
    only_pod("templated", None);
    plane.expect_no_drift();
}

pub(crate) fn an_invalid_template_file_stops_the_start() {
    let file = std::env::temp_dir().join(format!("no-template-{}.yaml", std::process::id()));
    std::fs::write(&file, "spec: {nodeSelectr: {disk: ssd}}\n").expect("written");
    let said = start_with(&file);
    std::fs::remove_file(&file).expect("removed");
    assert!(said.contains(&file.display().to_string()), "{said}");
    assert!(
        said.contains("no field is called spec.nodeSelectr"),
        "{said}"
    );
    let nowhere = Path::new("/there/is/no/such/folder/podTemplate.yaml");
    let said = start_with(nowhere);
    assert!(said.contains("is in a folder that is not there"), "{said}");
}

/// Starts a plane on this machine with a default template that it must refuse. Returns its output.
#[track_caller]
fn start_with(file: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nanofaas"));
    let mut child = command
        .args(["serve", "--backend", "kubernetes", "--namespace", "default"])
        .args(["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"])
        .args(["--callback-url", "http://127.0.0.1:1", "--pod-template"])
        .arg(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let ended = try_wait(JUDGED, || child.try_wait().expect("it is ours"));
    // A plane that accepted the template does not exit, so it is killed here.
    let _ = child.kill();
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "{said}");
    said
}
