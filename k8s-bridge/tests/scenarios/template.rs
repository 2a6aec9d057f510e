//! Tests of the default podTemplate: every pod gets the fields of the template, and changes of the template's
//! file take effect. Neither the default template nor a function's own template may use the control plane's
//! service account.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use nanofaas_core::message::{BridgeError, Reply};
use nanofaas_fake_api_server::kubelet::Fate;
use nanofaas_fake_api_server::script::{of, refuse};
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::attempt::{call, ended, start};
use crate::fixture::{ClusterFixture, object, pass, scenario, until, warm};
use crate::rings::OWN_ACCOUNT;
use crate::status::status;

/// A file that is removed at the end of its test.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        static FILES: AtomicU32 = AtomicU32::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let name = format!("pod-template-{}-{number}", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).expect("written");
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn site(name: &str) -> String {
    format!("metadata:\n  labels: {{site: {name}, team: all}}\n")
}

/// Returns the names of the pods that run, are not being deleted, and have this `site` label.
fn of_site(server: &FakeApiServer, site: &str) -> Vec<String> {
    let all = server.objects("pods").into_iter();
    let mut pods: Vec<_> = all
        .filter(|pod| {
            pod["status"]["phase"] == "Running"
                && pod["metadata"]["deletionTimestamp"].is_null()
                && pod["metadata"]["labels"]["site"] == site
        })
        .map(|pod| pod["metadata"]["name"].to_string())
        .collect();
    pods.sort();
    pods
}

async fn with_pods(server: &FakeApiServer, file: &File) -> ClusterFixture {
    let mut spec = warm("f");
    spec["scalingConfig"]["minReplicas"] = json!(2);
    spec["podTemplate"] = json!({"metadata": {"labels": {"team": "own"}}});
    server.create("functions", object(spec));
    let mut fixture = ClusterFixture::scheduled(server);
    fixture.pod_template = Some(file.0.clone());
    fixture.ready().await;
    until("they run", || of_site(server, "a").len() == 2).await;
    fixture
}

#[test]
fn only_a_valid_change_replaces_pods() {
    scenario(|server| async move {
        let file = File::new(&site("a"));
        let _bench = with_pods(&server, &file).await;
        let first = server.names("pods");
        for name in &first {
            let pod = server.get("pods", name).expect("a pod");
            assert_eq!(pod["metadata"]["labels"]["team"], "own");
        }
        file.write("spec: {serviceAccountName: plane-account}");
        pass(30.0).await;
        file.write("spec: [no");
        pass(30.0).await;
        assert_eq!(server.names("pods"), first);
        file.write(&site("b"));
        until("all are new", || {
            let (old, new) = (of_site(&server, "a"), of_site(&server, "b"));
            assert!(old.len() + new.len() >= 2, "the new one comes first");
            new.len() == 2 && server.names("pods").len() == 2
        })
        .await;
        pass(30.0).await;
        assert_eq!(server.ever("pods"), 4);
    });
}

#[test]
fn a_successor_replaces_pods_of_another_template_alone() {
    scenario(|server| async move {
        let file = File::new(&site("a"));
        let mut fixture = with_pods(&server, &file).await;
        fixture.end();
        fixture.begin();
        pass(30.0).await;
        assert_eq!(server.ever("pods"), 2, "they are its own");
        fixture.end();
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.pod_template = Some(file.0.clone());
        fixture.ready().await;
        pass(30.0).await;
        assert_eq!(server.ever("pods"), 2, "they are adopted");
        fixture.end();
        file.write(&site("b"));
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.pod_template = Some(file.0.clone());
        fixture.ready().await;
        until("all are new", || {
            of_site(&server, "b").len() == 2 && server.names("pods").len() == 2
        })
        .await;
    });
}

