//! Tests with files on disk, in a folder that each test makes for itself.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nanofaas_core::spec::{Defaults, FunctionSpec, Platform};

use super::*;

struct FunctionFolder(PathBuf);

impl FunctionFolder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "nanofaas-files-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(fs::canonicalize(path).expect("its real path"))
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("its folder");
        fs::write(&path, text).expect("a file");
        path
    }

    fn read(&self) -> Result<Vec<FunctionFile>, Vec<String>> {
        self.read_path(&self.0)
    }

    /// Reads the files at `path`; errors name them relative to the test's folder.
    fn read_path(&self, path: &Path) -> Result<Vec<FunctionFile>, Vec<String>> {
        let prefix = format!("{}/", self.0.display());
        read(&[path.to_owned()])
            .map_err(|FilesError(errors)| errors.iter().map(|e| e.replace(&prefix, "")).collect())
    }
}

impl Drop for FunctionFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn faults(function: &FunctionFile) -> Vec<String> {
    let faults = FunctionSpec::resolve(&function.draft, &Defaults::DEFAULT, Platform::Local)
        .expect_err("a faulty function");
    let folder = format!("{}/", function.path.parent().expect("a parent").display());
    faults
        .iter()
        .map(|fault| function.locate(fault).replace(&folder, ""))
        .collect()
}

#[test]
fn only_function_files_below_a_folder_are_found() {
    let folder = FunctionFolder::new();
    let found = [
        "a/function.yaml",
        "b/c/x.function.yml",
        "d/function.json",
        "function.yml",
    ];
    for (at, name) in found.iter().enumerate() {
        folder.file(name, format!("{{\"name\": \"f{at}\"}}"));
    }
    for name in [
        "a/other.yaml",
        "xfunction.yaml",
        ".git/function.yaml",
        "target/function.yaml",
    ] {
        folder.file(name, "name: other");
    }
    let functions = folder.read().expect("all are sound");
    let names: Vec<_> = functions
        .iter()
        .filter_map(|function| function.draft.name())
        .collect();
    assert_eq!(names, ["f0", "f1", "f2", "f3"]);
    let any_name = folder
        .read_path(&folder.0.join("a/other.yaml"))
        .expect("a file by its name");
    assert_eq!(any_name[0].draft.name(), Some("other"));
}

#[test]
fn a_function_runs_in_its_files_folder() {
    let folder = FunctionFolder::new();
    let text = "name: f\n---\nname: g\nlocal: {directory: sub/x}\n---\n\
                name: h\nlocal: {directory: /srv, command: [x]}\n";
    folder.file("a/function.yaml", text);
    let functions = folder.read().expect("sound");
    let directories: Vec<_> = functions
        .iter()
        .filter_map(|f| f.draft.get("local.directory")?.as_text())
        .collect();
    let own = folder.0.join("a");
    let sub = own.join("sub/x");
    assert_eq!(
        directories,
        [own.to_str().unwrap(), sub.to_str().unwrap(), "/srv"]
    );
    assert_eq!(
        functions.iter().map(|f| f.line).collect::<Vec<_>>(),
        [1, 3, 6]
    );
}

#[test]
fn faults_stand_on_their_lines() {
    let folder = FunctionFolder::new();
    let text = "# a comment\nname: f\ncommand:\n  - x\n  - 5\ntimeoutMs: 0\nscalingConfig:\n  \
                minReplicas: 9\n  maxReplicas: 2\nenv:\n  PORT: '1'\n  a.b: 1\n";
    folder.file("function.yaml", text);
    let functions = folder.read().expect("it can be read");
    let expected = [
        "function.yaml:5: command[1]: must be a text (in quotes), is 5",
        "function.yaml:12: env.a.b: must be a text (in quotes), is 1",
        "function.yaml:11: env.PORT: is set by the platform and cannot be overridden",
        "function.yaml:6: timeoutMs: must be 1 to 300000, is 0",
        "function.yaml:8: scalingConfig.minReplicas: must be at most maxReplicas, which is 2, is 9",
    ];
    assert_eq!(faults(&functions[0]), expected);
}

