//! Tests of comparisons: contenders with known times are ranked correctly, disturbed rounds are not
//! counted, and no server outlives the tool.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::tool::{ToolFolder, program, quiet};

/// Writes a contender file whose server has a known delay, and a scenario with two such contenders.
fn scenario(folder: &ToolFolder, more: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/sleeper.py");
    let contender = format!(
        "about: takes its time
set: {{delay_ms: '3'}}
ports: [it]
processes:
  - name: server
    command: [python3, {}, '{{delay_ms}}', '{{port.it}}', {}]
    ready: http://127.0.0.1:{{port.it}}/ready
    measured: true
prepare: [{{url: 'http://127.0.0.1:{{port.it}}/f{{n}}', body: '{{}}', repeat: '3'}}]
url: http://127.0.0.1:{{port.it}}/call
",
        script.display(),
        folder.path("pids"),
    );
    let scenario = format!(
        "name: slow against fast
rounds: 3
load: {{connections: 1, warm_up_s: 0.2, duration_s: 0.7}}
request: {{body_bytes: 20}}
contenders:
  - {{name: fast, use: sleeper.yaml}}
  - {{name: slow, use: sleeper.yaml, set: {{delay_ms: '12'}}}}
baseline: fast
{more}"
    );
    std::fs::write(folder.path("sleeper.yaml"), contender).expect("a file");
    std::fs::write(folder.path("scenario.yaml"), scenario).expect("a file");
    folder.path("scenario.yaml")
}

fn compare(arguments: &[&str]) -> Output {
    program()
        .args(["compare", "--quiet", "--bin", "/bin"])
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON")
}

