//! Makes inputs: mostly valid messages, of which about half are then damaged. Random bytes without a valid
//! message would nearly always be refused at the first line.

use nanofaas_fuzz::Rng;

use crate::cases::wound;

const METHODS: &[&str] = &[
    "GET", "POST", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "PURGE", "get",
];
const TARGETS: &[&str] = &[
    "/",
    "/v1/functions/f:invoke",
    "/v1/executions/abc?waitMs=10",
    "/a%20b/../c?x=y&z",
    "http://h/a",
    "HTTPS://H?x",
    "//",
    "/?",
];
const ODD_TARGETS: &[&str] = &[
    "*",
    "http://other/a?b",
    "/a#b",
    "h:80",
    "/caf\u{e9}",
    "http://",
    "?",
];
const VERSIONS: &[&str] = &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"];
const ODD_VERSIONS: &[&str] = &["HTTP/2.0", "HTTP/1.2", "HTTP/11", "http/1.1", ""];
const HEADERS: &[&str] = &[
    "Accept: */*",
    "User-Agent: x/1.0 (y; z)",
    "X: ",
    "X:",
    "X-Y:\ta\tb\t",
    "Connection: close",
    "Connection: keep-alive",
    "connection: Upgrade, Keep-Alive ,,",
    "Content-Type: text/plain",
    "Content-Type: application/json; charset=utf-8",
    "Content-Encoding: gzip",
    "content-encoding: Identity",
    "Idempotency-Key: k-1",
    "Origin: null",
    "X-Trace-Id: 1234",
    "traceparent: 00-ab-cd-01",
    "tracestate: a=b",
    "X-Timeout-Ms: 500",
    "Prefer: respond-async",
    "Prefer: wait=10, handling=\"a,b\"",
    "Expect: 100-continue",
    "X-Cold-Start: true",
    "X-Init-Duration-Ms: 15",
    "X-Not-Started: true",
    "X-Execution-Id: e1",
    "Retry-After: 7",
    "Keep-Alive: timeout=5",
    "X: caf\u{e9}",
];
const ODD_HEADERS: &[&str] = &[
    "Expect: 200-ok",
    "Content-Length: 3",
    "Content-Length: 0",
    "Content-Length: 007",
    "Content-Length: 3, 3",
    "Content-Length: 99999999999999999999",
    "content-length: +3",
    "Transfer-Encoding: chunked",
    "transfer-encoding:CHUNKED ",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: ,chunked",
    "Host: h",
    "Host: other:80",
    "Host: a,b",
    "Host:",
    "Host: [::1]:80",
    "Host: [::1].h",
    "Host: [::1%251]:8",
    "Host: h:65536",
    "Host: %41:1:",
    "Caf\u{e9}: x",
    "A : b",
    " A: b",
];
const STATUSES: &[&str] = &[
    "200 OK",
    "200 OK",
    "200",
    "200 ",
    "204 No Content",
    "304 Not Modified",
    "100 Continue",
    "103 Early Hints",
    "500 Internal \u{e9}",
    "503 x",
];
const ODD_STATUSES: &[&str] = &[
    "101 Switching",
    "099 x",
    "600 x",
    "20 x",
    "2000",
    " 200 OK",
    "",
];
const WOUNDS: &[&str] = &[
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    "\n\n",
    " ",
    "\t",
    ":",
    ": ",
    ",",
    ";",
    "=",
    "\0",
    "\x7f",
    "\x0b",
    "#",
    "?",
    "/",
    "\"",
    "\\",
    "0",
    "1",
    "f",
    "-",
    "chunked",
    "close",
    "HTTP/1.1",
    "\r\n ",
    "\r\nHost: h\r\n",
    "\r\nContent-Length: 3\r\n",
    "\r\nTransfer-Encoding: chunked\r\n",
];

