//! The soak test runs planes in all forms under the same mixed load, for an hour by default. It samples each
//! plane's memory, descriptors and threads, and plots them. From the second quarter to the last, memory and
//! descriptors may grow only by a fixed margin or share, and threads by a share. When the load ends, memory
//! and descriptors must go down. `main` calls this module; `./ci chaos soak` runs it.

mod crowd;
mod graph;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nanofaas_testkit::folder::ScratchFolder;

use crate::subject::{ControlPlaneForm, FORMS, Subject};
use crate::tally::Tally;
use crowd::{Crowd, SoakPods};

pub(crate) use crowd::program;

const SAMPLES: u32 = 360;
/// The allowed growth from the median of the second quarter to the median of the last quarter: this number,
/// or the share `MEMORY_GROWTH` of the first median if the share is more.
const MEMORY_GROWTH_MIB: f64 = 4.0;
const MEMORY_GROWTH: f64 = 0.1;
const DESCRIPTORS_GROWTH: f64 = 8.0;
/// The pause between the end of the load and the last sample.
const REST: Duration = Duration::from_secs(10);
const REST_GROWTH_MIB: f64 = 16.0;
/// The records of plain calls stay after the load. Each io thread keeps 4096 of them, of at most 1.5 KiB.
const RECORDS_MIB: f64 = 6.0;

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    memory_mib: f64,
    descriptors: f64,
    threads: f64,
    inflight_mib: f64,
    store_mib: f64,
    accepted: f64,
}

/// Runs all forms side by side for `length`. Returns false if anything was wrong.
pub(crate) fn run(length: Duration, seed: u64, into: &Path) -> bool {
    println!("soak: {length:?}, NANOFAAS_CHAOS_SEED={seed}");
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let mut histories = Vec::new();
    let mut sound = true;
    std::thread::scope(|scope| {
        let runs = FORMS.map(|form| {
            let over = &over;
            scope.spawn(move || one(form, length, seed, begun, over))
        });
        for (form, run) in FORMS.into_iter().zip(runs) {
            let (history, tally) = run.join().expect("a run of ours");
            println!("-- {}", form.name);
            tally.print();
            tally.print_wrongs(form.name);
            sound &= tally.wrongs() == 0;
            histories.push((form.name, history));
        }
    });
    std::fs::create_dir_all(into).expect("a folder");
    std::fs::write(into.join("soak.csv"), table(&histories)).expect("a file");
    std::fs::write(into.join("soak.svg"), graph::draw(&histories)).expect("a file");
    println!("soak: soak.csv and soak.svg are in {}", into.display());
    println!("soak: {}", if sound { "passed" } else { "FAILED" });
    sound
}

fn one(
    form: ControlPlaneForm,
    length: Duration,
    seed: u64,
    begun: Instant,
    over: &AtomicBool,
) -> (Vec<Sample>, Arc<Tally>) {
    let tally = Arc::new(Tally::default());
    let folder = ScratchFolder::create();
    let more = ["--backend", "local", "--rate-max-per-second", "off"];
    let subject = Subject::start(form, &more, &tally);
    let pods = SoakPods::start();
    let crowd = Crowd {
        plane: &subject.plane,
        pods: &pods,
        tally: &tally,
        folder: folder.path(),
        over,
    };
    crowd.register();
    let idle = sample(&subject, begun);
    let mut history = Vec::new();
    std::thread::scope(|scope| {
        crowd.spawn(scope, seed);
        while begun.elapsed() < length && subject.is_alive() {
            std::thread::sleep(length / SAMPLES);
            history.push(sample(&subject, begun));
        }
        over.store(true, Ordering::Relaxed);
    });
    if subject.is_alive() {
        crowd.remove();
        subject.balance();
        pods.hang_up();
        std::thread::sleep(REST);
        let rest = sample(&subject, begun);
        history.push(rest);
        judge(&history, idle, rest, &tally);
    }
    subject.stop();
    if tally.wrongs() > 0 {
        subject.print_log();
    }
    (history, tally)
}

fn sample(subject: &Subject, begun: Instant) -> Sample {
    const MIB: f64 = 1024.0 * 1024.0;
    let status = std::fs::read_to_string(format!("/proc/{}/status", subject.plane.pid));
    let status = status.unwrap_or_default();
    let field = |name: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or(f64::NAN)
    };
    let metrics = subject.plane.metrics();
    let sum = |name: &str| metrics.sum(name, &[]);
    Sample {
        at: begun.elapsed(),
        memory_mib: field("VmRSS:") / 1024.0,
        descriptors: subject.descriptors().len() as f64,
        threads: field("Threads:"),
        inflight_mib: sum("nanofaas_inflight_bytes") / MIB,
        store_mib: sum("nanofaas_store_bytes") / MIB,
        accepted: sum("nanofaas_executions_accepted"),
    }
}

/// Checks that the resources hardly grew during the load, and were released after it.
fn judge(history: &[Sample], idle: Sample, rest: Sample, tally: &Tally) {
    let quarter = history.len() / 4;
    let growth = |what: &str, allowed: f64, of: fn(&Sample) -> f64| {
        let before = median(&history[quarter..2 * quarter], of);
        let after = median(&history[history.len() - quarter..], of);
        println!("   {what}: median of the second quarter {before:.1}, of the last {after:.1}");
        if after > before + allowed.max(before * MEMORY_GROWTH) {
            tally.wrong(format!("{what} grew from {before:.1} to {after:.1}"));
        }
    };
    growth("memory in MiB", MEMORY_GROWTH_MIB, |one| one.memory_mib);
    growth("descriptors", DESCRIPTORS_GROWTH, |one| one.descriptors);
    growth("threads", 0.0, |one| one.threads);
    println!("   idle {idle:?}\n   after {rest:?}");
    if rest.inflight_mib != 0.0 {
        tally.wrong(format!("{} MiB of calls are left", rest.inflight_mib));
    }
    // An io thread opens some of its own descriptors only when it first needs them.
    if rest.descriptors > idle.descriptors + DESCRIPTORS_GROWTH {
        tally.wrong(format!("{} descriptors are left", rest.descriptors));
    }
    let kept = rest.memory_mib - rest.store_mib - idle.memory_mib;
    if kept > REST_GROWTH_MIB + RECORDS_MIB * idle.threads {
        tally.wrong(format!("{kept:.1} MiB are left, 10 s after the load"));
    }
}

fn median(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn table(histories: &[(&str, Vec<Sample>)]) -> String {
    let mut text =
        "form,at_s,memory_mib,descriptors,threads,inflight_mib,store_mib,accepted\n".to_owned();
    for (form, history) in histories {
        for one in history {
            let at_s = one.at.as_secs();
            let _ = writeln!(
                text,
                "{form},{at_s},{:.2},{},{},{:.2},{:.2},{}",
                one.memory_mib,
                one.descriptors,
                one.threads,
                one.inflight_mib,
                one.store_mib,
                one.accepted
            );
        }
    }
    text
}