#[test]
fn a_slower_contender_is_slower_by_its_work() {
    let _turn = quiet();
    let folder = ToolFolder::new();
    let goals = "
goals:
  - {contender: slow, figure: p50_us, must: '<= 2', reach: '<= 1'}
  - {contender: slow, figure: p50_us, as: difference, must: '>= 6000'}
  - {contender: fast, figure: answers_per_s, as: value, must: '>= 20', reach: '>= 1000000'}";
    let file = scenario(&folder, goals);
    let (to_json, to_html) = (folder.path("c.json"), folder.path("c.html"));
    let output = compare(&[
        &file,
        "--keep-disturbed",
        "--json",
        &to_json,
        "--html",
        &to_html,
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found = json(&to_json);
    assert_eq!(found["rounds"].as_array().map(Vec::len), Some(3));
    for name in ["fast", "slow"] {
        let work_ns = &found["rounds"][2]["parts"][name]["work_ns"];
        for probe in [&work_ns["before"], &work_ns["after"]] {
            let cores = probe.as_object().expect("a probe");
            let is_time = |ns: &Value| ns.as_f64().is_some_and(|ns| ns > 0.0);
            assert!(
                !cores.is_empty() && cores.values().all(is_time),
                "{work_ns}"
            );
        }
    }
    let slow = &found["takers"][1];
    let ratio = slow["ratios"]["p50_us"]["median"]
        .as_f64()
        .expect("a ratio");
    assert!((2.0..4.6).contains(&ratio), "{ratio}");
    let p50 = slow["figures"]["p50_us"]["median"]
        .as_f64()
        .expect("a figure");
    assert!((12_000.0..20_000.0).contains(&p50), "{p50}");
    assert!(
        slow["figures"]["cpu_us_per_answer"]["median"]
            .as_f64()
            .is_some_and(|us| us > 20.0)
    );
    let verdicts: Vec<(bool, bool)> = found["verdicts"]
        .as_array()
        .expect("verdicts")
        .iter()
        .map(|verdict| (verdict["met"] == true, verdict["reached"] == true))
        .collect();
    assert_eq!(verdicts, [(false, false), (true, false), (true, false)]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        text.contains("MISSED") && text.contains("3 interleaved rounds"),
        "{text}"
    );
    let page = std::fs::read_to_string(to_html).expect("a page");
    for shown in [&text, &page] {
        assert!(shown.contains("speed differed by at most"), "{shown}");
    }
    assert!(page.matches("<svg").count() == 7 && page.contains("slow against fast"));
}

#[test]
fn disturbed_rounds_do_not_count() {
    let _turn = quiet();
    let folder = ToolFolder::new();
    // Foreign CPU use is always above a limit of -1 percent, so every round is disturbed.
    let file = scenario(&folder, "disturbance: {foreign_percent: -1, repeats: 1}");
    let to_json = folder.path("c.json");
    let output = compare(&[&file, "--json", &to_json]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("no round counts"),
        "{text}"
    );
    let found = json(&to_json);
    assert_eq!(found["rounds"].as_array().map(Vec::len), Some(0));
    assert_eq!(found["dropped"].as_array().map(Vec::len), Some(2));
}

#[test]
fn rounds_with_a_speed_change_do_not_count() {
    let _turn = quiet();
    let folder = ToolFolder::new();
    // No core takes exactly the same time twice, so this limit disturbs every round; the other
    // limits are so high that they disturb none.
    let file = scenario(
        &folder,
        "disturbance: {speed_percent: 0, steal_percent: 1e9, foreign_percent: 1e9, repeats: 2, \
         tries: 2, patience_s: 0}",
    );
    let to_json = folder.path("c.json");
    let output = compare(&[&file, "--json", &to_json]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("note: 3 rounds were disturbed"), "{text}");
    let found = json(&to_json);
    assert_eq!(found["rounds"].as_array().map(Vec::len), Some(0));
    assert!(found["speed"].is_null());
    let dropped = found["dropped"].as_array().expect("rounds");
    assert_eq!(dropped.len(), 3, "as many as may be repeated, and one");
    for round in dropped {
        let reason = round["reason"].as_str().expect("a reason");
        assert!(reason.contains(" % slower "), "{reason}");
    }
}

#[test]
fn an_open_loop_takes_a_capacity_share() {
    let _turn = quiet();
    let folder = ToolFolder::new();
    let file = scenario(&folder, "capacity: {of: slow, share: 0.5, connections: 1}");
    let output = compare(&[
        &file,
        "--keep-disturbed",
        "-r",
        "1",
        "-d",
        "2",
        "--json",
        "-",
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let capacity = found["capacity_per_s"].as_f64().expect("a capacity");
    assert!((40.0..84.0).contains(&capacity), "{capacity}");
    for name in ["fast", "slow"] {
        let figures = &found["rounds"][0]["parts"][name]["figures"];
        let rate = figures["answers_per_s"].as_f64().expect("a rate");
        // 60 arrivals of a Poisson process may differ from their mean by a quarter or more.
        assert!((rate / capacity - 0.5).abs() < 0.25, "{rate} of {capacity}");
    }
}

fn is_alive(pid: &str) -> bool {
    // A zombie counts as dead, because it has ended and only waits until its parent reaps it.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status
        .rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn no_server_outlives_the_tool() {
    let folder = ToolFolder::new();
    let file = scenario(&folder, "");
    let mut tool = program()
        .args([
            "compare",
            "--quiet",
            "--keep-disturbed",
            "-d",
            "60",
            "--bin",
            "/bin",
            &file,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let end = Instant::now() + Duration::from_secs(20);
    let pids = loop {
        let text = std::fs::read_to_string(folder.path("pids")).unwrap_or_default();
        if text.split(' ').count() == 2 {
            break text;
        }
        assert!(Instant::now() < end, "no server came");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(pids.split(' ').all(is_alive), "{pids}");
    // SIGKILL leaves the tool no time to clean up.
    tool.kill().expect("it is there");
    tool.wait().expect("it is gone");
    let end = Instant::now() + Duration::from_secs(10);
    let folder = std::env::temp_dir().join(format!("lt-{}-0", tool.id()));
    while pids.split(' ').any(is_alive) || folder.exists() {
        assert!(Instant::now() < end, "still there: {pids}, {folder:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_contender_that_cannot_start_says_why() {
    let folder = ToolFolder::new();
    let file = scenario(&folder, "");
    let path = folder.path("sleeper.yaml");
    let text = std::fs::read_to_string(&path).expect("a file");
    std::fs::write(&path, text.replace("'{delay_ms}'", "nonsense")).expect("a file");
    let output = compare(&[&file]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("could not convert string"),
        "{text}"
    );
    std::fs::write(
        &path,
        "about: x\nprocesses: []\nurl: x\nports: [a]\ncommandd: 1\n",
    )
    .expect("a file");
    let output = compare(&[&file]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("commandd") && text.contains("sleeper.yaml"),
        "{text}"
    );
}
