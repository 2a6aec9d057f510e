//! Tests of the watchdog's STDIO and FILE modes, in which any program can be a function.

mod support;

use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::wait::until;
use support::peer::{NO_CONTENT, Peer};
use support::stdio::{STDIO, pod, pod_with, start};
use support::{
    JSON, PodClient as _, PodError as _, Program, shell_script, until_written, watchdog,
};

#[test]
fn json_goes_in_and_json_comes_out() {
    let pod = pod("printf '{\"got\": '; cat; printf '}\\n'");
    let mut wire = pod.connect();
    for input in ["[1.50, 2]", "null", r#""ä\n""#] {
        assert_eq!(wire.invoke(input).text(), format!(r#"{{"got": {input}}}"#));
    }
}

#[test]
fn the_call_is_in_the_environment() {
    let text = r#"
        cat > "$D/in"
        echo "[\"$EXECUTION_ID\",\"$TRACE_ID\",$DISPATCH_ATTEMPT,$TIMEOUT_MS,\"$CONTENT_TYPE\"]"
        env > "$D/env""#;
    let pod = pod_with(
        text,
        &[("NANOFAAS_READY_URL", "http://127.0.0.1:1/1.s3cret")],
    );
    let headers = [
        ("Content-Type", "image/x-a"),
        ("X-Execution-Id", "e1"),
        ("X-Trace-Id", "t1"),
        ("X-Dispatch-Attempt", "3"),
        ("X-Deadline-Ms", "60000"),
    ];
    let answer = pod
        .connect()
        .call("POST", "/invoke", &headers, b"\x00\xff raw");
    let facts = answer.json();
    assert_eq!(
        (&facts[0], &facts[1], &facts[2]),
        (&"e1".into(), &"t1".into(), &3.into())
    );
    assert!(
        (1..=60_000).contains(&facts[3].as_u64().expect("ms")),
        "{facts}"
    );
    assert_eq!(facts[4], "image/x-a");
    assert_eq!(
        std::fs::read(pod.path("in")).expect("written"),
        b"\x00\xff raw"
    );
    assert!(!until_written(&pod.path("env")).contains("s3cret"));
}

#[test]
fn the_whole_envelope_where_it_is_asked_for() {
    let body = br#"{ "input":{"a":[1.50]}, "metadata":{"m":"n"}, "more":1 }"#;
    for asked in [("WATCHDOG_STDIN", "envelope"), ("WARM", "true")] {
        let pod = pod_with("cat", &[asked]);
        let mut wire = pod.connect();
        let answer = wire.call("POST", "/invoke", &[JSON], body);
        assert_eq!(answer.body, body, "byte for byte");
        let raw = wire.call("POST", "/invoke", &[("Content-Type", "a/b")], b"[1]");
        assert_eq!(raw.text(), "[1]");
        let wrong = wire.call("POST", "/invoke", &[JSON], b"[1]");
        assert_eq!(wrong.code(), "BAD_INPUT");
    }
    let pod = pod_with("cat", &[("WARM", "true"), ("WATCHDOG_STDIN", "input")]);
    assert_eq!(pod.invoke("7").text(), "7");
}

/// Programs of the original nanofaas return a status of their own in this form.
#[test]
fn an_output_with_a_status_of_its_own() {
    let text = r#"
        status=$(sed 's/[^0-9]//g')
        echo '{"__nanofaas_envelope__":true,"output":{"error":"so"},"statusCode":'$status'}'"#;
    let envelope = pod_with(text, &[("WATCHDOG_STDIN", "envelope")]);
    assert_eq!(envelope.invoke("201").text(), r#"{"error":"so"}"#);
    let answer = envelope.invoke("422");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (500, "HANDLER_ERROR")
    );
    assert_eq!(answer.message(), "the function answered 422: so");
    assert_eq!(envelope.invoke("777").code(), "BAD_OUTPUT");
    // A program that gets only the input does not use this form, so its output is not unwrapped.
    let answer = pod(text).invoke("422");
    assert_eq!(answer.json()["statusCode"], 422);
}

const FILE: (&str, &str) = ("EXECUTION_MODE", "FILE");

#[test]
fn two_files_will_do_as_well() {
    let text = r#"
        test -t 0 || cat > "$D/stdin"
        echo "not the output"
        case $(cat "$INPUT_FILE") in
            *'"input":0'*) exit 0 ;;
            *'"input":3'*) echo why >&2; exit 3 ;;
            *'"input":4'*) echo '{"a":' > "$OUTPUT_FILE" ;;
            *'"input":5'*) head -c 6291457 /dev/zero > "$OUTPUT_FILE" ;;
            *) cp "$INPUT_FILE" "$OUTPUT_FILE" ;;
        esac
        echo "$INPUT_FILE" > "$D/where""#;
    let pod = pod_with(text, &[FILE]);
    let body = br#"{"input":"a", "metadata":{"m":"n"}}"#;
    let answer = pod.connect().call("POST", "/invoke", &[JSON], body);
    assert_eq!(answer.body, body, "the whole envelope");
    let folder = until_written(&pod.path("where"));
    let folder = std::path::Path::new(folder.trim()).parent().expect("one");
    until("its folder is gone", || (!folder.exists()).then_some(()));
    assert!(std::fs::read(pod.path("stdin")).expect("read").is_empty());
    for (input, status, code, part) in [
        ("0", 500, "BAD_OUTPUT", "OUTPUT_FILE"),
        ("3", 500, "HANDLER_ERROR", "exited with status 3: why"),
        ("4", 500, "BAD_OUTPUT", "to OUTPUT_FILE"),
        ("5", 500, "OUTPUT_TOO_LARGE", "6291456"),
    ] {
        let answer = pod.invoke(input);
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
        assert!(answer.message().contains(part), "{}", answer.message());
    }
    // Each call at the same time has files of its own.
    std::thread::scope(|scope| {
        for client in 10..18 {
            let pod = &pod;
            scope.spawn(move || {
                let body = format!(r#"{{"input":{client}}}"#);
                assert_eq!(pod.invoke(&client.to_string()).text(), body);
            });
        }
    });
}

