//! What the repository promises of itself, asked of its files: the code map names every module, what the
//! documents name is there, no file grows without end, comments say who, a name has one meaning, and a
//! question is one. It runs nothing. Rules that clippy can hold are in `clippy.toml` and in the lints of
//! `Cargo.toml` instead.

use std::fs;
use std::path::{Path, PathBuf};

mod bans;
mod code_map;
mod links;
mod names;
mod size;
mod words;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder whose names end so, with paths from the root. Nothing that was built.
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

/// What stands in single backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
