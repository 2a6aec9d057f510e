//! This test checks which modules of a crate import which others. A folder may import only itself and lower
//! folders, and the number of modules in a circle of imports is limited. The test reads the paths that begin
//! with `crate::` and `super::`, except in tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The folders of a crate, and its modules outside folders, from the highest to the lowest.
struct Layers {
    sources: &'static str,
    folders: &'static [&'static str],
    /// The imports that still go to a higher folder, each from a module to a module. Add no entry, and remove
    /// an entry when its import is gone.
    up_as_yet: &'static [(&'static str, &'static str)],
}

const LAYERS: [Layers; 4] = [
    Layers {
        sources: "backend/src",
        folders: &[
            "job",
            "pod",
            "health",
            "announcer",
            "backoff",
            "task",
            "random",
        ],
        up_as_yet: &[],
    },
    Layers {
        sources: "k8s-bridge/src",
        folders: &[
            "bridge",
            "reconcile",
            "registry",
            "job",
            "pod",
            "context",
            "podspec",
            "api",
        ],
        up_as_yet: &[],
    },
    Layers {
        sources: "local-bridge/src",
        folders: &["bridge", "job", "pod", "context", "process", "guard"],
        up_as_yet: &[],
    },
    Layers {
        sources: "io/src",
        folders: &[
            "shard", "server", "api", "forward", "invoke", "links", "state", "http", "runtime",
        ],
        up_as_yet: &[],
    },
];

/// The largest number of modules in a circle. Modules in a circle can only be understood together.
const CIRCLE_MAX: usize = 10;
/// The crates with a larger circle than `CIRCLE_MAX`, each with the size of its circle. Add no crate.
const LARGE_AS_YET: [(&str, usize); 0] = [];

const CRATES: [&str; 11] = [
    "backend/src",
    "core/src",
    "http1/src",
    "io/src",
    "k8s-bridge/src",
    "local-bridge/src",
    "loadtest/src",
    "plot/src",
    "runtime/src",
    "simulate/src",
    "src",
];

/// The modules of a crate, except tests, each with the modules that it uses. `a/b` is `crate::a::b`.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn graph(sources: &str) -> Graph {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(sources);
    let mut texts = BTreeMap::new();
    collect(&folder, "", &mut texts);
    let tests: BTreeSet<String> = texts
        .iter()
        .flat_map(|(module, text)| test_modules(module, text))
        .collect();
    let is_test = |module: &str| {
        let mut whole = module.match_indices('/').map(|(at, _)| &module[..at]);
        tests.contains(module) || whole.any(|above| tests.contains(above))
    };
    texts.retain(|module, _| !is_test(module));
    let modules: BTreeSet<&String> = texts.keys().collect();
    let uses = |module: &String, text: &str| {
        let paths = paths(text, module).into_iter();
        let known = paths.filter_map(|path| longest(&modules, &path));
        known.filter(|used| used != module).collect()
    };
    texts
        .iter()
        .map(|(module, text)| (module.clone(), uses(module, text)))
        .collect()
}

/// Reads a crate's files into `texts` by the path of their module. The crate root is not a module.
fn collect(folder: &Path, above: &str, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let module = if above.is_empty() {
            name.to_string()
        } else {
            format!("{above}/{name}")
        };
        if path.is_dir() {
            collect(&path, &module, texts);
        } else if path.extension().is_some_and(|end| end == "rs")
            && !matches!(&*module, "lib" | "main")
        {
            texts.insert(module, code(&fs::read_to_string(&path).expect("text")));
        }
    }
}

/// Returns a file's code without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let mut lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .peekable();
    let mut code = String::new();
    while let Some(line) = lines.next() {
        let begins_tests = line == "#[cfg(test)]"
            && lines
                .peek()
                .is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        if begins_tests {
            break;
        }
        code.push_str(line);
        code.push('\n');
    }
    code
}

/// Returns the modules that a module declares under `#[cfg(test)]`.
fn test_modules(module: &str, code: &str) -> Vec<String> {
    let declared = code.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
        let line = rest.lines().next()?.trim().strip_suffix(';')?;
        let (_, name) = line.rsplit_once("mod ")?;
        Some(format!("{module}/{name}"))
    });
    declared.collect()
}