#[test]
fn fixed_files_serve_one_call_at_once() {
    let scratch = ScratchFolder::create();
    let file = |name: &str| scratch.join(name).to_str().expect("UTF-8").to_owned();
    let (input, output) = (file("in.json"), file("out.json"));
    // The program always uses these paths. If two processes ran at the same time, one of them would find the
    // mark of the other one and fail.
    let text = format!(
        "test -e '{output}' && exit 9; mkdir '{0}.mark' || exit 8; sleep 0.02; \
         cp '{input}' '{output}'; rmdir '{0}.mark'",
        output
    );
    let script = shell_script(&scratch, &text);
    let line = ["--", script.to_str().expect("UTF-8")];
    let env = [
        FILE,
        ("INPUT_FILE", input.as_str()),
        ("OUTPUT_FILE", &output),
    ];
    // Calls of two pods on one machine must not run at the same time either.
    let pods = [
        Program::start(&watchdog(), &line, &env),
        Program::start_in(scratch, &watchdog(), &line, &env),
    ];
    pods.iter().for_each(Program::until_up);
    std::thread::scope(|scope| {
        for client in 0..6 {
            let pod = &pods[client % 2];
            scope.spawn(move || {
                let body = format!(r#"{{"input":{client}}}"#);
                assert_eq!(pod.invoke(&client.to_string()).text(), body);
            });
        }
    });
}

#[test]
fn a_command_line_will_do_as_well() {
    let env = [
        STDIO,
        ("WATCHDOG_CMD", "tr a-z A-Z | cat; test -z \"$NOTHING\""),
    ];
    let pod = Program::start(&watchdog(), &[], &env);
    pod.until_up();
    assert_eq!(pod.invoke("\"hello\"").text(), "\"HELLO\"");
}

#[test]
fn the_example_turns_text_into_upper_case() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../functions/upper/upper.sh");
    let pod = Program::start(&watchdog(), &["--", script], &[STDIO]);
    pod.until_up();
    for (input, output) in [
        ("\"hello\"", "\"HELLO\""),
        (
            r#"{"a\n\u00e9b": [true, null, "x \"y\" \\z"]}"#,
            r#"{"A\n\u00e9B": [true, null, "X \"Y\" \\Z"]}"#,
        ),
        ("-1.5e3", "-1.5e3"),
        ("\"\"", "\"\""),
    ] {
        assert_eq!(pod.invoke(input).text(), output);
    }
}

#[test]
fn an_exit_status_is_an_error_with_output() {
    let pod = pod("echo first >&2; echo 'went wrong' >&2; exit 3");
    let answer = pod.invoke("1");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (500, "HANDLER_ERROR")
    );
    let words = "the program exited with status 3: first\nwent wrong";
    assert_eq!(answer.message(), words);
    pod.until_said("went wrong");
}

