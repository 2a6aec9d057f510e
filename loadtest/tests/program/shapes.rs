//! Tests of requests (bodies, headers, weights, names and traces), and of answers without a
//! content-length or in several pieces.

use std::collections::HashMap;

use crate::server::{ScriptedServer, ok, raw};
use crate::tool::{ToolFolder, program, run};

#[test]
fn unix_sockets_and_chunks() {
    let folder = ToolFolder::new();
    let server = ScriptedServer::unix(&folder.0.join("s"), |_| {
        raw(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n\
             0\r\n\r\n",
            false,
        )
    });
    let url = format!("{}/call", server.url);
    let outcome = run(&[
        &url,
        "-c",
        "2",
        "--body-bytes",
        "100",
        "--warm-up",
        "0",
        "-d",
        "0.5",
    ]);
    assert_eq!(outcome.count("/errors"), 0);
    assert!(outcome.count("/statuses/200") > 50);
    let got = &server.seen()[0];
    assert_eq!(got.first_line, "POST /call HTTP/1.1");
    assert_eq!(
        (got.body.len(), &got.body[..10]),
        (100, &br#"{"input":""#[..])
    );
}

#[test]
fn large_bodies_go_out_whole() {
    let folder = ToolFolder::new();
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
    std::fs::write(folder.path("body"), &body).expect("a file");
    let server = ScriptedServer::tcp(|_| ok());
    let (url, file) = (format!("{}/", server.url), folder.path("body"));
    let header = "content-type: application/octet-stream";
    let outcome = run(&[
        &url,
        "-X",
        "PUT",
        "-H",
        header,
        "--body-file",
        &file,
        "--warm-up",
        "0",
        "-d",
        "1",
    ]);
    assert_eq!(outcome.count("/errors"), 0, "{}", outcome.json);
    let seen = server.seen();
    assert!(!seen.is_empty() && seen.iter().all(|got| got.body == body));
    assert_eq!(seen[0].first_line, "PUT / HTTP/1.1");
    assert!(seen[0].head.contains(header), "{}", seen[0].head);
}

#[test]
fn targets_follow_weights_and_names_follow_zipf() {
    let server = ScriptedServer::tcp(|_| ok());
    let (often, seldom) = (
        format!("{}/a/{{function}} 3", server.url),
        format!("{}/b 1", server.url),
    );
    let names = [
        "--functions-zipf",
        "1000",
        "--zipf-s",
        "1.1",
        "--name-template",
        "fn-{}",
    ];
    let arguments = [
        &[
            often.as_str(),
            &seldom,
            "-r",
            "2000",
            "--warm-up",
            "0",
            "-d",
            "1",
        ],
        &names[..],
    ];
    let outcome = run(&arguments.concat());
    let mut counts: HashMap<String, u64> = HashMap::new();
    for got in server.seen() {
        *counts.entry(got.first_line).or_default() += 1;
    }
    let b = counts["GET /b HTTP/1.1"];
    assert!((400..600).contains(&b), "{b}");
    let first = counts["GET /a/fn-0 HTTP/1.1"];
    assert!(
        counts.len() > 100 && (200..400).contains(&first),
        "{first} of {}",
        counts.len()
    );
    assert_eq!(outcome.count("/targets/1/latency/count"), b);
}

#[test]
fn a_trace_is_made_and_replayed() {
    let folder = ToolFolder::new();
    let file = folder.path("trace.csv");
    let shape = [
        "--functions",
        "20",
        "--seconds",
        "10",
        "--rate",
        "40",
        "--seed",
        "3",
    ];
    let made = program()
        .arg("trace")
        .arg(&file)
        .args(shape)
        .output()
        .expect("it starts");
    assert!(made.status.success(), "{made:?}");
    let text = std::fs::read_to_string(&file).expect("a trace");
    let rows = text.lines().count() - 1;
    assert!(rows > 20, "{rows}");
    let server = ScriptedServer::tcp(|_| ok());
    let url = format!("{}/{{function}}", server.url);
    let body = r#"{"input":{"ms":{duration_ms}}}"#;
    let arguments = [
        "--trace", &file, "--speed", "10", "-d", "60", "-c", "8", "--body", body,
    ];
    let outcome = run(&[&[url.as_str()][..], &arguments].concat());
    assert_eq!(outcome.count("/statuses/200"), rows as u64);
    assert!(
        (0.5..6.0).contains(&outcome.took.as_secs_f64()),
        "{:?}",
        outcome.took
    );
    // The server must have received the calls of the trace with their durations.
    let mut sent: Vec<String> = server
        .seen()
        .iter()
        .map(|got| {
            let body: serde_json::Value = serde_json::from_slice(&got.body).expect("JSON");
            let name = got.first_line.split(['/', ' ']).nth(2).unwrap_or_default();
            format!(
                "{name} {:.3}",
                body["input"]["ms"].as_f64().expect("a number")
            )
        })
        .collect();
    let mut meant: Vec<String> = text
        .lines()
        .skip(1)
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            format!("{} {}", fields[0], fields[2])
        })
        .collect();
    sent.sort();
    meant.sort();
    assert_eq!(sent, meant);
}

#[test]
fn a_report_holds_all_it_needs() {
    let folder = ToolFolder::new();
    let (json, html) = (folder.path("r.json"), folder.path("r.html"));
    let server = ScriptedServer::tcp(|_| ok());
    let watch = format!("me={}", std::process::id());
    let output = program()
        .args([
            "run",
            &server.url,
            "-q",
            "--warm-up",
            "0.2",
            "-d",
            "1",
            "--watch",
            &watch,
        ])
        .args(["--json", &json, "--html", &html])
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    for word in ["answers/s", "p99.9", "load generator", "me"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let page = std::fs::read_to_string(html).expect("a page");
    assert_eq!(page.matches("<svg").count(), 4);
    for outside in ["src=", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(json).expect("a file")).expect("JSON");
    let counts = json["latency"]["histogram_ns"]
        .as_array()
        .expect("a histogram")
        .iter();
    let sum: u64 = counts.map(|pair| pair[1].as_u64().expect("a count")).sum();
    assert_eq!(json["latency"]["count"], sum);
    assert!(
        json["windows"]
            .as_array()
            .is_some_and(|windows| windows.len() > 8)
    );
    assert!(
        json["cpu_samples"]
            .as_array()
            .is_some_and(|samples| samples.len() > 8)
    );
    assert!(
        json["cpu"]["watched"][0]["cores"]
            .as_f64()
            .is_some_and(|cores| cores > 0.0)
    );
}
