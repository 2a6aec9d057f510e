//! Tests of the command `nanofaas simulate`, which needs no server and reports errors in its input.

use std::process::Output;

use nanofaas_testkit::control_plane::program;
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::interpreter;
use serde_json::Value;

const FUNCTION: &str = "\
name: f
executionMode: WARM
command: [run]
concurrency: 2
scalingConfig: {minReplicas: 1, maxReplicas: 2}
";
const TRACE: &str = "at_ms,service_ms\n0,100\n10,100\n20,100\n";

fn folder() -> ScratchFolder {
    let folder = ScratchFolder::create();
    folder.write("function.yaml", FUNCTION);
    folder.write("calls.csv", TRACE);
    folder
}

fn simulate(folder: &ScratchFolder, more: &[&str]) -> Output {
    let mut command = program();
    command.current_dir(folder.path());
    command.args(["simulate", "-f", "function.yaml", "-t", "calls.csv"]);
    command.args(more).output().expect("the program starts")
}

#[track_caller]
fn shown(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[track_caller]
fn refused(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        output.stdout.is_empty() && said.starts_with("error: "),
        "{said}"
    );
    said
}

#[test]
fn people_and_machines_are_shown_the_same() {
    let folder = folder();
    let text = shown(&simulate(&folder, &["--start-ms", "50"]));
    for line in [
        " made it                 3 (100.0 %)",
        " with perfect knowledge  3 (100.0 %)",
        " pods                    1 started, 2 at once at most, 0.4 pod-seconds",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line:?} in\n{text}"
        );
    }
    assert!(
        text.contains("PODS UP") && !text.contains("SLOTS"),
        "{text}"
    );
    let json = shown(&simulate(&folder, &["--start-ms", "50", "-o", "json"]));
    let report: Value = serde_json::from_str(&json).expect("JSON");
    let summary = &report["summary"];
    assert_eq!(
        (&summary["madeIt"], &summary["starts"]),
        (&3.into(), &1.into())
    );
    // The third call waits from 20 ms to 100 ms. Then the first call ends and frees its slot on the pod of
    // `minReplicas`.
    assert_eq!(summary["waitMs"]["max"], 80.0);
    let calls = report["overTime"].as_array().expect("a list").iter();
    let calls: i64 = calls.filter_map(|slice| slice["calls"].as_i64()).sum();
    assert_eq!(calls, 3);
}

#[test]
fn the_same_input_draws_the_same_svg() {
    let folder = folder();
    let draw = |name: &str| {
        shown(&simulate(&folder, &["--plot", name, "--spread", "20"]));
        folder.read(name).expect("a plot")
    };
    let svg = draw("a.svg");
    assert_eq!(svg, draw("b.svg"));
    assert!(svg.contains("prefers-color-scheme:dark"), "{svg}");
    let parse = "import sys, xml.etree.ElementTree as tree\n\
                 print(tree.parse(sys.argv[1]).getroot().tag)";
    let mut python = std::process::Command::new(interpreter());
    let parsed = python
        .args(["-c", parse])
        .arg(folder.path().join("a.svg"))
        .output();
    let root = shown(&parsed.expect("Python starts"));
    assert_eq!(root.trim(), "{http://www.w3.org/2000/svg}svg");
}

#[test]
fn bad_input_is_named_by_file_and_line() {
    let folder = folder();
    folder.write("calls.csv", "at_ms,service_ms\n0,5\nsoon,5\n");
    let said = refused(&simulate(&folder, &[]));
    assert!(
        said.contains("calls.csv: line 3: at_ms must be a number"),
        "{said}"
    );
    folder.write("calls.csv", "at_ms\n0\n");
    let said = refused(&simulate(&folder, &[]));
    assert!(
        said.contains("line 2: ") && said.contains("give --service-ms"),
        "{said}"
    );
    shown(&simulate(&folder, &["--service-ms", "5"]));
    let said = refused(&simulate(
        &folder,
        &["--service-ms", "5", "--plot", "no/where.svg"],
    ));
    assert!(said.contains("no/where.svg"), "{said}");
    folder.write(
        "function.yaml",
        &FUNCTION.replace("concurrency: 2", "concurrency: many"),
    );
    let said = refused(&simulate(&folder, &["--service-ms", "5"]));
    assert!(said.contains("function.yaml:4: concurrency: "), "{said}");
    folder.write("function.yaml", &format!("{FUNCTION}---\nname: g\n"));
    let said = refused(&simulate(&folder, &["--service-ms", "5"]));
    assert!(said.contains("has 2 functions"), "{said}");
    folder.write("function.yaml", &FUNCTION.replace("WARM", "JOB"));
    let said = refused(&simulate(
        &folder,
        &["--service-ms", "5", "--start-ms", "never"],
    ));
    assert!(said.contains("--start-ms must be a number"), "{said}");
}

