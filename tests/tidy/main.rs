//! These tests check rules for the repository's files. The code map names every module, and names in
//! documents exist. Every manifest uses the workspace's lints, versions and bans. No file, function or name
//! of a test is too long. Comments name the acting thread or process. A type name has one meaning, and `is_`
//! and `has_` functions change nothing. These tests run no program. Rules that clippy can check are in
//! `clippy.toml` and in the lints of `Cargo.toml`.

use std::fs;
use std::path::{Path, PathBuf};

mod bans;
mod code_map;
mod links;
mod manifests;
mod names;
mod size;
mod tests;
mod words;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the files below a folder with this extension, with paths from the root, without build output.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|end| end == extension) {
                found.push(path.strip_prefix(root()).expect("below it").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path)).expect("a text file")
}

/// Returns all texts in single backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
