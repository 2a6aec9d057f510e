//! Tests of each flag's default, of the messages for bad values, and of the contradictions.

use clap::Parser;
use clap::error::ErrorKind;

use super::value::variable_of;
use super::*;

#[derive(Debug, Parser)]
struct ServeLine {
    #[command(flatten)]
    serve: ServeArgs,
}

fn parse(arguments: &[&str]) -> Result<ServeArgs, clap::Error> {
    let line = ServeLine::try_parse_from(std::iter::once(&"serve").chain(arguments));
    line.map(|line| line.serve)
}

fn resolve(arguments: &[&str], cores: usize) -> Result<Config, ConfigError> {
    let machine = MachineFacts {
        cores,
        in_cluster: false,
        pod_ip: None,
    };
    parse(arguments).expect("sound flags").resolve(machine)
}

fn config(arguments: &[&str]) -> Config {
    resolve(arguments, 2).expect("flags that fit each other")
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = config(&[]);
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.management.to_string(), "127.0.0.1:8081");
    assert_eq!(config.internal_listen, None);
    assert_eq!(config.backend, BackendKind::Local);
    assert_eq!(config.rate, RateLimit::PerSecond(1000));
    assert_eq!(config.body_bytes_max, 1 << 20);
    assert_eq!(config.response_bytes_max, 6 << 20);
    assert_eq!(config.inflight_bytes, 64 << 20);
    assert_eq!(config.execution_ttl_ms, 15 * 60 * 1000);
    assert_eq!(config.execution_store_bytes, 64 << 20);
    assert_eq!(config.async_max_age_ms, 3_600_000);
    assert_eq!(config.start_timeout_ms, 120_000);
    assert_eq!(config.drain_ms, 25_000);
    assert_eq!(config.io_spin_us, 0);
    assert_eq!(config.metrics_functions_max, 1000);
    assert_eq!(config.defaults, Defaults::DEFAULT);
    assert_eq!(config.log, LogForm::Json);
    assert_eq!(config.pod_template, None);
}

#[test]
fn io_threads_and_scheduler_follow_the_cores() {
    use SchedulerDriver::{Inline, Pinned};
    let decided = |arguments: &[&str], cores| {
        let config = resolve(arguments, cores).expect("flags that fit each other");
        (config.io_threads, config.scheduler)
    };
    assert_eq!(decided(&[], 1), (1, Inline));
    assert_eq!(decided(&[], 3), (1, Inline));
    assert_eq!(decided(&[], 4), (2, Pinned));
    assert_eq!(decided(&[], 16), (14, Pinned));
    assert_eq!(decided(&[], 1000), (64, Pinned));
    assert_eq!(decided(&["--io-threads", "1"], 16), (1, Inline));
    assert_eq!(decided(&["--io-threads", "3"], 2), (3, Pinned));
    assert_eq!(decided(&["--scheduler", "inline"], 16), (1, Inline));
    assert_eq!(decided(&["--scheduler", "pinned"], 2), (2, Pinned));
    assert_eq!(decided(&["--scheduler", "pinned"], 8), (6, Pinned));
}

#[test]
fn a_pair_that_contradicts_itself_names_both() {
    let contradictions: [(&[&str], [&str; 2]); 7] = [
        (
            &["--scheduler", "inline", "--io-threads", "2"],
            ["--scheduler inline", "--io-threads 2"],
        ),
        (
            &["--scheduler", "pinned", "--io-threads", "1"],
            ["--scheduler pinned", "--io-threads 1"],
        ),
        (
            &["--management", "127.0.0.1:8080"],
            ["--listen", "--management"],
        ),
        (
            &["--internal-listen", "127.0.0.1:8080"],
            ["--listen", "--internal-listen"],
        ),
        (
            &["--internal-listen", "127.0.0.1:8081"],
            ["--management", "--internal-listen"],
        ),
        (
            &["--inflight-bytes", "1MiB", "--max-response", "512KiB"],
            ["--inflight-bytes", "--max-body"],
        ),
        (
            &["--inflight-bytes", "11MiB"],
            ["--inflight-bytes", "--max-response"],
        ),
    ];
    for (arguments, names) in contradictions {
        let message = resolve(arguments, 8)
            .expect_err("a contradiction")
            .to_string();
        for name in names {
            assert!(message.contains(name), "{arguments:?}: {message}");
        }
    }
    let zero = config(&["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"]);
    assert_eq!(zero.listen, zero.management);
    assert!(resolve(&["--inflight-bytes", "12MiB"], 2).is_ok());
}

