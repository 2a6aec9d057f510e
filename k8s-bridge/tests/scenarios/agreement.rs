//! Makes a control plane with functions and pods, and checks that its function table, its pods and the
//! cluster agree. Tests of a failing API server use this check at their end.

use nanofaas_fake_api_server::name_of;
use nanofaas_fake_api_server::script::Which;
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::{Value, json};

use crate::fixture::{ClusterFixture, object, pass, until, warm};

pub(crate) const WATCHES: Which = Which {
    verb: Some("watch"),
    resource: None,
};
pub(crate) const LISTS: Which = Which {
    verb: Some("list"),
    resource: None,
};

pub(crate) fn wanting(name: &str, pods: u32) -> Value {
    let mut spec = warm(name);
    spec["scalingConfig"]["minReplicas"] = json!(pods);
    spec
}

pub(crate) fn pods_of(server: &FakeApiServer, function: &str) -> Vec<Value> {
    let all = server.objects("pods").into_iter();
    let of = all.filter(|pod| pod["metadata"]["labels"]["nanofaas.io/function"] == function);
    of.collect()
}

/// Makes a control plane with three functions: `a` has one pod, `b` has two, and `c` has none.
pub(crate) async fn busy(server: &FakeApiServer) -> ClusterFixture {
    for spec in [wanting("a", 1), wanting("b", 2), warm("c")] {
        server.create("functions", object(spec));
    }
    let mut fixture = ClusterFixture::scheduled(server);
    fixture.ready().await;
    agree(&fixture, &[("a", 1), ("b", 2), ("c", 0)]).await;
    fixture
}

/// Returns true if the cluster has exactly the wanted functions and their numbers of running pods, and the
/// function table has the same functions.
fn is_agreed(fixture: &ClusterFixture, wanted: &[(&str, usize)]) -> bool {
    let server = &fixture.server;
    let functions = server.objects("functions");
    let there: Vec<(String, String)> = functions
        .iter()
        .map(|one| {
            let image = one["spec"]["image"].as_str().unwrap_or_default();
            (name_of(one).to_owned(), image.to_owned())
        })
        .collect();
    let names: Vec<&str> = there.iter().map(|(name, _)| &**name).collect();
    let wanted_names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let has_pods = wanted.iter().all(|(name, count)| {
        let pods = pods_of(server, name);
        let image = there
            .iter()
            .find(|(of, _)| of == name)
            .map(|(_, image)| &**image);
        let is_sound = |pod: &Value| {
            pod["status"]["phase"] == "Running"
                && pod["metadata"]["deletionTimestamp"].is_null()
                && pod["spec"]["containers"][0]["image"].as_str() == image
        };
        pods.len() == *count && pods.iter().all(is_sound)
    });
    let count = wanted.iter().map(|(_, count)| count).sum::<usize>();
    has_pods
        && names == wanted_names
        && fixture.table() == there
        && server.names("pods").len() == count
}

/// Waits until table and cluster agree, and checks that they still agree during the next 10 s.
pub(crate) async fn agree(fixture: &ClusterFixture, wanted: &[(&str, usize)]) {
    until("table and cluster agree", || is_agreed(fixture, wanted)).await;
    for _ in 0..20 {
        pass(0.5).await;
        assert!(is_agreed(fixture, wanted), "they agree no more");
    }
}

/// Changes functions and pods of the cluster. The callers make sure that the control plane does not see these
/// changes at once.
pub(crate) async fn meanwhile(server: &FakeApiServer) {
    server.remove("functions", "c");
    server.create("functions", object(wanting("d", 1)));
    server.edit("functions", "a", |there| {
        there["spec"]["image"] = json!("i:2")
    });
    let pods = pods_of(server, "b");
    server.remove("pods", name_of(&pods[0]));
    pass(0.1).await;
}

pub(crate) const AFTERWARDS: [(&str, usize); 3] = [("a", 1), ("b", 2), ("d", 1)];
