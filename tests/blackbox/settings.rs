//! These tests start planes with flags, variables, ports and function files. They also check the errors for
//! which a plane does not start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::Output;

use nanofaas_testkit::client::Request;
use nanofaas_testkit::control_plane::{ControlPlane, SharedControlPlane, program};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::functions::{local, pool};
use nanofaas_testkit::pod::ScriptedPod;
use serde_json::{Value, json};

fn plane() -> &'static ControlPlane {
    static PLANE: SharedControlPlane = SharedControlPlane::new(&["--rate-max-per-second", "off"]);
    PLANE.get()
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = program();
    command.args(arguments).envs(variables.iter().copied());
    command.output().expect("the program starts")
}

/// Runs the program with flags that it must refuse, and returns its error.
#[track_caller]
fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut all = vec![
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--management",
        "127.0.0.1:0",
    ];
    all.extend(arguments);
    let output = run(&all, variables);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it exited with success: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn a_wrong_setting_stops_the_start_with_choices() {
    for (flag, value, hint) in [
        ("--backend", "docker", "local"),
        ("--io-driver", "select", "epoll"),
        ("--scheduler", "none", "inline"),
        ("--io-threads", "0", "1"),
        ("--rate-max-per-second", "many", "off"),
        ("--max-body", "1XB", "MiB"),
        ("--drain-ms", "-1", "whole number"),
        ("--default-timeout-ms", "0", "300000"),
        ("--management", "nowhere", "address"),
        ("--log", "xml", "json"),
    ] {
        let said = refused(&[&format!("{flag}={value}")], &[]);
        assert!(said.contains(flag) && said.contains(hint), "{flag}: {said}");
    }
    let said = refused(&[], &[("NANOFAAS_DEFAULT_CONCURRENCY", "many")]);
    assert!(said.contains("NANOFAAS_DEFAULT_CONCURRENCY"), "{said}");
    let said = refused(&["--scheduler", "inline", "--io-threads", "2"], &[]);
    assert!(
        said.contains("--scheduler") && said.contains("--io-threads"),
        "{said}"
    );
    for (most, other) in [("2KiB", "--max-body"), ("2MiB", "--max-response")] {
        let response = if other == "--max-body" {
            "1KiB"
        } else {
            "2MiB"
        };
        let flags = ["--inflight-bytes", most, "--max-response", response];
        let said = refused(&flags, &[]);
        assert!(
            said.contains("--inflight-bytes") && said.contains(other),
            "{said}"
        );
    }
    let said = refused(&["--no-such-flag"], &[]);
    assert!(said.contains("--no-such-flag"), "{said}");
}

#[test]
fn help_lists_every_setting_with_its_variable() {
    let output = run(&["serve", "--help"], &[]);
    assert!(output.status.success());
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    for flag in [
        "--listen",
        "--management",
        "--internal-listen",
        "--backend",
        "--functions",
        "--io-threads",
        "--io-driver",
        "--io-spin-us",
        "--scheduler",
        "--namespace",
        "--callback-url",
        "--rate-max-per-second",
        "--max-body",
        "--max-response",
        "--inflight-bytes",
        "--execution-ttl-ms",
        "--execution-store-bytes",
        "--async-max-age-ms",
        "--start-timeout-ms",
        "--connect-timeout-ms",
        "--drain-ms",
        "--default-timeout-ms",
        "--default-concurrency",
        "--default-queue-size",
        "--default-max-retries",
        "--metrics-functions-max",
        "--log",
    ] {
        let variable = format!("NANOFAAS_{}", flag[2..].replace('-', "_").to_uppercase());
        assert!(
            help.contains(flag) && help.contains(&variable),
            "{flag} in {help}"
        );
    }
}

#[test]
fn a_second_plane_on_the_port_ends() {
    let first = plane();
    let (listen, management) = (first.listen.to_string(), first.management.to_string());
    for (flag, taken, other) in [
        ("--listen", &listen, "--management"),
        ("--management", &management, "--listen"),
    ] {
        let output = run(&["serve", flag, taken, other, "127.0.0.1:0"], &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success(),
            "two processes share {taken}: {said}"
        );
        assert!(said.contains(&**taken), "{said}");
    }
    first.register(&local("still-there"));
    for _ in 0..20 {
        first.invoke("still-there", &json!(1)).expect(200);
    }
}

#[test]
fn listeners_and_pods_may_have_either_family() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        println!("NOT RUN: this machine has no [::1]");
        return;
    };
    let plane = ControlPlane::start_at((Ipv6Addr::UNSPECIFIED, 0).into(), &[]);
    let host = format!("[::1]:{}", listener.local_addr().expect("bound").port());
    let pod = ScriptedPod::tcp_on(listener, |got, line| line.json(&got.input().to_string()));
    let ports = [plane.listen, plane.management].map(|address| address.port());
    let internal = plane.internal.expect("it has one").port();
    for ip in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        let [api, management] = ports.map(|port| SocketAddr::new(ip, port));
        let name = if ip.is_ipv4() { "by-v4" } else { "by-v6" };
        let register = Request::new("POST", "/v1/functions").json(&pool(name, &pod));
        register.send(api).expect(201);
        let answer = Request::invoke(name, &json!(4))
            .send(api)
            .expect(200)
            .json();
        assert_eq!(answer["output"], 4, "{answer}");
        Request::get("/readyz").send(management).expect(200);
        let internal = SocketAddr::new(ip, internal);
        let word = Request::new("POST", "/v1/internal/1.ab/executions/0e:complete");
        word.json(&json!({"success": true}))
            .send(internal)
            .expect(403);
    }
    for got in pod.calls() {
        assert_eq!(got.header("host"), Some(&*host));
    }
}