#[test]
fn faults_of_the_kubernetes_form_name_their_lines() {
    let folder = FunctionFolder::new();
    let text = "apiVersion: nanofaas.io/v1\nkind: Fun\nmetadata:\n  name: 9f\nspec:\n  \
                concurrency: 0\n  scalingConfig:\n    idleTimeoutMs: soon\n";
    folder.file("function.yaml", text);
    let functions = folder.read().expect("it can be read");
    let lines: Vec<String> = faults(&functions[0])
        .iter()
        .map(|fault| fault.splitn(4, ':').take(3).collect::<Vec<_>>().join(":"))
        .collect();
    let expected = [
        "function.yaml:2: kind",
        "function.yaml:4: name",
        "function.yaml:6: concurrency",
        "function.yaml:8: scalingConfig.idleTimeoutMs",
        "function.yaml:1: command",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn misspelt_fields_are_named() {
    let folder = FunctionFolder::new();
    folder.file(
        "function.yaml",
        "name: f\nlocal:\n  cmd: [x]\nimage: x\nimages: y\n",
    );
    let ignored = folder.read().expect("sound")[0].ignored();
    assert_eq!(ignored.len(), 2);
    assert!(ignored[0].ends_with(":5: images: is not a field of a function, and is ignored"));
    assert!(ignored[1].contains(":3: local.cmd: "), "{ignored:?}");
}

#[test]
fn an_unreadable_file_is_named_with_its_line() {
    let cases: [(&[u8], &str); 7] = [
        (b"name: f\n  bad: [\n", "function.yaml:2: "),
        (b"name: f\nname: g\n", "function.yaml:2: "),
        (
            b"name: f\n---\n- x\n",
            "function.yaml:3: function: must be an object, is a list",
        ),
        (b"name: f\nx: .nan\n", "function.yaml:2: "),
        (
            b"name: f\nx: \xff\n",
            "function.yaml:2: the file is not UTF-8",
        ),
        (b"", "function.yaml:1: there is no function in this file"),
        (b"{\"name\": \"f\",\n\"x\": ", "function.yaml:"),
    ];
    for (text, expected) in cases {
        let folder = FunctionFolder::new();
        folder.file("function.yaml", text);
        let errors = folder.read().expect_err("unreadable");
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(expected), "{errors:?}");
        assert!(
            errors[0].len() > expected.len() || text.len() < 20,
            "{errors:?}"
        );
    }
}

#[test]
fn every_unreadable_file_is_named_at_once() {
    let folder = FunctionFolder::new();
    folder.file("a/function.yaml", "name: [");
    folder.file("b/function.yaml", "name: f");
    folder.file("c/function.yaml", "- 1");
    folder.file("d/function.yaml", vec![b' '; 1024 * 1024 + 1]);
    let errors = folder.read().expect_err("three are unreadable");
    let files: Vec<&str> = errors.iter().filter_map(|e| e.split(':').next()).collect();
    assert_eq!(
        files,
        ["a/function.yaml", "c/function.yaml", "d/function.yaml"]
    );
    let missing = folder
        .read_path(&folder.0.join("none"))
        .expect_err("no such file");
    assert!(missing[0].starts_with("none: No such file"), "{missing:?}");
    let empty = FunctionFolder::new().read().expect_err("nothing in it");
    assert!(empty[0].contains("no function.yaml"), "{empty:?}");
}

#[test]
fn two_functions_of_one_name_are_refused() {
    let folder = FunctionFolder::new();
    folder.file("a/function.yaml", "name: f");
    folder.file("b/function.yaml", "image: x\nname: f");
    let errors = folder.read().expect_err("twice");
    let expected = "b/function.yaml:2: name: \"f\" is also the function of a/function.yaml:1";
    assert_eq!(errors, [expected]);
}

/// `read_one` must report that the folder contains two functions. It must not report that they have the same
/// name.
#[test]
fn one_function_is_one() {
    let folder = FunctionFolder::new();
    let one = folder.file("a/function.yaml", "name: f");
    let name = |path: &Path| read_one(path).map(|read| read.draft.name().map(str::to_owned));
    assert_eq!(name(&folder.0), Ok(Some("f".to_owned())));
    folder.file("b/function.yaml", "name: f");
    let FilesError(errors) = name(&folder.0).expect_err("two");
    let expected = format!(
        "{}: has 2 functions; give a file with one",
        folder.0.display()
    );
    assert_eq!(errors, [expected]);
    assert_eq!(name(&one), Ok(Some("f".to_owned())));
}

/// A shell's `<(...)` gives a pipe such a path.
#[test]
fn a_pipe_is_read_and_runs_here() {
    let (ours, theirs) = nix::unistd::pipe().expect("a pipe");
    nix::unistd::write(&theirs, b"name: f\n").expect("it fits");
    drop(theirs);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&ours));
    let function = read_one(Path::new(&path)).expect("a function");
    let here = std::env::current_dir().expect("a folder");
    let directory = function.draft.get("local.directory");
    assert_eq!(directory.and_then(Json::as_text), here.to_str());
    let FilesError(errors) = read_one(Path::new("/dev/zero")).expect_err("endless");
    let expected = "/dev/zero: a function file is at most 1048576 bytes, is longer";
    assert_eq!(errors, [expected]);
}