fn mostly<'a>(rng: &mut Rng, sound: &[&'a str], odd: &[&'a str]) -> &'a str {
    if rng.one_in(12) {
        rng.pick(odd)
    } else {
        rng.pick(sound)
    }
}

/// Makes one to three requests, as on one connection; in some inputs, random bytes instead.
pub(crate) fn requests(rng: &mut Rng, out: &mut Vec<u8>) {
    if rng.one_in(32) {
        return noise(rng, out);
    }
    for _ in 0..rng.range(1..4) {
        if rng.one_in(16) {
            out.extend_from_slice(b"\r\n");
        }
        let target = mostly(rng, TARGETS, ODD_TARGETS);
        let words = [
            rng.pick(METHODS),
            target,
            mostly(rng, VERSIONS, ODD_VERSIONS),
        ]
        .join(" ");
        out.extend_from_slice(words.as_bytes());
        if rng.one_in(512) {
            let extra = rng.range(8_000..9_000);
            let at = out.len() - words.len() + words.rfind(' ').unwrap_or(0);
            out.splice(at..at, std::iter::repeat_n(b'a', extra));
        }
        let host = if rng.one_in(16) { "" } else { "\r\nHost: h" };
        out.extend_from_slice(host.as_bytes());
        headers(rng, out);
    }
    wound(rng, out, WOUNDS);
}

/// Makes one to three answers, as on one connection; in some inputs, random bytes instead.
pub(crate) fn answers(rng: &mut Rng, out: &mut Vec<u8>) {
    if rng.one_in(32) {
        return noise(rng, out);
    }
    for _ in 0..rng.range(1..4) {
        out.extend_from_slice(mostly(rng, VERSIONS, ODD_VERSIONS).as_bytes());
        out.push(b' ');
        out.extend_from_slice(mostly(rng, STATUSES, ODD_STATUSES).as_bytes());
        headers(rng, out);
    }
    wound(rng, out, WOUNDS);
}

/// Makes header lines, the end of the head, and a body if the last header announces one.
fn headers(rng: &mut Rng, out: &mut Vec<u8>) {
    for _ in 0..rng.below(6) {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(mostly(rng, HEADERS, ODD_HEADERS).as_bytes());
    }
    match rng.below(1024) {
        // Some heads have a number of headers or a size near the parser's limit.
        0 => (0..rng.range(92..104)).for_each(|_| out.extend_from_slice(b"\r\nA: b")),
        1 => {
            out.extend_from_slice(b"\r\nA: ");
            let length = rng.range(16_200..16_450);
            out.extend(std::iter::repeat_n(b'b', length));
        }
        _ => {}
    }
    match rng.below(3) {
        0 if !rng.one_in(8) => {
            let length = rng.below(12);
            out.extend_from_slice(format!("\r\nContent-Length: {length}\r\n\r\n").as_bytes());
            out.extend(std::iter::repeat_n(b'x', length));
        }
        1 => {
            out.extend_from_slice(b"\r\nTransfer-Encoding: chunked\r\n\r\n");
            chunks(rng, out);
        }
        _ => out.extend_from_slice(b"\r\n\r\n"),
    }
}

/// Makes a chunked body, with or without bytes after it.
pub(crate) fn chunked(rng: &mut Rng, out: &mut Vec<u8>) {
    chunks(rng, out);
    out.extend_from_slice(rng.pick(&["", "GET / HTTP/1.1\r\n"]).as_bytes());
    wound(rng, out, WOUNDS);
}

fn chunks(rng: &mut Rng, out: &mut Vec<u8>) {
    for _ in 0..rng.below(4) {
        let length = if rng.one_in(16) {
            rng.range(100..300)
        } else {
            rng.range(1..20)
        };
        let extension = rng.pick(&["", "", "", ";a=b", " ; c=\"d\"", ";\u{e9}"]);
        out.extend_from_slice(format!("{length:x}{extension}\r\n").as_bytes());
        out.extend((0..length).map(|_| rng.byte()));
        out.extend_from_slice(b"\r\n");
    }
    let trailer = rng.pick(&["", "", "X: y\r\n", "X:\r\nHost: z\r\n"]);
    out.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
}

fn noise(rng: &mut Rng, out: &mut Vec<u8>) {
    for _ in 0..rng.below(64) {
        if rng.one_in(2) {
            out.extend_from_slice(rng.pick(WOUNDS).as_bytes());
        } else {
            out.push(rng.byte());
        }
    }
}

/// Makes a value of a header, a query or a path segment.
pub(crate) fn values(rng: &mut Rng, out: &mut Vec<u8>) {
    const SEEDS: &[&str] = &[
        "respond-async, wait=10",
        "wait=\"5\"; a=b",
        "application/json; charset=\"utf-8\"",
        "text/plain;charset=latin1",
        "300000",
        "waitMs=10&a=b%20c",
        "a%2Fb%c3%a9",
        "word-stats",
        "caf\u{e9} \u{1f600}",
        "line\nline\ttab \"quoted\" \\ \u{1}",
    ];
    out.extend_from_slice(rng.pick(SEEDS).as_bytes());
    wound(rng, out, WOUNDS);
}
