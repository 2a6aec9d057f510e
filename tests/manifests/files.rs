//! Reads manifests and other files of the repository, and finds objects and values in them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

pub(crate) fn text(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

pub(crate) fn documents(relative: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(relative))
        .unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// Returns the only document of a YAML file.
pub(crate) fn document(relative: &str) -> Value {
    let mut all = documents(relative);
    assert_eq!(all.len(), 1, "{relative}");
    all.remove(0)
}

/// Returns the names in a folder, sorted.
pub(crate) fn names(relative: &str) -> Vec<String> {
    let entries =
        fs::read_dir(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"));
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.into_string().expect("a name in UTF-8")
        })
        .collect();
    names.sort();
    names
}

/// Returns every object of the base.
pub(crate) fn base() -> Vec<Value> {
    let listed = document("k8s/base/kustomization.yaml");
    strings(at(&listed, "/resources"))
        .iter()
        .flat_map(|file| documents(&format!("k8s/base/{file}")))
        .collect()
}

/// Returns the objects of one kind in the base.
pub(crate) fn base_of(kind: &str) -> Vec<Value> {
    let mut all = base();
    all.retain(|object| object["kind"] == kind);
    assert!(!all.is_empty(), "the base has no {kind}");
    all
}

/// Returns the only object of its kind in the base.
pub(crate) fn only(kind: &str) -> Value {
    let mut all = base_of(kind);
    assert_eq!(all.len(), 1, "{kind}");
    all.remove(0)
}

pub(crate) fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value
        .pointer(pointer)
        .unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
}

pub(crate) fn strings(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap_or_else(|| panic!("{list} is no list"))
        .iter()
        .map(|one| one.as_str().expect("a text"))
        .collect()
}

/// The labels of a function's pod.
pub(crate) const FUNCTION_LABELS: [(&str, &str); 2] =
    [("app", "nanofaas"), ("nanofaas.io/function", "word-stats")];
