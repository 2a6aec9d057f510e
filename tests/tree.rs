//! Which packages may depend on which others: the "never" column of ARCHITECTURE.md, checked by
//! `cargo tree`.

use std::process::Command;

fn tree(package: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-e",
            "normal",
            "--prefix",
            "none",
            "-p",
            package,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

fn has(tree: &str, package: &str) -> bool {
    tree.lines()
        .any(|line| line.split(' ').next() == Some(package))
}

#[test]
fn each_package_knows_only_what_it_may() {
    let rules: [(&str, &[&str], &[&str]); 12] = [
        (
            "nanofaas-core",
            &["serde", "thiserror"],
            &["tokio", "nix", "rustix", "monoio", "kube"],
        ),
        (
            "nanofaas-http1",
            &["httparse", "memchr"],
            &["nanofaas-core", "tokio", "nix", "rustix", "monoio", "serde"],
        ),
        (
            "nanofaas-io",
            &["monoio", "rustix", "nanofaas-core", "nanofaas-http1"],
            &["tokio", "kube", "axum"],
        ),
        (
            "nanofaas-backend",
            &["tokio", "nanofaas-core"],
            &["nanofaas-io", "nanofaas-k8s-bridge", "kube", "nix"],
        ),
        (
            "nanofaas-local-bridge",
            &["tokio", "nanofaas-backend"],
            &["nanofaas-io", "monoio", "kube", "axum"],
        ),
        (
            "nanofaas-k8s-bridge",
            &["tokio", "kube", "nanofaas-backend"],
            &["nanofaas-io", "monoio", "nanofaas-local-bridge", "axum"],
        ),
        (
            "nanofaas-runtime",
            &["tokio", "nanofaas-http1"],
            &["nanofaas-core", "nanofaas-io"],
        ),
        (
            // The simulator plays everything except the decisions, which core makes.
            "nanofaas-simulate",
            &["csv", "nanofaas-core", "nanofaas-plot"],
            &["nanofaas-io", "tokio", "nix", "rustix", "kube"],
        ),
        (
            "nanofaas-plot",
            &["nanofaas-plot"],
            &["nanofaas-core", "serde"],
        ),
        (
            // Without our crates, because the load test measures other platforms in the same way.
            "nanofaas-loadtest",
            &["hdrhistogram"],
            &[
                "nanofaas-core",
                "nanofaas-io",
                "nanofaas-runtime",
                "nanofaas",
                "tokio",
            ],
        ),
        (
            // Without our crates, because a test judges them with it.
            "nanofaas-testkit",
            &["serde_json", "nix"],
            &["nanofaas-core", "nanofaas-io", "nanofaas-runtime", "tokio"],
        ),
        (
            // Without our crates, because the fake API server follows the documentation of
            // Kubernetes and not our bridge.
            "nanofaas-fake-api-server",
            &["serde_json", "tokio"],
            &[
                "nanofaas-core",
                "nanofaas-k8s-bridge",
                "kube",
                "k8s-openapi",
            ],
        ),
    ];
    for (package, needs, never) in rules {
        let tree = tree(package);
        // If a dependency that must be there is missing, the output was parsed wrongly.
        for one in needs {
            assert!(has(&tree, one), "{package} should know {one}:\n{tree}");
        }
        for one in never {
            assert!(!has(&tree, one), "{package} must not know {one}:\n{tree}");
        }
    }
}
