//! Tests that no request is lost and no run exceeds its time, with servers that misbehave.

use std::net::TcpListener;
use std::time::Duration;

use crate::server::{ScriptedServer, ok, raw, status, wait_ms};
use crate::tool::{refusal, run};

#[test]
fn a_server_may_close_after_each_answer() {
    let server = ScriptedServer::tcp(|_| {
        raw(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx",
            true,
        )
    });
    for more in [&["-c", "3"][..], &["-c", "3", "--poisson", "300"]] {
        let arguments = [&[server.url.as_str(), "--warm-up", "0.1", "-d", "1"], more].concat();
        let outcome = run(&arguments);
        assert_eq!(outcome.count("/errors"), 0, "{}", outcome.json);
        let (answers, anew) = (outcome.count("/statuses/200"), outcome.count("/reconnects"));
        assert!(answers > 50 && anew >= answers, "{answers} {anew}");
    }
}

#[test]
fn closing_without_an_answer_is_an_error_each() {
    let server = ScriptedServer::tcp(|got| match got.number % 4 {
        3 => raw("", true),
        2 => raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", true),
        _ => ok(),
    });
    let outcome = run(&[&server.url, "-c", "2", "--warm-up", "0", "-d", "1"]);
    let (closed, answers) = (
        outcome.count("/faults/closed"),
        outcome.count("/statuses/200"),
    );
    assert!(
        closed > 10 && answers.abs_diff(closed) <= 4,
        "{closed} {answers}"
    );
    assert_eq!(server.seen().len() as u64, outcome.count("/requests"));
}

#[test]
fn an_unexpected_status_is_an_error() {
    let server = ScriptedServer::tcp(|got| {
        status(if got.number.is_multiple_of(2) {
            503
        } else {
            200
        })
    });
    let arguments = [server.url.as_str(), "--warm-up", "0", "-d", "0.5"];
    let outcome = run(&arguments);
    assert_eq!(outcome.count("/errors"), outcome.count("/statuses/503"));
    assert_eq!(
        outcome.count("/latency/count"),
        outcome.count("/statuses/200")
    );
    assert_eq!(
        outcome.count("/unexpected/503/count"),
        outcome.count("/statuses/503")
    );
    let outcome = run(&[&arguments[..], &["--expect", "503", "--expect", "200"]].concat());
    assert_eq!(outcome.count("/errors"), 0);
    assert!(outcome.count("/statuses/503") > 10);
}

#[test]
fn a_refusal_is_no_answer_and_no_error() {
    let server = ScriptedServer::tcp(|got| {
        status(match got.number % 3 {
            0 => 429,
            1 => 503,
            _ => 200,
        })
    });
    let outcome = run(&[
        &server.url,
        "--warm-up",
        "0",
        "-d",
        "0.5",
        "--refusal",
        "429",
    ]);
    let count = |status: u16| outcome.count(&format!("/statuses/{status}"));
    assert!(count(429) > 10, "{}", outcome.json);
    // 503 is neither expected nor a refusal, so it counts as an error.
    assert_eq!(outcome.count("/errors"), count(503));
    assert_eq!(outcome.count("/latency/count"), count(200));
    assert_eq!(outcome.count("/unexpected/429/count"), count(429));
    let text = refusal(&[&server.url, "--expect", "429", "--refusal", "429"]);
    assert!(text.contains("not both"), "{text}");
}

#[test]
fn nonsense_is_an_error() {
    let server = ScriptedServer::tcp(|_| raw("SSH-2.0-OpenSSH\r\n\r\n", false));
    let outcome = run(&[&server.url, "--warm-up", "0", "-d", "0.5"]);
    assert!(outcome.count("/faults/no_answer") > 5, "{}", outcome.json);
    assert_eq!(outcome.count("/errors"), outcome.count("/requests"));
}

#[test]
fn bytes_that_nobody_asked_for_are_told() {
    let server = ScriptedServer::tcp(|_| {
        raw(
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n",
            false,
        )
    });
    let outcome = run(&[&server.url, "--warm-up", "0", "-d", "0.5"]);
    assert!(outcome.count("/faults/no_answer") + outcome.count("/unasked") > 5);
}

#[test]
fn a_silent_server_does_not_hold_the_end() {
    let server = ScriptedServer::tcp(|_| {
        wait_ms(30_000);
        ok()
    });
    let arguments = ["-c", "2", "--warm-up", "0", "-d", "1", "--drain", "0.3"];
    let silent = run(&[&[server.url.as_str()][..], &arguments].concat());
    assert!(silent.took < Duration::from_secs(4), "{:?}", silent.took);
    assert_eq!(silent.count("/faults/unfinished"), 2);
    // These requests lasted for the whole run, which the percentiles must show.
    assert!(silent.ms("p50_us") > 900.0, "{}", silent.ms("p50_us"));

    let arguments = [
        &[server.url.as_str()][..],
        &arguments,
        &["--timeout", "0.2"],
    ]
    .concat();
    let late = run(&arguments);
    assert!(late.took < Duration::from_secs(4), "{:?}", late.took);
    assert!(late.count("/faults/timeout") >= 4, "{}", late.json);

    let open = run(&[&arguments[..], &["-r", "100"]].concat());
    assert!(open.took < Duration::from_secs(4), "{:?}", open.took);
    assert_eq!(open.count("/requests"), 100);
    assert_eq!(open.count("/statuses/200"), 0);
}

#[test]
fn a_server_that_leaves_ends_the_run() {
    // This server accepts one connection and closes its listener. After 200 ms it closes the connection
    // without an answer.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let stream = listener.accept();
        drop(listener);
        wait_ms(200);
        drop(stream);
    });
    let outcome = run(&[
        &url,
        "-r",
        "50",
        "--warm-up",
        "0",
        "-d",
        "1",
        "--drain",
        "0.2",
    ]);
    assert!(outcome.took < Duration::from_secs(4), "{:?}", outcome.took);
    assert!(outcome.count("/connect_errors") > 5, "{}", outcome.json);
    assert_eq!(outcome.count("/errors"), 50);
}

#[test]
fn what_cannot_run_is_refused_at_once() {
    let far = refusal(&["http://192.0.2.1:80/"]);
    assert!(far.contains("--allow-remote"), "{far}");
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let dead = refusal(&[&format!("http://127.0.0.1:{port}/")]);
    assert!(dead.contains("start the server first"), "{dead}");
    for (arguments, word) in [
        (&["http://127.0.0.1:1/", "-d", "7200"][..], "3600"),
        (&["http://127.0.0.1:1/", "-c", "0"], "connections"),
        (&["http://127.0.0.1:1/", "-r", "0"], "rate"),
        (&["http://127.0.0.1:1/{function}"], "names"),
        (&["http://127.0.0.1:1/", "-H", "x"], "name: value"),
        (&["http://127.0.0.1:1/", "--trace", "/nowhere"], "/nowhere"),
    ] {
        let text = refusal(arguments);
        assert!(text.contains(word), "{arguments:?}: {text}");
    }
}