/// A plot's path may also name an input file by another link.
#[test]
fn a_plot_does_not_overwrite_what_is_read() {
    let folder = folder();
    let link = folder.path().join("link.svg");
    std::fs::hard_link(folder.path().join("calls.csv"), &link).expect("a second name");
    for plot in ["calls.csv", "./function.yaml", "link.svg"] {
        let said = refused(&simulate(&folder, &["--plot", plot]));
        assert!(said.contains("would overwrite"), "{said}");
    }
    assert_eq!(folder.read("calls.csv").as_deref(), Some(TRACE));
    assert_eq!(folder.read("function.yaml").as_deref(), Some(FUNCTION));
    folder.write("a.svg", "old");
    shown(&simulate(&folder, &["--plot", "a.svg"]));
    assert_ne!(folder.read("a.svg").as_deref(), Some("old"));
}

#[test]
fn a_function_and_a_trace_may_be_pipes() {
    let folder = folder();
    for line in [
        "cat function.yaml | \"$0\" simulate -f /dev/stdin -t calls.csv",
        "cat calls.csv | \"$0\" simulate -f function.yaml -t /dev/stdin",
    ] {
        let mut shell = std::process::Command::new("sh");
        shell.current_dir(folder.path()).args(["-c", line]);
        shell.arg(program().get_program());
        let text = shown(&shell.output().expect("a shell"));
        assert!(
            text.contains("made it                 3 (100.0 %)"),
            "{text}"
        );
    }
}

#[test]
fn a_wrong_file_is_refused_briefly() {
    let folder = folder();
    let trace = |path: &str| {
        let mut command = program();
        command.current_dir(folder.path());
        command.args(["simulate", "-f", "function.yaml", "-t", path]);
        refused(&command.output().expect("the program starts"))
    };
    assert_eq!(trace("."), "error: .: is a folder; a trace is one file\n");
    let said = trace("/dev/zero");
    assert_eq!(
        said,
        "error: /dev/zero: line 1: a line has at most 65536 bytes\n"
    );
    folder.write("more.function.yaml", FUNCTION);
    let mut command = program();
    command.current_dir(folder.path());
    command.args(["simulate", "-f", ".", "-t", "calls.csv"]);
    let said = refused(&command.output().expect("the program starts"));
    assert_eq!(said, "error: .: has 2 functions; give a file with one\n");
}

#[test]
fn async_calls_have_no_perfect_knowledge() {
    let folder = folder();
    folder.write("calls.csv", "at_ms,service_ms,class\n0,5,async\n");
    let text = shown(&simulate(&folder, &[]));
    let line = " with perfect knowledge  not computed with async calls";
    assert!(text.lines().any(|found| found == line), "{text}");
}

/// The example stands in the help, README and docs/simulate.md.
#[test]
fn the_example_works() {
    let mut command = program();
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let line = "simulate --function docs/simulate/function.yaml --trace docs/simulate/calls.csv \
                --start-ms 2000";
    let output = command.args(line.split(' ')).output().expect("it starts");
    let text = shown(&output);
    let page = include_str!("../../docs/simulate.md");
    for line in text.lines().map(str::trim_end) {
        assert!(
            page.lines().any(|found| found == line),
            "docs/simulate.md lacks {line:?}"
        );
    }
}
