//! `docs/code-map.md` lists every module with the first sentence of its header, so the header is the only
//! place that says what a module is. `NANOFAAS_WRITE_CODE_MAP=1` makes the test write the page.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::{files, read, root};

const PAGE: &str = "docs/code-map.md";

/// The folders of source code, in the order of the page: first the folders that a call reaches.
const FOLDERS: [(&str, &str); 16] = [
    ("src", "rs"),
    ("io/src", "rs"),
    ("http1/src", "rs"),
    ("core/src", "rs"),
    ("backend/src", "rs"),
    ("k8s-bridge/src", "rs"),
    ("local-bridge/src", "rs"),
    ("runtime/src", "rs"),
    ("python-runtime/src", "py"),
    ("simulate/src", "rs"),
    ("plot/src", "rs"),
    ("loadtest/src", "rs"),
    ("testkit/src", "rs"),
    ("fake-api-server/src", "rs"),
    ("fuzz/src", "rs"),
    ("tests", "rs"),
];

const HEAD: &str = "# Code map

Every module, with the first sentence of its header. Folders are layers: [ARCHITECTURE.md](../ARCHITECTURE.md)
says which runs on which thread and what it may not use. `NANOFAAS_WRITE_CODE_MAP=1 cargo test --test tidy` writes
this page after a header changed.
";

/// Returns the lines of a file's header, without the marks of a comment.
fn header(file: &Path) -> String {
    let text = read(file);
    let lines: Vec<&str> = if file.extension().is_some_and(|end| end == "py") {
        let Some(rest) = text.strip_prefix("\"\"\"") else {
            return String::new();
        };
        let docstring = rest.split("\"\"\"").next().unwrap_or_default();
        docstring
            .lines()
            .take_while(|line| !line.is_empty())
            .collect()
    } else {
        let header = text.lines().map_while(|line| line.strip_prefix("//!"));
        header.take_while(|line| !line.is_empty()).collect()
    };
    let words: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    words.join(" ")
}

/// Returns the text up to the first full stop that a space follows.
fn first_sentence(header: &str) -> &str {
    let end = header.find(". ").map_or(header.len(), |at| at + 1);
    &header[..end]
}

/// Returns whether a file contains only tests of a module. Such a file is a part of that module, which is
/// beside the file or one folder up.
fn is_own_test(file: &Path) -> bool {
    let below_source = file.iter().any(|part| part == "src");
    below_source
        && file
            .iter()
            .any(|part| part == "tests" || part == "tests.rs")
}

fn page() -> (String, Vec<PathBuf>) {
    let mut page = HEAD.to_owned();
    let mut bare = Vec::new();
    let mut section = PathBuf::new();
    for (folder, extension) in FOLDERS {
        let mut all = files(folder, extension);
        all.sort_by(|a, b| (a.parent(), a).cmp(&(b.parent(), b)));
        for file in all {
            let name = file.file_name().unwrap_or_default();
            if is_own_test(&file) || name == "__init__.py" {
                continue;
            }
            let header = header(&file);
            if header.is_empty() {
                bare.push(file);
                continue;
            }
            let parent = file.parent().map(Path::to_owned).unwrap_or_default();
            if parent != section {
                let title = parent.display();
                write!(page, "\n## {title}\n\n| module | what it is |\n|---|---|\n")
                    .expect("memory");
                section = parent;
            }
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            let (path, sentence) = (file.display(), first_sentence(&header).replace('|', "\\|"));
            writeln!(page, "| [{stem}](../{path}) | {sentence} |").expect("memory");
        }
    }
    (page, bare)
}

#[test]
fn every_module_is_in_the_code_map() {
    let (page, bare) = page();
    assert!(
        bare.is_empty(),
        "these files do not begin with what they are (`//!`, or a docstring): {bare:#?}"
    );
    if std::env::var_os("NANOFAAS_WRITE_CODE_MAP").is_some() {
        std::fs::write(root().join(PAGE), page).expect("the page is written");
        return;
    }
    let written = root().join(PAGE).exists().then(|| read(PAGE));
    assert!(
        written.unwrap_or_default() == page,
        "{PAGE} is not what the headers say; NANOFAAS_WRITE_CODE_MAP=1 cargo test --test tidy writes it"
    );
}
