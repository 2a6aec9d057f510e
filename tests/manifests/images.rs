//! These tests check the container files: all have the same version and no root user, and the build context
//! has every file that they copy.

use crate::files::{document, names, path, text};

const PLATFORM: [&str; 3] = ["nanofaas", "nanofaas-python", "nanofaas-watchdog"];

fn functions() -> Vec<String> {
    names("functions")
}

fn container_files() -> Vec<String> {
    let own = names("k8s/images")
        .into_iter()
        .filter(|name| name.ends_with(".Dockerfile"));
    let own = own.map(|name| format!("k8s/images/{name}"));
    let of_functions = functions()
        .into_iter()
        .map(|name| format!("functions/{name}/Dockerfile"));
    own.chain(of_functions).collect()
}

/// Returns the arguments of each occurrence of an instruction.
fn instructions<'a>(file: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("{name} ");
    file.lines()
        .filter_map(|line| line.strip_prefix(start.as_str()))
        .collect()
}

#[test]
fn every_image_has_the_packages_version() {
    let mut files = container_files();
    files.extend(
        [
            "k8s/base/deployment.yaml",
            "k8s/overlays/io-uring/seccomp-installer.yaml",
        ]
        .map(str::to_owned),
    );
    let mut found = 0;
    for file in files {
        for mention in text(&file).split("localhost/").skip(1) {
            let image = mention.split_whitespace().next().unwrap_or_default();
            let (name, tag) = image.split_once(':').unwrap_or((image, ""));
            assert!(PLATFORM.contains(&name), "{file}: {image}");
            assert_eq!(tag, env!("CARGO_PKG_VERSION"), "{file}: {image}");
            found += 1;
        }
    }
    assert!(found >= 6, "only {found} mentions were found");
    let line = format!("version={}\n", env!("CARGO_PKG_VERSION"));
    assert!(
        text("k8s/images/build").contains(&line),
        "k8s/images/build: no {line}"
    );
}

#[test]
fn every_function_has_its_own_image() {
    for name in functions() {
        assert!(
            path(&format!("functions/{name}/Dockerfile")).is_file(),
            "{name}"
        );
        let function = document(&format!("functions/{name}/function.yaml"));
        assert_eq!(function["spec"]["image"], format!("localhost/{name}:1"));
        // `k8s/images/build` reads the image's name without a YAML parser, so the name is on a line of its
        // own.
        let line = format!("\n  image: localhost/{name}:1\n");
        assert!(
            text(&format!("functions/{name}/function.yaml")).contains(&line),
            "{name}"
        );
    }
}

#[test]
fn no_image_runs_as_root() {
    for file in container_files() {
        let text = text(&file);
        let bases = instructions(&text, "FROM");
        assert_eq!(bases.len(), 1, "{file}");
        let inherits = bases[0].starts_with("localhost/nanofaas-");
        match instructions(&text, "USER").last() {
            // The kubelet cannot check a user's name for runAsNonRoot, so the user is a number.
            Some(user) => assert_eq!(*user, "65532:65532", "{file}"),
            None => assert!(inherits, "{file} runs as root"),
        }
    }
}

#[test]
fn the_build_context_has_only_what_is_copied() {
    let ignore = text(".dockerignore");
    assert!(
        ignore.lines().any(|line| line == "*"),
        ".dockerignore must first exclude everything"
    );
    let kept = instructions(&ignore.replace('!', "! "), "!").join("\n");
    for file in container_files() {
        for copied in instructions(&text(&file), "COPY") {
            let source = copied.split(' ').next().unwrap_or_default();
            let in_context = kept
                .lines()
                .any(|kept| source == kept || source.starts_with(&format!("{kept}/")));
            assert!(in_context, "{file}: .dockerignore leaves {source} out");
            if !source.starts_with("target/") {
                assert!(path(source).exists(), "{file}: no {source}");
            }
        }
    }
    for kept in kept.lines().filter(|kept| kept.starts_with("target")) {
        assert!(kept.starts_with("target/release/"), "{kept} is large");
    }
}
