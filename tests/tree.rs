//! This test checks with `cargo tree` which packages depend on which others. Its rules are the "never" column
//! of ARCHITECTURE.md.

use std::collections::BTreeSet;
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

/// Returns the other packages of this workspace that are in the tree of `package`, by their names without the
/// prefix `nanofaas-`.
fn ours<'a>(tree: &'a str, package: &str) -> BTreeSet<&'a str> {
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let ours = names.filter_map(|name| name.strip_prefix("nanofaas-"));
    ours.filter(|name| *name != package).collect()
}

/// What a package may depend on and what it needs.
struct Rule {
    package: &'static str,
    /// The packages of this workspace on which the package depends, directly or not.
    ours: &'static [&'static str],
    /// Packages on which the package must depend. They show that the output of `cargo tree` is parsed
    /// correctly.
    needs: &'static [&'static str],
    never: &'static [&'static str],
}

const RULES: [Rule; 13] = [
    Rule {
        package: "core",
        ours: &[],
        needs: &["serde", "thiserror"],
        never: &["tokio", "nix", "rustix", "monoio", "kube"],
    },
    Rule {
        package: "http1",
        ours: &[],
        needs: &["httparse", "memchr"],
        never: &["tokio", "nix", "rustix", "monoio", "serde"],
    },
    Rule {
        package: "io",
        ours: &["core", "http1"],
        needs: &["monoio", "rustix"],
        never: &["tokio", "kube", "axum"],
    },
    Rule {
        package: "backend",
        ours: &["core"],
        needs: &["tokio"],
        never: &["kube", "nix"],
    },
    Rule {
        package: "local-bridge",
        ours: &["backend", "core"],
        needs: &["tokio"],
        never: &["monoio", "kube", "axum"],
    },
    Rule {
        package: "k8s-bridge",
        ours: &["backend", "core"],
        needs: &["tokio", "kube"],
        never: &["monoio", "axum"],
    },
    Rule {
        package: "runtime",
        ours: &["http1"],
        needs: &["tokio"],
        never: &["monoio", "kube", "axum"],
    },
    // The simulator depends on core, because core makes the decisions and the simulator simulates everything
    // else.
    Rule {
        package: "simulate",
        ours: &["core", "plot"],
        needs: &["csv"],
        never: &["tokio", "nix", "rustix", "kube"],
    },
    Rule {
        package: "plot",
        ours: &[],
        needs: &["nanofaas-plot"],
        never: &["serde"],
    },
    // The load test measures other platforms in the same way, so it depends on no crate of the product.
    Rule {
        package: "loadtest",
        ours: &["plot"],
        needs: &["hdrhistogram"],
        never: &["tokio"],
    },
    Rule {
        package: "fuzz",
        ours: &["core", "http1", "io"],
        needs: &["httparse"],
        never: &["tokio", "kube"],
    },
    // Tests judge the product with the testkit, so it depends on no crate of the product.
    Rule {
        package: "testkit",
        ours: &[],
        needs: &["serde_json", "nix"],
        never: &["tokio"],
    },
    // The fake API server follows the documentation of Kubernetes and not our bridge, so it depends on no
    // crate of the product.
    Rule {
        package: "fake-api-server",
        ours: &[],
        needs: &["serde_json", "tokio"],
        never: &["kube", "k8s-openapi"],
    },
];

#[test]
fn each_package_knows_only_what_it_may() {
    for rule in &RULES {
        let package = rule.package;
        let tree = tree(&format!("nanofaas-{package}"));
        for one in rule.needs {
            assert!(has(&tree, one), "{package} should know {one}:\n{tree}");
        }
        for one in rule.never {
            assert!(!has(&tree, one), "{package} must not know {one}:\n{tree}");
        }
        let allowed: BTreeSet<&str> = rule.ours.iter().copied().collect();
        assert_eq!(
            ours(&tree, package),
            allowed,
            "the packages of ours that {package} knows"
        );
    }
}
