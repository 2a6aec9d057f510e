//! Every `Cargo.toml` uses the workspace's lints and the workspace's exact versions. Only four files have
//! unsafe code.

use std::path::PathBuf;

use crate::{files, read};

/// The files with unsafe code, and why safe code is not possible.
const UNSAFE: [(&str, &str); 4] = [
    (
        "core/src/ring.rs",
        "a slot is memory that a stamp hands from one thread to another",
    ),
    (
        "local-bridge/src/guard.rs",
        "std has no other way to a system call between fork and exec",
    ),
    (
        "runtime/src/unix_stream.rs",
        "a descriptor that is inherited becomes a stream",
    ),
    (
        "src/allocator.rs",
        "mimalloc's crate has no safe name for a setting",
    ),
];

fn manifests() -> Vec<PathBuf> {
    let mut found = files("", "toml");
    found.retain(|file| file.file_name().is_some_and(|name| name == "Cargo.toml"));
    found
}

#[test]
fn unsafe_code_is_where_it_has_to_be() {
    assert!(read("Cargo.toml").contains("unsafe_code = \"deny\""));
    let mut found = Vec::new();
    for file in files("", "rs") {
        let path = file.to_string_lossy().into_owned();
        let allows = |line: &str| {
            let mut words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            words.any(|word| word == "unsafe_code") && !line.contains('"')
        };
        let text = read(&file);
        let says = text.contains("allow(") || text.contains("expect(");
        if says
            && text
                .lines()
                .any(|line| allows(line.split("reason").next().unwrap_or(line)))
        {
            found.push(path);
        }
    }
    let listed: Vec<&str> = UNSAFE.iter().map(|(file, _)| *file).collect();
    assert_eq!(found, listed, "files that allow unsafe code");
}

#[test]
fn a_package_takes_the_workspaces_lints_and_versions() {
    let mut wrong = Vec::new();
    for file in manifests() {
        let text = read(&file);
        if !text.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{}: [lints] workspace = true", file.display()));
        }
        let mut section = "";
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let is_workspaces = section == "[workspace.dependencies]";
            let names = section.ends_with("dependencies]") && line.contains(" = ");
            let is_exact = line.contains("\"=") || line.contains("path =");
            let is_taken = line.contains("workspace = true");
            if names && !if is_workspaces { is_exact } else { is_taken } {
                wrong.push(format!("{}: {line}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