#[test]
fn an_output_that_is_not_json_is_bad() {
    for text in [
        "echo hello",
        "echo '1 2'",
        "printf '{\"a\":'",
        "printf '\"\\377\"'",
    ] {
        let answer = pod(text).invoke("1");
        assert_eq!((answer.status, answer.code().as_str()), (500, "BAD_OUTPUT"));
        assert!(answer.message().contains("stdout"), "{}", answer.message());
    }
    assert_eq!(pod("true").invoke("1").text(), "null");
}

#[test]
fn an_output_has_a_limit() {
    let answer = pod("cat /dev/zero").invoke("1");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (500, "OUTPUT_TOO_LARGE")
    );
    let fits = pod("printf '\"'; head -c 6291454 /dev/zero | tr '\\0' a; printf '\"'").invoke("1");
    assert_eq!((fits.status, fits.body.len()), (200, 6 * 1024 * 1024));
}

#[test]
fn an_input_need_not_be_read() {
    let pod = pod("echo 1");
    let input = format!("{:?}", "a".repeat(1024 * 1024));
    assert_eq!(pod.invoke(&input).text(), "1");
}

#[test]
fn a_missing_program_stops_the_start() {
    for program in ["/nowhere/at/all", "no-such-program"] {
        let mut pod = Program::start(&watchdog(), &["--", program], &[STDIO]);
        assert_eq!(pod.exit().code(), Some(1));
        assert!(pod.said().contains(program), "{}", pod.said());
    }
    for (arguments, env, named) in [
        (&[][..], &[STDIO][..], "WATCHDOG_CMD"),
        (&["cat"], &[STDIO], "--"),
        (
            &["--", "cat"],
            &[("EXECUTION_MODE", "SOCKET")],
            "HTTP, STDIO or FILE",
        ),
    ] {
        let mut pod = Program::start(&watchdog(), arguments, env);
        assert_eq!(pod.exit().code(), Some(2));
        assert!(pod.said().contains(named), "{}", pod.said());
    }
}

#[test]
fn a_job_runs_the_program_once() {
    let peer = Peer::start(&[NO_CONTENT]);
    let callback = peer.url("/1.s3cret/executions");
    let env = [
        ("CALLBACK_URL", callback.as_str()),
        ("EXECUTION_ID", "e1"),
        ("TIMEOUT_MS", "60000"),
        ("INVOCATION_PAYLOAD", r#"{"input":{"a":[1]}}"#),
    ];
    let mut job = start(r#"echo run >> "$D/runs"; env > "$D/env"; cat"#, &env);
    assert_eq!(job.exit().code(), Some(0), "{}", job.said());
    let got = peer.next();
    assert_eq!(
        got.first_line,
        "POST /1.s3cret/executions/e1:complete HTTP/1.1"
    );
    assert_eq!(got.json()["output"], serde_json::json!({"a": [1]}));
    assert_eq!(until_written(&job.path("runs")), "run\n");
    let env = until_written(&job.path("env"));
    assert!(
        env.contains("EXECUTION_ID=e1") && !env.contains("s3cret"),
        "{env}"
    );
}

#[test]
fn a_jobs_own_end_is_its_result() {
    for (text, code, message) in [
        (
            "echo why >&2; exit 3",
            "HANDLER_ERROR",
            "the program exited with status 3: why",
        ),
        ("kill -9 $$", "OOM", "signal 9 (SIGKILL)"),
        ("echo no JSON", "BAD_OUTPUT", "on stdout"),
    ] {
        let peer = Peer::start(&[NO_CONTENT]);
        let callback = peer.url("/executions");
        let env = [
            ("CALLBACK_URL", callback.as_str()),
            ("EXECUTION_ID", "e1"),
            ("INVOCATION_PAYLOAD", r#"{"input":1}"#),
        ];
        let mut job = start(text, &env);
        assert_eq!(job.exit().code(), Some(0), "{}", job.said());
        let error = peer.next().json()["error"].clone();
        assert_eq!(error["code"], code);
        let said = error["message"].as_str().expect("a message");
        assert!(said.contains(message), "{said}");
        assert!(peer.rest().is_empty(), "told once");
    }
}

#[test]
fn raw_bodies_need_no_envelope() {
    let pod = pod("wc -c");
    let mut wire = pod.connect();
    let answer = wire.call("POST", "/invoke", &[("Content-Type", "a/b")], &[0; 1000]);
    assert_eq!(answer.text(), "1000");
    let answer = wire.call("POST", "/invoke", &[JSON], b"1000");
    assert_eq!(answer.code(), "BAD_INPUT");
}
