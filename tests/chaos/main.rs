//! These tests put a real plane under random changes, calls, cancels, kills and broken connections, with a
//! canary in every body. The storm test breaks connections at any byte. The tests observe the plane only from
//! outside. They judge by the contract and never by time.
//!
//! `cargo test --release -p nanofaas --test chaos`, or `./ci chaos`, runs chaos and a storm. `-- chaos` or
//! `-- storm` runs only that test, and `-- soak` runs the load of an hour that `soak` describes.
//! `NANOFAAS_CHAOS_SEED` replays the operations of a seed, but not their timing. `NANOFAAS_CHAOS_SECONDS` is
//! the length in each of the four forms (15), or the length of the soak. `NANOFAAS_STORM_CONNECTIONS` is the
//! number of connections (4000). `./ci chaos planted` checks that the chaos test finds the planted bugs that
//! `planted.txt` names.
//!
//! What must hold: every plane lives without a panic; at the end the ledger's drift is 0; every execution
//! that got an id ends; a body reaches only pods of the function to which it was sent; a caller gets only
//! answers to its own call, and only answers that the contract allows; no function runs more calls than its
//! concurrency; no descriptor and no process is left.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]
#![allow(clippy::print_stdout, reason = "a run prints its counts and faults")]
#![allow(
    clippy::print_stderr,
    reason = "a function's process can report by stderr only"
)]

mod plan;
mod canary;
mod book;
mod ledger;
mod judge;
mod tally;
mod registrar;
mod clients;
mod pods;
mod subject;
mod run;
mod storm;
mod soak;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tally::Tally;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("pod") => return pods::program(),
        Some("soak-pod") => return soak::program(),
        _ => {}
    }
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_chosen = |name: &str| filters.is_empty() || filters.iter().any(|word| *word == name);
    let mut sound = true;
    if is_chosen("chaos") {
        sound &= chaos();
    }
    if is_chosen("storm") {
        sound &= storm::run(setting("NANOFAAS_STORM_CONNECTIONS").unwrap_or(4000));
    }
    // The soak takes an hour, so it runs only if an argument names it.
    if filters.iter().any(|word| *word == "soak") {
        let length = Duration::from_secs(setting("NANOFAAS_CHAOS_SECONDS").unwrap_or(3600));
        let into = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak");
        sound &= soak::run(length, seed(), &into);
    }
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, is {text:?}")),
    )
}

fn seed() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    setting("NANOFAAS_CHAOS_SEED").unwrap_or_else(|| u64::from(since.subsec_nanos()))
}

/// The largest number of rounds, in each of which all forms run. The rounds end as soon as every kind of
/// operation and of end has occurred.
const ROUNDS: u64 = 3;

fn chaos() -> bool {
    let seed = seed();
    let length = Duration::from_secs(setting("NANOFAAS_CHAOS_SECONDS").unwrap_or(15));
    println!("chaos: NANOFAAS_CHAOS_SEED={seed}, {length:?} in each form");
    let total = Tally::default();
    for round in 0..ROUNDS {
        for form in subject::FORMS {
            // A fault ends the test here, because the other forms would most likely show the same fault.
            if !run::run(form, seed + round, length, &total) {
                return false;
            }
        }
        // On a busy machine, fewer operations fit into the time, so another round may be needed.
        if total.missing().is_empty() {
            break;
        }
    }
    total.print();
    let missing = total.missing();
    if !missing.is_empty() {
        println!("NOT RICH, of seed {seed}: never happened: {missing:?}");
        return false;
    }
    println!("chaos: passed");
    true
}