/// Returns the paths in a module's code that begin with `crate::` or `super::`.
fn paths(code: &str, module: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || matches!(before, '_' | ':' | '$') {
                continue;
            }
            let mut tree = Tree { code, at };
            tree.read(&[], &mut found);
        }
    }
    let own: Vec<&str> = module.split('/').collect();
    for path in &mut found {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let kept = if ups == 0 {
            0
        } else {
            own.len() - ups.min(own.len())
        };
        let above = own[..kept].iter().map(ToString::to_string);
        *path = above.chain(path.drain(ups.max(1)..)).collect();
    }
    found
}

/// A parser of a path such as `a::{b, c::d}`, at position `at`.
struct Tree<'a> {
    code: &'a str,
    at: usize,
}

impl Tree<'_> {
    fn rest(&self) -> &str {
        &self.code[self.at..]
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn take(&mut self, sign: &str) -> bool {
        let is_there = self.rest().starts_with(sign);
        if is_there {
            self.at += sign.len();
        }
        is_there
    }

    fn read(&mut self, above: &[String], found: &mut Vec<Vec<String>>) {
        let mut path = above.to_vec();
        loop {
            self.skip_space();
            if self.take("{") {
                loop {
                    self.read(&path, found);
                    self.skip_space();
                    if !self.take(",") {
                        self.take("}");
                        return;
                    }
                }
            }
            let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
            let length = self.rest().find(|letter| !is_part(letter)).unwrap_or(0);
            if length > 0 {
                path.push(self.rest()[..length].to_owned());
                self.at += length;
            }
            if !self.take("::") {
                break;
            }
        }
        if self.rest().starts_with(" as ") {
            let end = self.rest().find([',', ';', '}']).unwrap_or(0);
            self.at += end;
        }
        found.push(path);
    }
}

/// Returns the longest prefix of a path that is a module. The rest of the path is an item in that module.
fn longest(modules: &BTreeSet<&String>, path: &[String]) -> Option<String> {
    let mut ends = (1..=path.len()).rev().map(|end| path[..end].join("/"));
    ends.find(|module| modules.contains(module))
}

#[test]
fn folders_use_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for layers in LAYERS {
        let place = |module: &str| {
            let folder = module.split('/').next().unwrap_or_default();
            let place = layers.folders.iter().position(|one| *one == folder);
            place.unwrap_or_else(|| panic!("no layer has {}/{folder}", layers.sources))
        };
        let graph = graph(layers.sources);
        let imports = graph.iter().flat_map(|(module, used)| {
            used.iter()
                .map(move |used| (module.as_str(), used.as_str()))
        });
        let up: BTreeSet<_> = imports
            .filter(|(module, used)| place(used) < place(module))
            .collect();
        let listed: BTreeSet<_> = layers.up_as_yet.iter().copied().collect();
        for (module, used) in up.difference(&listed) {
            wrong.push(format!(
                "{}: (\"{module}\", \"{used}\") goes up",
                layers.sources
            ));
        }
        for (module, used) in listed.difference(&up) {
            wrong.push(format!(
                "{}: ({module}, {used}) is gone: unlist it",
                layers.sources
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Returns all modules that `from` uses, directly or through other modules.
fn reach(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        for used in graph.get(module).into_iter().flatten() {
            if reached.insert(used.clone()) {
                next.push(used);
            }
        }
    }
    reached
}

#[test]
fn no_circle_of_imports_is_large() {
    let mut wrong = Vec::new();
    for sources in CRATES {
        let graph = graph(sources);
        assert!(!graph.is_empty(), "{sources} has no modules");
        let reached: BTreeMap<&String, _> =
            graph.keys().map(|one| (one, reach(&graph, one))).collect();
        let circle = |module: &String| -> BTreeSet<&String> {
            let back = |other: &&String| {
                reached[module].contains(*other) && reached[*other].contains(module)
            };
            graph.keys().filter(back).collect()
        };
        let largest = graph.keys().map(circle).max_by_key(BTreeSet::len);
        let largest = largest.unwrap_or_default();
        let as_yet = LARGE_AS_YET.iter().find(|(one, _)| *one == sources);
        let bound = as_yet.map_or(CIRCLE_MAX, |(_, size)| *size);
        if largest.len() > bound {
            wrong.push(format!("{sources}: {} in a circle:", largest.len()));
            for module in &largest {
                let within: Vec<_> = graph[*module]
                    .iter()
                    .filter(|used| largest.contains(used))
                    .collect();
                wrong.push(format!("  {module} uses {within:?}"));
            }
        } else if as_yet.is_some() && largest.len() <= CIRCLE_MAX {
            wrong.push(format!(
                "{sources}: no circle is too large any more: remove it from LARGE_AS_YET"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