#[test]
fn a_bad_value_names_flag_and_choices() {
    let bad = [
        ("--listen", "8080", "such as 127.0.0.1:8080"),
        ("--management", "localhost:1", "such as 127.0.0.1:8080"),
        ("--internal-listen", "1.2.3.4", "such as 127.0.0.1:8080"),
        ("--callback-url", "https://a", "must be http://host:port"),
        ("--callback-url", "http://a/b", "must be http://host:port"),
        (
            "--callback-url",
            "http://fd00::7:8082",
            "needs brackets: http://[fd00::7]:8082",
        ),
        (
            "--callback-url",
            "http://[::1:8080",
            "must be http://[address]:port",
        ),
        ("--backend", "docker", "auto, local, kubernetes, none"),
        ("--namespace", "Nano", "lower-case letters"),
        ("--io-threads", "0", "from 1 to 64"),
        ("--io-threads", "65", "from 1 to 64"),
        ("--io-threads", "two", "from 1 to 64"),
        ("--io-driver", "kqueue", "auto, uring, epoll"),
        ("--io-spin-us", "-1", "from 0 to 10000"),
        ("--scheduler", "fair", "auto, inline, pinned"),
        ("--rate-max-per-second", "fast", "or off"),
        ("--max-body", "1MB", "64KiB or 2MiB"),
        ("--max-body", "10", "from 1KiB to 1GiB"),
        ("--max-response", "2GiB", "from 1KiB to 1GiB"),
        ("--inflight-bytes", "much", "64KiB or 2MiB"),
        ("--inflight-bytes", "99999999999GiB", "64KiB or 2MiB"),
        ("--execution-store-bytes", "1.5MiB", "64KiB or 2MiB"),
        ("--execution-ttl-ms", "0", "from 1 to 604800000"),
        ("--async-max-age-ms", "1h", "from 1 to 604800000"),
        ("--start-timeout-ms", "0", "from 1 to 3600000"),
        ("--drain-ms", "3600001", "from 0 to 3600000"),
        ("--default-timeout-ms", "300001", "from 1 to 300000"),
        ("--default-concurrency", "0", "from 1 to 1024"),
        ("--default-queue-size", "10001", "from 1 to 10000"),
        ("--default-max-retries", "11", "from 0 to 10"),
        ("--metrics-functions-max", "x", "from 0 to 16384"),
        ("--log", "xml", "json, text"),
        ("--log-level", "loud", "error, warn, info, debug"),
    ];
    for (flag, value, can_be) in bad {
        let error = parse(&[&format!("{flag}={value}")]).expect_err(flag);
        let message = error.to_string();
        assert!(message.contains(flag), "{flag}: {message}");
        assert!(message.contains(can_be), "{flag} {value}: {message}");
        let kinds = [ErrorKind::ValueValidation, ErrorKind::InvalidValue];
        assert!(kinds.contains(&error.kind()), "{flag}: {:?}", error.kind());
    }
}

#[test]
fn every_flag_has_the_variable_of_its_name() {
    let command = <ServeLine as clap::CommandFactory>::command();
    let mut flags = 0;
    for arg in command.get_arguments() {
        let Some(flag) = arg.get_long().filter(|flag| *flag != "help") else {
            continue;
        };
        flags += 1;
        let variable = arg.get_env().and_then(|name| name.to_str());
        assert_eq!(
            variable.map(str::to_owned),
            variable_of(&format!("--{flag}"))
        );
        assert!(arg.get_help().is_some(), "--{flag} has no help");
    }
    assert!(flags >= 20, "{flags} flags");
}

#[test]
fn sizes_take_units() {
    let config = config(&[
        "--max-body",
        "64KiB",
        "--max-response",
        "2 MiB",
        "--inflight-bytes",
        "1GiB",
        "--execution-store-bytes",
        "0",
    ]);
    assert_eq!(config.body_bytes_max, 64 << 10);
    assert_eq!(config.response_bytes_max, 2 << 20);
    assert_eq!(config.inflight_bytes, 1 << 30);
    assert_eq!(config.execution_store_bytes, 0);
}

#[test]
fn a_rate_can_be_off_or_zero() {
    let rate = |value: &str| config(&["--rate-max-per-second", value]).rate;
    assert_eq!(rate("off"), RateLimit::Off);
    assert_eq!(rate("0"), RateLimit::PerSecond(0));
}

#[test]
fn functions_may_be_repeated() {
    let config = config(&["--functions", "a", "--functions", "b:c"]);
    assert_eq!(config.functions, ["a", "b", "c"].map(PathBuf::from));
}

#[test]
fn auto_is_kubernetes_only_inside_a_cluster() {
    let backend = |arguments: &[&str], in_cluster| {
        let machine = MachineFacts {
            cores: 2,
            in_cluster,
            pod_ip: None,
        };
        let config = parse(arguments).expect("sound flags").resolve(machine);
        config.expect("no contradiction").backend
    };
    assert_eq!(backend(&[], true), BackendKind::Kubernetes);
    assert_eq!(backend(&[], false), BackendKind::Local);
    assert_eq!(backend(&["--backend", "local"], true), BackendKind::Local);
    assert_eq!(backend(&["--backend", "none"], true), BackendKind::None);
}

#[test]
fn pods_call_back_where_something_listens() {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let base = |arguments: &[&str], listen: &str, internal: Option<&str>| {
        config(arguments).callback_base(address(listen), internal.map(address))
    };
    assert_eq!(base(&[], "0.0.0.0:80", None), "http://127.0.0.1:80");
    assert_eq!(base(&[], "[::]:80", None), "http://[::1]:80");
    let internal = Some("127.0.0.1:82");
    assert_eq!(base(&[], "127.0.0.1:80", internal), "http://127.0.0.1:82");
    let given = &["--callback-url", "http://plane.faas:8082/"];
    assert_eq!(base(given, "127.0.0.1:80", None), "http://plane.faas:8082");
    // In a pod, the host is the pod's own address, IPv4 or IPv6.
    for (ip, expected) in [
        ("10.0.0.7", "http://10.0.0.7:82"),
        ("fd00::7", "http://[fd00::7]:82"),
    ] {
        let in_pod = Config {
            pod_ip: ip.parse().ok(),
            ..config(&[])
        };
        let all = in_pod.callback_base(address("[::]:80"), Some(address("[::]:82")));
        assert_eq!(all, expected);
        let one = in_pod.callback_base(address("10.0.0.9:80"), None);
        assert_eq!(one, "http://10.0.0.9:80");
    }
}
