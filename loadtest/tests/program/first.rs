//! Tests of comparisons of first answers. The time runs from the start of a process without a `ready` URL, or
//! from the call if every process has a `ready` URL.

use std::path::Path;

use serde_json::Value;

use crate::tool::{ToolFolder, program, quiet};

const DELAY_MS: f64 = 40.0;

/// Writes a contender file for the test's server, with or without a `ready` URL.
fn contender(folder: &ToolFolder, name: &str, ready: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/sleeper.py");
    let text = format!(
        "about: takes its time
ports: [it]
processes:
  - name: server
    command: [python3, {}, '{DELAY_MS}', '{{port.it}}']
    measured: true
{ready}
url: http://127.0.0.1:{{port.it}}/call
",
        script.display()
    );
    std::fs::write(folder.path(name), text).expect("a file");
}

#[test]
fn a_start_counts_where_nobody_waited_for_it() {
    let _turn = quiet();
    let folder = ToolFolder::new();
    let ready = "    ready: http://127.0.0.1:{port.it}/ready";
    contender(&folder, "awaited.yaml", ready);
    contender(&folder, "begun.yaml", "");
    let scenario = "name: from the start against from the call
rounds: 3
measure: first_answer
request: {body: '{}'}
contenders:
  - {name: call, use: awaited.yaml}
  - {name: start, use: begun.yaml}
baseline: call
goals:
  - {contender: start, figure: first_answer_us, must: '>= 1'}";
    std::fs::write(folder.path("scenario.yaml"), scenario).expect("a file");
    let (file, page) = (folder.path("scenario.yaml"), folder.path("page.html"));
    let output = program()
        .args(["compare", "--quiet", "--keep-disturbed", "--bin", "/bin"])
        .args([&file, "--json", "-", "--html", &page])
        .output()
        .expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for round in found["rounds"].as_array().expect("rounds") {
        let ms = |name: &str| {
            let figure = &round["parts"][name]["figures"]["first_answer_us"];
            figure.as_f64().expect("a figure") / 1e3
        };
        let (call, start) = (ms("call"), ms("start"));
        assert!(call >= DELAY_MS, "{call}");
        // The contender is a Python program, whose interpreter needs more than 10 ms to start.
        assert!(start > DELAY_MS + 10.0, "{start}");
    }
    assert_eq!(found["takers"][0]["latency"]["count"], 3);
    assert_eq!(found["verdicts"][0]["met"], true);
    let page = std::fs::read_to_string(page).expect("a page");
    assert_eq!(page.matches("<svg").count(), 3, "percentiles, goal, rounds");
}

#[test]
fn a_process_ending_before_its_answer_says_why() {
    let folder = ToolFolder::new();
    contender(&folder, "begun.yaml", "");
    let path = folder.path("begun.yaml");
    let text = std::fs::read_to_string(&path).expect("a file");
    std::fs::write(&path, text.replace("'40'", "nonsense")).expect("a file");
    let scenario = "name: x\nmeasure: first_answer\nbaseline: it\n\
                    contenders: [{name: it, use: begun.yaml}]\n";
    std::fs::write(folder.path("scenario.yaml"), scenario).expect("a file");
    let output = program()
        .args(["compare", "--quiet", "--bin", "/bin"])
        .arg(folder.path("scenario.yaml"))
        .output()
        .expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    let told = errors.contains("server ended") && errors.contains("could not convert string");
    assert!(!output.status.success() && told, "{errors}");
}
