//! These tests try the example on the installed platform, as a new user does.

use std::path::Path;
use std::time::Duration;

use nanofaas_testkit::client::Request;
use serde_json::json;

use crate::cluster::{kubectl, object, shown, until, wait};
use crate::plane::{output, plane, service};

/// The time that a pod's start may take on a busy machine.
const START: Duration = Duration::from_secs(60);

fn apply_example() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s/example.yaml");
    kubectl(&["apply", "-f", &example.display().to_string()]);
    let plane = plane();
    until("the API has the example", Duration::from_secs(10), || {
        plane.get("/v1/functions/word-stats").status == 200
    });
}

/// A pod outside the platform that calls a function. Dropping this value removes the pod.
struct Caller;

impl Caller {
    fn run(program: &str) -> Self {
        let caller = Self;
        caller.remove();
        let image = "--image=localhost/word-stats:1";
        let (pull, once) = ("--image-pull-policy=IfNotPresent", "--restart=Never");
        let run = ["-n", "default", "run", "nanofaas-caller", image, pull, once];
        let command = ["--command", "--", "python3", "-c", program];
        kubectl(&[&run[..], &command[..]].concat());
        caller
    }

    fn remove(&self) {
        let name = "nanofaas-caller";
        let delete = ["-n", "default", "delete", "pod", name, "--ignore-not-found"];
        kubectl(&[&delete[..], &["--grace-period=0", "--force"]].concat());
    }

    fn said(&self) -> String {
        wait("the caller's pod is done", START, || {
            let pod = object("/api/v1/namespaces/default/pods/nanofaas-caller")?;
            matches!(
                pod["status"]["phase"].as_str(),
                Some("Succeeded" | "Failed")
            )
            .then_some(())
        });
        kubectl(&["-n", "default", "logs", "nanofaas-caller"])
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.remove();
    }
}

pub(crate) fn an_example_answers_the_node_and_a_pod() {
    apply_example();
    let input = json!({"text": "the cat saw the other cat", "topN": 1});
    let answer = Request::invoke("word-stats", &input).send(service());
    let counted = output(answer);
    assert_eq!(counted["wordCount"], 6, "{counted}");
    assert_eq!(counted["topWords"], json!([{"word": "cat", "count": 2}]));
    let url = format!("http://{}/v1/functions/word-stats:invoke", service());
    let program = format!(
        "import urllib.request as r\n\
         q = r.Request('{url}', b'{{\"input\":{{\"text\":\"one two two\"}}}}',\n\
         {{'Content-Type': 'application/json'}})\n\
         print(r.urlopen(q, timeout=30).read().decode())"
    );
    let said = Caller::run(&program).said();
    let body: serde_json::Value = serde_json::from_str(&said).expect(&said);
    assert_eq!(body["status"], "success", "{body}");
    assert_eq!(body["output"]["topWords"][0]["word"], "two", "{body}");
}

pub(crate) fn kubectl_shows_mode_readiness_and_pods() {
    apply_example();
    until("kubectl shows a ready pod", START, || {
        shown("word-stats", "READY") == "True" && shown("word-stats", "PODS") == "1"
    });
    assert_eq!(shown("word-stats", "MODE"), "WARM");
}
