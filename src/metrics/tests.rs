//! Tests that parse the page by the rules of the format and compare its figures with the counters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use nanofaas_core::metrics::CallTime;
use nanofaas_core::ticket::Class;
use nanofaas_core::time::Nanos;

use super::*;

fn info(threads: usize) -> ProcessInfo {
    info_of((0..threads).map(|_| ThreadLedger::default()).collect())
}

pub(crate) fn info_of(ledgers: Arc<[ThreadLedger]>) -> ProcessInfo {
    ProcessInfo {
        ledgers,
        io_driver: "epoll",
        scheduler: "pinned",
        backend: "local",
        process: ProcessMetrics {
            started: SystemTime::now(),
        },
        log_lines_dropped: 0,
    }
}

fn lane(name: &str, threads: usize) -> (Arc<str>, Arc<QueueStats>) {
    (name.into(), Arc::new(QueueStats::new(threads)))
}

/// Returns the value of each sample by its name and labels. Panics if the page breaks a rule of the format.
fn parse(page: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut family = (String::new(), String::new());
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty());
            assert!(
                families.insert(name.to_owned()),
                "{name} has two HELP lines"
            );
            family = (name.to_owned(), String::new());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, family.0, "TYPE follows HELP");
            assert!(family.1.is_empty(), "{name} has two TYPE lines");
            assert!(["counter", "gauge", "histogram"].contains(&kind));
            family.1 = kind.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            let ends: &[&str] = match family.1.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            let belongs = ends.iter().any(|end| name == format!("{}{end}", family.0));
            assert!(belongs, "{series} stands in the family {}", family.0);
            let value = value.parse().expect("a number");
            let was = samples.insert(series.to_owned(), value);
            assert!(was.is_none(), "{series} is there twice");
        }
    }
    samples
}

fn value(samples: &BTreeMap<String, f64>, series: &str) -> f64 {
    *samples
        .get(series)
        .unwrap_or_else(|| panic!("no {series} in {samples:#?}"))
}