#[test]
fn adoption_after_a_wait_uses_todays_template() {
    scenario(|server| async move {
        let file = File::new(&site("a"));
        let mut first = with_pods(&server, &file).await;
        let mut second = ClusterFixture::scheduled(&server).named("second");
        second.pod_template = Some(file.0.clone());
        second.begin();
        pass(5.0).await;
        file.write(&site("b"));
        until("all are new", || of_site(&server, "b").len() == 2).await;
        pass(30.0).await;
        assert_eq!(server.ever("pods"), 4);
        first.end();
        until("the second one acts", || second.is_ready()).await;
        pass(30.0).await;
        assert_eq!(
            server.ever("pods"),
            4,
            "pods of the template that holds stay"
        );
    });
}

#[test]
fn only_an_invalid_file_stops_the_start() {
    scenario(|server| async move {
        let file = File::new("spec: {serviceAccount: plane-account}");
        let mut fixture = ClusterFixture::new(&server);
        fixture.pod_template = Some(file.0.clone());
        let refusal = fixture.refusal().await;
        let path = file.0.display().to_string();
        assert!(refusal.contains(&path), "{refusal}");
        assert!(refusal.contains("spec.serviceAccount: must not be"));
        // In another namespace, the account of that name is another account, so the template is allowed.
        let mut elsewhere = ClusterFixture::new(&server).at_home_in("elsewhere");
        elsewhere.pod_template = Some(file.0.clone());
        elsewhere.ready().await;
        elsewhere.end();
        fixture.pod_template = Some(std::env::temp_dir().join("there-is-no-such-pod-template"));
        fixture.ready().await;
    });
}

#[test]
fn a_function_may_not_take_the_planes_account() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let mut spec = warm("thief");
        spec["podTemplate"] = json!({"spec": {"serviceAccountName": OWN_ACCOUNT}});
        let Reply::Refused(BridgeError::Invalid(faults)) =
            fixture.register(spec.clone(), false).await
        else {
            panic!("it is taken");
        };
        let field = "podTemplate.spec.serviceAccountName";
        assert_eq!(faults[0].field, field);
        assert_eq!(server.get("functions", "thief"), None);
        // The same spec from `kubectl` is rejected too, and the condition gives the reason.
        server.create("functions", object(spec));
        let condition = || -> Option<Value> {
            let function = server.get("functions", "thief")?;
            Some(function["status"]["conditions"][0].clone())
        };
        until("it is judged", || {
            condition().is_some_and(|condition| condition["status"] == "False")
        })
        .await;
        let condition = condition().expect("a condition");
        let message = condition["message"].as_str().unwrap_or_default();
        assert!(message.contains(field), "{condition}");
        assert!(!fixture.knows("thief", "i:1"));
    });
}

#[test]
fn a_start_without_rights_names_the_remedy() {
    const WHY: &str = "container has runAsNonRoot and image will run as root";
    scenario(|server| async move {
        let mut fixture = ClusterFixture::acting(&server).await;
        let function = fixture.warm("f").await;
        let fate = Fate::Waits("CreateContainerConfigError", WHY);
        server.kubelet().next(fate);
        let pod = fixture.start(&function);
        let failure = fixture.failure(pod).await;
        assert!(failure.message.contains(WHY), "{}", failure.message);
        let advice = "set podSecurity: baseline";
        assert!(failure.message.contains(advice), "{}", failure.message);
    });
}

fn with_template(template: &Value) -> Value {
    let mut spec = warm("f");
    spec["podTemplate"] = template.clone();
    spec["scalingConfig"]["minReplicas"] = json!(1);
    spec
}

