//! Tests that percentiles are right: with a known service time, with two service times, and with a
//! server that stalls. An open loop has to show the stall, and a closed loop cannot.

use std::sync::{Mutex, PoisonError};

use crate::server::{ScriptedServer, ok, wait_ms};
use crate::tool::{quiet, run};

#[test]
fn a_fixed_service_time_is_found() {
    let _turn = quiet();
    let server = ScriptedServer::tcp(|_| {
        wait_ms(5);
        ok()
    });
    let outcome = run(&[&server.url, "--warm-up", "0.2", "-d", "2"]);
    let (min, p50) = (outcome.ms("min_us"), outcome.ms("p50_us"));
    assert!((5.0..6.5).contains(&min), "{min}");
    assert!((5.0..8.0).contains(&p50), "{p50}");
    // There is one connection, so one request runs at a time, and rate times latency is 1.
    let rate = outcome.json["answers_per_s"].as_f64().expect("a rate");
    let mean = outcome.ms("mean_us");
    assert!(
        (rate * mean / 1e3 - 1.0).abs() < 0.15,
        "{rate}/s of {mean} ms"
    );
    assert_eq!(outcome.count("/errors"), 0);
}

#[test]
fn two_modes_are_told_apart() {
    let _turn = quiet();
    // One request in twenty is slow, so p90 is the latency of a fast request, and p99 that of a slow one.
    let server = ScriptedServer::tcp(|got| {
        wait_ms(if got.number % 20 == 19 { 60 } else { 2 });
        ok()
    });
    let outcome = run(&[&server.url, "-c", "2", "--warm-up", "0.2", "-d", "3"]);
    let (p50, p90, p99) = (
        outcome.ms("p50_us"),
        outcome.ms("p90_us"),
        outcome.ms("p99_us"),
    );
    assert!((2.0..12.0).contains(&p50), "{p50}");
    assert!((2.0..30.0).contains(&p90), "{p90}");
    assert!((60.0..100.0).contains(&p99), "{p99}");
}

/// Starts a server that answers in about a millisecond. At one request it stops for a second, for all
/// connections.
fn stalling() -> ScriptedServer {
    let only_one = Mutex::new(());
    ScriptedServer::tcp(move |got| {
        let _one = only_one.lock().unwrap_or_else(PoisonError::into_inner);
        wait_ms(if got.number == 300 { 1000 } else { 1 });
        ok()
    })
}

#[test]
fn an_open_loop_shows_a_stall() {
    let _turn = quiet();
    // 200/s for 4 s: a stall of one second delays 200 of 800 requests, each of them for a shorter
    // time than the request before it.
    let server = stalling();
    let outcome = run(&[
        &server.url,
        "-c",
        "4",
        "-r",
        "200",
        "--warm-up",
        "0.5",
        "-d",
        "4",
    ]);
    let (p50, p90, p99) = (
        outcome.ms("p50_us"),
        outcome.ms("p90_us"),
        outcome.ms("p99_us"),
    );
    assert!(p50 < 100.0, "{p50}");
    assert!((450.0..900.0).contains(&p90), "{p90}");
    assert!((850.0..1500.0).contains(&p99), "{p99}");
    // Four of the delayed requests were in flight. The others waited in the client, which
    // `client_wait` must show.
    let waited = outcome.json["client_wait"]["p90_us"]
        .as_f64()
        .expect("a figure")
        / 1e3;
    assert!(waited > 300.0, "{waited}");
    assert_eq!(outcome.count("/requests"), 800);
    assert_eq!(outcome.count("/statuses/200"), 800);
}

#[test]
fn a_closed_loop_cannot_show_it() {
    let _turn = quiet();
    let outcome = run(&[&stalling().url, "--warm-up", "0.1", "-d", "3"]);
    let (p99, max) = (outcome.ms("p99_us"), outcome.ms("max_us"));
    assert!(p99 < 100.0, "{p99}");
    assert!(max >= 1000.0, "{max}");
}

#[test]
fn an_overload_is_not_hidden() {
    let _turn = quiet();
    // The server takes 4 ms for each request of the one connection: at most 250/s. The load is 500/s.
    let server = ScriptedServer::tcp(|_| {
        wait_ms(4);
        ok()
    });
    let arguments = ["-r", "500", "--warm-up", "0", "-d", "2", "--drain", "0.2"];
    let outcome = run(&[&[server.url.as_str()][..], &arguments].concat());
    assert_eq!(outcome.count("/requests"), 1000);
    let done = outcome.count("/statuses/200");
    assert!((250..560).contains(&done), "{done}");
    assert_eq!(outcome.count("/faults/unfinished"), 1000 - done);
    let rate = outcome.json["answers_per_s"].as_f64().expect("a rate");
    assert!((100.0..251.0).contains(&rate), "{rate}");
    // The latency of a request without an answer is the time that the request waited until the end of the
    // run.
    let p50 = outcome.ms("p50_us");
    assert!((600.0..1500.0).contains(&p50), "{p50}");
}