#[test]
fn a_series_begins_with_a_functions_first_call() {
    let functions = ScrapedFunctions {
        registered: vec![lane("called", 2), lane("idle", 2)],
        leaving: Vec::new(),
        ..ScrapedFunctions::default()
    };
    functions.registered[0].1.metrics(1).enqueue.add();
    let page = page(&functions, &info(2), &mut FunctionLabels::new(10));
    let samples = parse(&page);
    assert_eq!(
        value(&samples, r#"function_enqueue_total{function="called"}"#),
        1.0
    );
    assert!(!page.contains("idle"), "{page}");
}

#[test]
fn all_kinds_are_summed_over_io_threads() {
    let functions = ScrapedFunctions {
        registered: vec![lane("echo", 2)],
        leaving: Vec::new(),
        ..ScrapedFunctions::default()
    };
    let stats = &functions.registered[0].1;
    for thread in 0..2 {
        let metrics = stats.metrics(thread);
        metrics.success.add();
        metrics.rejected[RejectReason::Depth as usize].add();
        metrics.record(CallTime::E2e, Nanos::from_us(20));
        metrics.record(CallTime::E2e, Nanos::from_s(70));
    }
    assert!(stats.enter(Class::Sync, 10));
    stats.running.store(3, Relaxed);
    stats.pods[1].store(2, Relaxed);
    let samples = parse(&page(&functions, &info(2), &mut FunctionLabels::new(10)));
    let is = |series: &str, expected: f64| {
        assert_eq!(value(&samples, series), expected, "{series}");
    };
    is(r#"function_success_total{function="echo"}"#, 2.0);
    is(
        r#"function_queue_rejected_total{function="echo",reason="depth"}"#,
        2.0,
    );
    is(
        r#"function_queue_rejected_total{function="echo",reason="est_wait"}"#,
        0.0,
    );
    is(r#"function_queue_depth{function="echo"}"#, 1.0);
    is(r#"function_inFlight{function="echo"}"#, 3.0);
    is(r#"function_pods{function="echo",state="starting"}"#, 2.0);
    is(
        r#"function_e2e_seconds_bucket{function="echo",le="0.00001"}"#,
        0.0,
    );
    is(
        r#"function_e2e_seconds_bucket{function="echo",le="0.000025"}"#,
        2.0,
    );
    is(
        r#"function_e2e_seconds_bucket{function="echo",le="60"}"#,
        2.0,
    );
    is(
        r#"function_e2e_seconds_bucket{function="echo",le="+Inf"}"#,
        4.0,
    );
    is(r#"function_e2e_seconds_count{function="echo"}"#, 4.0);
    is(r#"function_e2e_seconds_sum{function="echo"}"#, 140.00004);
}

#[test]
fn the_ledger_counts_leaving_lanes_and_back_off() {
    let functions = ScrapedFunctions {
        registered: vec![lane("a", 1)],
        leaving: vec![Arc::new(QueueStats::new(1))],
        ..ScrapedFunctions::default()
    };
    let info = info(2);
    for _ in 0..9 {
        info.ledgers[0].accepted.add();
        info.ledgers[1].accepted.add();
        info.ledgers[1].finished.add();
    }
    info.ledgers[1].backing_off.store(4, Relaxed);
    info.ledgers[0].rejected_unknown.add();
    for stats in [&functions.registered[0].1, &functions.leaving[0]] {
        assert!(stats.enter(Class::Async, 9));
    }
    functions.registered[0].1.running.store(1, Relaxed);
    functions.leaving[0].running.store(2, Relaxed);
    let samples = parse(&page(&functions, &info, &mut FunctionLabels::new(10)));
    let of = |name: &str| value(&samples, &format!("nanofaas_executions_{name}"));
    assert_eq!([of("accepted"), of("finished")], [18.0, 9.0]);
    assert_eq!([of("waiting"), of("running")], [6.0, 3.0]);
    let refused = r#"function_queue_rejected_total{function="_unknown",reason="rate"}"#;
    assert_eq!(value(&samples, refused), 1.0);
}

#[test]
fn surplus_functions_are_summed_and_keep_their_series() {
    let all: Vec<_> = ["d", "e", "f", "g"]
        .iter()
        .map(|name| lane(name, 1))
        .collect();
    for (_, stats) in &all {
        stats.metrics(0).success.add();
    }
    let functions = |range: std::ops::Range<usize>| ScrapedFunctions {
        registered: all[range].to_vec(),
        leaving: Vec::new(),
        ..ScrapedFunctions::default()
    };
    let mut labels = FunctionLabels::new(2);
    let count = |functions: &ScrapedFunctions, labels: &mut FunctionLabels| {
        let samples = parse(&page(functions, &info(1), labels));
        let of = |(series, value): (&String, &f64)| {
            let name = series.strip_prefix("function_success_total{function=\"")?;
            Some((name.trim_end_matches("\"}").to_owned(), *value as u64))
        };
        samples.iter().filter_map(of).collect::<Vec<_>>()
    };
    let own = |names: &[(&str, u64)]| {
        let owned = names.iter().map(|(name, n)| ((*name).to_owned(), *n));
        owned.collect::<Vec<_>>()
    };
    // f and g were called first and have their own series. d and e are summed under `_other`, although their
    // names sort first.
    assert_eq!(
        count(&functions(2..4), &mut labels),
        own(&[("f", 1), ("g", 1)])
    );
    assert_eq!(
        count(&functions(0..4), &mut labels),
        own(&[("_other", 2), ("f", 1), ("g", 1)])
    );
    // g is gone. d stays in `_other`, and the next new function can get the free series.
    assert_eq!(
        count(&functions(0..3), &mut labels),
        own(&[("_other", 2), ("f", 1)])
    );
}

#[test]
fn the_process_says_what_it_is_and_uses() {
    let samples = parse(&page(
        &ScrapedFunctions::default(),
        &info(1),
        &mut FunctionLabels::new(1),
    ));
    assert_eq!(
        value(&samples, r#"nanofaas_io_driver{driver="epoll"}"#),
        1.0
    );
    let build = samples
        .keys()
        .find(|series| series.starts_with("nanofaas_build_info"));
    assert!(
        build
            .expect("build info")
            .contains(env!("CARGO_PKG_VERSION"))
    );
    assert!(value(&samples, "process_resident_memory_bytes") > 100_000.0);
    assert!(value(&samples, "process_open_fds") >= 3.0);
    assert!(value(&samples, "process_max_fds") >= 3.0);
    assert!(value(&samples, "process_cpu_seconds_total") >= 0.0);
    assert!(value(&samples, "process_start_time_seconds") > 1.6e9);
}
