//! What the repository promises of itself, asked of its files: the code map names every module, what the
//! documents name is there, no file grows without end, and comments say who. It runs nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file of so many lines wants to be split by noun.
const LINES_MAX: usize = 520;
/// Folders of the crates whose modules the code map names.
const MAPPED: [&str; 7] = [
    "core/src",
    "io/src",
    "k8s-bridge/src",
    "local-bridge/src",
    "simulate/src",
    "plot/src",
    "src",
];

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

#[test]
fn the_code_map_names_every_module() {
    let page = read("ARCHITECTURE.md");
    let from = page.find("## Code map").expect("there is one");
    let map = &page[from..];
    let map = &map[..map.find("## Invariants").expect("it ends")];
    let named: BTreeSet<&str> = quoted(map).collect();
    let mut missing = Vec::new();
    for folder in MAPPED {
        for file in files(folder, "rs") {
            let module = file
                .strip_prefix(folder)
                .expect("below it")
                .with_extension("");
            let module = module.to_string_lossy().into_owned();
            let name = module.rsplit('/').next().unwrap_or_default();
            let is_test = module.contains("tests");
            // By the end of its path, or all of it.
            let ends = module.match_indices('/').map(|(at, _)| &module[at + 1..]);
            let whole = file.with_extension("").to_string_lossy().into_owned();
            let is_named = ends
                .chain([&*module, &*whole])
                .any(|end| named.contains(end));
            if !is_test && !is_named && !matches!(name, "lib" | "main") {
                missing.push(file);
            }
        }
    }
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md does not map {missing:#?}"
    );
}

/// Whether a word in backquotes can only be a path of this repository.
fn is_path(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let top = word.split('/').next().unwrap_or_default();
    word.contains('/') && word.bytes().all(plain) && !top.is_empty() && root().join(top).exists()
}

/// A path as it stands, or within the crate that it begins with.
fn exists(word: &str) -> bool {
    let within = word
        .split_once('/')
        .map(|(top, rest)| format!("{top}/src/{rest}"));
    root().join(word).exists() || within.is_some_and(|path| root().join(path).exists())
}

#[test]
fn what_documents_name_is_there() {
    let mut missing = Vec::new();
    for page in files("", "md") {
        let text = read(&page);
        let folder = root().join(&page);
        let folder = folder.parent().expect("a folder");
        let is_missing =
            |word: &&str| is_path(word) && !exists(word) && !folder.join(word).exists();
        for word in quoted(&text).filter(is_missing) {
            missing.push(format!("{}: `{word}`", page.display()));
        }
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                missing.push(format!("{}: link to {path}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn links_to_sections_lead_to_one() {
    let mut missing = Vec::new();
    for page in files("", "md") {
        let text = read(&page);
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            let Some((path, section)) = link.split_once('#') else {
                continue;
            };
            if path.contains("://") {
                continue;
            }
            let target = if path.is_empty() {
                page.clone()
            } else {
                page.with_file_name("").join(path)
            };
            let sections: Vec<String> = read(&target)
                .lines()
                .filter(|line| line.starts_with('#'))
                .map(|line| anchor(line.trim_start_matches('#').trim()))
                .collect();
            if !sections.iter().any(|one| one == section) {
                missing.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The name that a heading has in links.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ if letter.is_alphanumeric() => Some(letter.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

#[test]
fn no_file_is_longer_than_a_reader_takes_in() {
    let mut long = Vec::new();
    for extension in ["rs", "py"] {
        for file in files("", extension) {
            let lines = read(&file).lines().count();
            if lines > LINES_MAX {
                long.push(format!("{}: {lines} lines", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "split by noun: {long:#?}");
}

/// Each of them leaves open which client, thread, process or person is meant.
const VAGUE: [&str; 4] = ["whoever", "nobody", "somebody", "anybody"];

#[test]
fn comments_say_who() {
    let mut vague = Vec::new();
    for file in files("", "rs") {
        for (number, line) in read(&file).lines().enumerate() {
            let Some(comment) = line.trim_start().strip_prefix("//") else {
                continue;
            };
            let mut words = comment.split(|letter: char| !letter.is_alphanumeric());
            if words.any(|word| VAGUE.contains(&word.to_ascii_lowercase().as_str())) {
                vague.push(format!("{}:{}", file.display(), number + 1));
            }
        }
    }
    assert!(vague.is_empty(), "a comment does not say who: {vague:#?}");
}