#[test]
fn an_impossible_template_harms_no_other_function() {
    scenario(|server| async move {
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.ready().await;
        for (template, why) in [
            (json!({"spec": "x"}), "invalid type"),
            (json!({"spec": []}), "invalid type"),
            (json!({"spec": 5}), "invalid type"),
            (json!({"metadata": []}), "invalid type"),
            (json!({"sepc": {}}), "it has sepc"),
            (
                json!({"spec": {"nodeSelectr": {"a": "b"}}}),
                "no field is called spec.nodeSelectr",
            ),
            (
                json!({"spec": {"tolerations": [{"opertor": "Exists"}]}}),
                "tolerations[0].opertor",
            ),
        ] {
            let spec = with_template(&template);
            match fixture.register(spec.clone(), true).await {
                Reply::Refused(BridgeError::Invalid(faults)) => {
                    let said = faults[0].to_string();
                    assert!(
                        said.starts_with("podTemplate: ") && said.contains(why),
                        "{said}"
                    );
                }
                _ => panic!("{template} was taken"),
            }
            // The same spec is rejected too if it is created with `kubectl`.
            server.create("functions", object(spec));
            until("it is judged", || {
                let object = server.get("functions", "f").expect("there");
                object["status"]["conditions"][0]["status"] == "False"
            })
            .await;
            server.remove("functions", "f");
        }
        server.create("functions", object(warm_floor("g")));
        until("another one has its pod", || {
            server
                .names("pods")
                .iter()
                .any(|name| name.starts_with("fn-g-"))
        })
        .await;
    });
}

fn warm_floor(name: &str) -> Value {
    let mut spec = warm(name);
    spec["scalingConfig"]["minReplicas"] = json!(1);
    spec
}

#[test]
fn the_default_mounts_stay_below_a_functions_own() {
    scenario(|server| async move {
        let file = File::new(
            "spec:\n  volumes: [{name: v, emptyDir: {}}]\n  containers:\n  - name: function\n    \
             volumeMounts: [{name: v, mountPath: /a}, {name: v, mountPath: /b}]\n",
        );
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.pod_template = Some(file.0.clone());
        fixture.ready().await;
        let mounts = json!([{"name": "v", "mountPath": "/b", "readOnly": true},
            {"name": "v", "mountPath": "/c"}]);
        let container = json!({"name": "function", "volumeMounts": mounts});
        let spec = with_template(&json!({"spec": {"containers": [container]}}));
        server.create("functions", object(spec));
        until("its pod is made", || server.names("pods").len() == 1).await;
        let pod = server.get("pods", &server.names("pods")[0]).expect("there");
        let made = &pod["spec"]["containers"][0]["volumeMounts"];
        let paths: Vec<_> = made.as_array().expect("a list").iter().collect();
        assert_eq!(paths.len(), 3, "{made}");
        assert_eq!(made[0]["mountPath"], "/a");
        assert_eq!(
            (&made[1]["mountPath"], &made[1]["readOnly"]),
            (&json!("/b"), &json!(true))
        );
    });
}

#[test]
fn two_templates_cannot_take_the_account_together() {
    scenario(|server| async move {
        // Each template is valid alone. The function's template removes the account that the default template
        // names. Pods would then run as `default`, which is the control plane's own account.
        let file =
            File::new("spec: {serviceAccountName: mine, automountServiceAccountToken: true}");
        let mut fixture = ClusterFixture::scheduled(&server).under("default");
        fixture.pod_template = Some(file.0.clone());
        fixture.ready().await;
        let spec = with_template(&json!({"spec": {"serviceAccountName": null}}));
        server.create("functions", object(spec));
        until("its start fails", || {
            status(&server, "f")["lastFailedStart"]["reason"] == "Config"
        })
        .await;
        let message = status(&server, "f")["lastFailedStart"]["message"].to_string();
        assert!(message.contains("own service account"), "{message}");
        assert_eq!(server.ever("pods"), 0);
    });
}

#[test]
fn a_mended_default_template_makes_functions_ready() {
    scenario(|server| async move {
        let file = File::new("spec: {priorityClassName: absent}");
        let mut fixture = ClusterFixture::scheduled(&server);
        fixture.pod_template = Some(file.0.clone());
        server.create("functions", object(json!({"name": "j", "image": "i:1"})));
        fixture.ready().await;
        let why = "no PriorityClass with name absent was found";
        server.script(of("create", "jobs"), 1, refuse(403, "Forbidden", why));
        start(&fixture, &fixture.function("j"), call(1));
        ended(&fixture, call(1)).await;
        let is_ready = || status(&server, "j")["conditions"][1]["status"] == "True";
        until("it is not ready", || !is_ready()).await;
        file.write("spec: {priorityClassName: present}");
        until("it is ready", is_ready).await;
    });
}
