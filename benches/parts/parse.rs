//! Benches of parsing a request: its head, and the single pass over its body.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use nanofaas_http1::head::HeadScan;
use nanofaas_http1::request::parse_request;
use nanofaas_io::json;

/// The head that a small client program sends.
const LEAN: &str = "POST /v1/functions/word-stats:invoke HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
    Content-Type: application/json\r\nContent-Length: 268\r\n\r\n";

/// The head of a browser's request that came through a gateway.
const FULL: &str = "POST /v1/functions/word-stats:invoke HTTP/1.1\r\nHost: faas.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: application/json, text/plain, */*\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nContent-Type: application/json\r\n\
    X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Trace-Id: 5f0c1c9d8b7a6e5f\r\n\
    traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
    X-Timeout-Ms: 5000\r\nContent-Length: 268\r\nConnection: keep-alive\r\n\r\n";

pub(crate) fn head(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request head");
    for (name, text) in [("lean", LEAN), ("full", FULL)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut scan = HeadScan::default();
                let parsed = parse_request(black_box(text.as_bytes()), &mut scan);
                assert!(matches!(parsed, Ok(Some(_))), "it is a whole request");
                parsed
            });
        });
    }
    group.finish();
}

/// Makes an envelope whose input has about this many bytes of typical JSON.
fn body(bytes: usize) -> String {
    const ITEM: &str = r#"{"id": 17, "name": "grün", "tags": ["a", "b"], "score": -0.25e3},"#;
    let items = ITEM.repeat((bytes / ITEM.len()).max(1));
    let items = items.trim_end_matches(',');
    format!(r#"{{"input": [{items}], "metadata": {{"source": "bench"}}}}"#)
}

pub(crate) fn envelope(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("envelope check");
    for bytes in [256, 16 * 1024] {
        let body = body(bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| {
                let envelope = json::envelope(black_box(body.as_bytes()));
                assert!(envelope.is_ok(), "it is sound JSON");
                envelope
            });
        });
    }
    group.finish();
}
