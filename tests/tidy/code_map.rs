//! ARCHITECTURE.md's code map names every module.

use std::collections::BTreeSet;

use crate::{files, quoted, read};

/// Folders of the crates whose modules the code map names.
const MAPPED: [&str; 9] = [
    "backend/src",
    "core/src",
    "http1/src",
    "io/src",
    "k8s-bridge/src",
    "local-bridge/src",
    "simulate/src",
    "plot/src",
    "src",
];

#[test]
fn the_code_map_names_every_module() {
    let page = read("ARCHITECTURE.md");
    let from = page.find("## Code map").expect("a section Code map");
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
            // The map names a module by its whole path or by the end of it.
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