#[test]
fn functions_of_files_are_there_at_the_start() {
    let folder = ScratchFolder::create();
    let object = "apiVersion: nanofaas.io/v1\nkind: Function\nmetadata: {name: from-yaml}\n\
        spec: {executionMode: LOCAL, timeoutMs: 321}\n";
    let file = folder.write("one.yaml", object);
    std::fs::create_dir(folder.path().join("more")).expect("a folder");
    folder.write(
        "more/two.function.json",
        r#"{"name": "from-json", "executionMode": "LOCAL"}"#,
    );
    let more = folder.path().join("more");
    let plane = ControlPlane::start(&[
        "--functions",
        file.to_str().expect("a path"),
        "--functions",
        more.to_str().expect("a path"),
    ]);
    plane.invoke("from-json", &json!(1)).expect(200);
    let one = plane.get("/v1/functions/from-yaml").expect(200).json();
    assert_eq!(one["timeoutMs"], 321);
}

#[test]
fn an_unreadable_function_file_is_named_exactly() {
    let folder = ScratchFolder::create();
    let bad = "name: bad\nexecutionMode: LOCAL\n\ntimeoutMs: 0\n";
    for (file, content, place, field) in [
        ("field.yaml", bad, "4", "timeoutMs"),
        ("syntax.yaml", "name: x\n  executionMode: [LOCAL\n", "2", ""),
        ("empty.yaml", "", "", ""),
    ] {
        let path = folder.write(file, content);
        let said = refused(&["--functions", path.to_str().expect("a path")], &[]);
        assert!(
            said.contains(file) && said.contains(place) && said.contains(field),
            "{said}"
        );
    }
    let said = refused(&["--functions", "/no/such/file.yaml"], &[]);
    assert!(said.contains("/no/such/file.yaml"), "{said}");
}

#[test]
fn a_flag_goes_over_its_variable() {
    let line = "export NANOFAAS_DEFAULT_TIMEOUT_MS=777 NANOFAAS_DEFAULT_QUEUE_SIZE=7; exec \"$@\"";
    let plane = ControlPlane::start_in_shell(line, &["--default-queue-size", "8"]);
    plane.register(&local("variables"));
    let got = plane.get("/v1/functions/variables").expect(200).json();
    assert_eq!(
        (&got["timeoutMs"], &got["queueSize"]),
        (&json!(777), &json!(8))
    );
}

#[test]
fn log_text_is_for_people() {
    let said = refused(&["--log", "text", "--functions", "/no/such/file.yaml"], &[]);
    let line = said
        .lines()
        .find(|line| line.contains("/no/such/file.yaml"));
    let line = line.expect("a line about it");
    assert!(line.contains("ERROR") && !line.starts_with('{'), "{line}");
}

#[test]
fn an_unknown_variable_is_warned_of() {
    let mut command = program();
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--management",
            "127.0.0.1:0",
        ])
        .env("NANOFAAS_IO_TREADS", "1")
        .env("NANOFAAS_SOMETHING_ELSE", "1")
        .env("NANOFAAS_DRAIN_MS", "100");
    let plane = ControlPlane::from(command);
    let lines = plane.log.lines();
    let of = |variable: &str| -> Vec<Value> {
        let lines = lines.iter().filter(|line| line.contains(variable));
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    let near = of("NANOFAAS_IO_TREADS");
    assert_eq!(near.len(), 1, "{lines:?}");
    assert_eq!(near[0]["level"], "WARN");
    assert!(
        near[0].to_string().contains("NANOFAAS_IO_THREADS"),
        "{near:?}"
    );
    assert_eq!(of("NANOFAAS_SOMETHING_ELSE").len(), 1);
    assert_eq!(of("NANOFAAS_DRAIN_MS").len(), 0);
}

#[test]
fn apply_reports_changes_and_ignored_fields() {
    let folder = ScratchFolder::create();
    let file = |text: &str| folder.write("function.yaml", text);
    let apply = || {
        let path = folder.path().join("function.yaml");
        let path = path.to_str().expect("a path");
        let server = format!("http://{}", plane().listen);
        let output = run(&["apply", "-f", path, "--server", &server], &[]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let spec = "name: applied\nexecutionMode: DEPLOYMENT\ncommand: [\"true\"]\n\
                scalingConfig: {minReplicas: 0}\n";
    file(spec);
    assert_eq!(apply(), ("applied created\n".to_owned(), String::new()));
    assert_eq!(apply().0, "applied unchanged\n");
    file(&format!("{spec}timeoutMs: 77\ncolour: red\n"));
    let (done, said) = apply();
    assert_eq!(done, "applied configured\n");
    assert_eq!(said.matches("colour").count(), 1, "said once: {said}");
    assert_eq!(apply().0, "applied unchanged\n");
    plane().remove("applied");
}