#[test]
fn deep_and_exploding_files_are_refused() {
    let folder = FunctionFolder::new();
    folder.file(
        "function.yaml",
        format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)),
    );
    assert_eq!(folder.read().expect_err("deep").len(), 1);
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for at in 1..12 {
        let items = vec![format!("*a{}", at - 1); 9].join(", ");
        bomb.push_str(&format!("a{at}: &a{at} [{items}]\n"));
    }
    folder.file("function.yaml", bomb);
    assert_eq!(folder.read().expect_err("exploding").len(), 1);
}

fn draft(folder: &FunctionFolder, build: &str) -> FunctionDraft {
    let mut draft = FunctionDraft::default();
    draft.set("name", Json::from("f"));
    draft.set("local.build", Json::from(build));
    draft.set(
        "local.directory",
        Json::from(folder.0.to_str().expect("UTF-8")),
    );
    draft
}

fn built(draft: &FunctionDraft) -> (Result<(), String>, Vec<String>) {
    let mut lines = Vec::new();
    let mut report = |line: &str| lines.push(line.to_owned());
    let ended =
        build(draft, &mut BuildProgress::Lines(&mut report)).map_err(|error| error.to_string());
    (ended, lines)
}

#[test]
fn a_build_runs_in_the_functions_folder() {
    let folder = FunctionFolder::new();
    let (ended, lines) = built(&draft(&folder, "echo hello > made && pwd >> made"));
    assert_eq!(ended, Ok(()));
    let made = fs::read_to_string(folder.0.join("made")).expect("the build made it");
    assert_eq!(made, format!("hello\n{}\n", folder.0.display()));
    assert_eq!(lines[0], "building f: echo hello > made && pwd >> made");
    assert!(lines[1].starts_with("built f in "), "{lines:?}");
    let (ended, lines) = built(&FunctionDraft::default());
    assert_eq!((ended, lines), (Ok(()), Vec::new()), "nothing to build");
}

#[test]
fn a_failed_build_shows_its_last_lines() {
    let folder = FunctionFolder::new();
    let line = "for n in $(seq 1 100); do echo line $n; done; echo broken >&2; exit 3";
    let error = built(&draft(&folder, line)).0.expect_err("it exits with 3");
    assert!(
        error.starts_with("f: its build failed (exit status: 3): for n"),
        "{error}"
    );
    assert!(error.ends_with("\n  | line 100\n  | broken"), "{error}");
    assert!(
        error.contains("\n  | line 72\n") && !error.contains("line 71\n"),
        "{error}"
    );
    let mut nowhere = draft(&folder, "true");
    nowhere.set("local.directory", Json::from("/does/not/exist"));
    let error = built(&nowhere).0.expect_err("no such folder");
    assert!(
        error.starts_with("f: its build could not be run (No such file"),
        "{error}"
    );
}

#[test]
fn a_build_that_leaves_something_behind_still_ends() {
    let folder = FunctionFolder::new();
    let (ended, _) = built(&draft(&folder, "sleep 20 & echo $! > pid; echo done"));
    assert_eq!(ended, Ok(()));
    let pid = fs::read_to_string(folder.0.join("pid")).expect("its pid");
    let pid = nix::unistd::Pid::from_raw(pid.trim().parse().expect("a number"));
    // If the process still runs, the build did not wait for its end.
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("still running");
}
