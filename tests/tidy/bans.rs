//! A crate with a `clippy.toml` of its own must repeat the bans in the workspace's `clippy.toml`, because
//! clippy reads only the nearest file.

use crate::{files, read};

#[test]
fn a_crate_forbids_what_the_workspace_does() {
    let bans = |text: String| -> Vec<String> {
        let lines = text.lines().filter(|line| line.contains("path ="));
        lines.map(|line| line.trim().to_owned()).collect()
    };
    let everywhere = bans(read("clippy.toml"));
    assert!(!everywhere.is_empty(), "nothing is forbidden");
    let mut missing = Vec::new();
    for file in files("", "toml") {
        if file.file_name().is_some_and(|name| name == "clippy.toml") {
            let here = bans(read(&file));
            for ban in everywhere.iter().filter(|ban| !here.contains(ban)) {
                missing.push(format!("{}: {ban}", file.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
