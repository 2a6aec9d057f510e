//! Tests the bridge with real processes. The tests drive it through a real work queue and real rings, as the
//! control plane does. Each test is a process of its own, because a bridge makes its process a reaper. The
//! same program also runs as the guard (`guard`) and as a control plane that a test kills (`plane`).

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]

#[path = "processes/fixture.rs"]
mod fixture;
#[path = "processes/ends.rs"]
mod ends;
#[path = "processes/job.rs"]
mod job;
#[path = "processes/output.rs"]
mod output;
#[path = "processes/pod.rs"]
mod pod;
#[path = "processes/port.rs"]
mod port;

use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

type ProcessTest = (&'static str, fn());

const AT_ONCE: usize = 4;
/// The time limit of one test. It is far above the usual time of a test, so a test that reaches it has hung.
const LONGEST: Duration = Duration::from_secs(120);

fn tests() -> Vec<ProcessTest> {
    [
        pod::TESTS,
        port::TESTS,
        job::TESTS,
        ends::TESTS,
        output::TESTS,
    ]
    .concat()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["guard"] => nanofaas_local_bridge::guard_main(),
        ["plane", function] => ends::plane(function),
        ["one", name] => {
            let all = tests();
            let (_, test) = all
                .iter()
                .find(|(known, _)| *known == name)
                .expect("a test");
            test();
            ExitCode::SUCCESS
        }
        _ => run(&words),
    }
}

fn run(words: &[&str]) -> ExitCode {
    let filters: Vec<&&str> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|part| name.contains(**part));
    let mut left: Vec<&'static str> = tests().iter().map(|(name, _)| *name).rev().collect();
    left.retain(|name| wanted(name));
    if words.contains(&"--list") {
        left.iter().rev().for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (all, mut failed) = (left.len(), 0);
    let mut running: Vec<(&str, Child, Instant)> = Vec::new();
    while !left.is_empty() || !running.is_empty() {
        while running.len() < AT_ONCE
            && let Some(name) = left.pop()
        {
            running.push((name, begin(name), Instant::now()));
        }
        sleep(Duration::from_millis(10));
        running.retain_mut(|(name, child, since)| match end(child, *since) {
            None => true,
            Some(is_good) => {
                let word = if is_good { "ok" } else { "FAILED" };
                println!(
                    "test {name} ... {word} ({} ms)",
                    since.elapsed().as_millis()
                );
                failed += usize::from(!is_good);
                false
            }
        });
    }
    println!("\ntest result: {} passed; {failed} failed", all - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn begin(name: &str) -> Child {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["one", name]).stdin(Stdio::null());
    command.spawn().expect("a test process")
}

/// Returns whether a test succeeded, or `None` while it runs. Kills a test that has reached its limit.
fn end(child: &mut Child, since: Instant) -> Option<bool> {
    if let Some(status) = child.try_wait().expect("our child") {
        return Some(status.success());
    }
    if since.elapsed() < LONGEST {
        return None;
    }
    eprintln!("it hangs, and is killed");
    let _ = child.kill();
    let _ = child.wait();
    Some(false)
}
