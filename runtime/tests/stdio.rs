//! The watchdog's STDIO mode: any program as a function, and nothing of it left behind.

mod support;

use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::wait::until;
use nix::sys::signal::Signal;
use support::peer::{NO_CONTENT, Peer};
use support::{
    JSON, PodClient as _, PodError as _, Program, read_pid, shell_script, until_file, until_gone,
    until_written, watchdog,
};

const STDIO: (&str, &str) = ("EXECUTION_MODE", "STDIO");

/// A pod whose function is a shell script; its folder is in `$D`.
fn pod(text: &str) -> Program {
    pod_with(text, &[])
}

fn pod_with(text: &str, more: &[(&str, &str)]) -> Program {
    let pod = start(text, more);
    pod.until_up();
    pod
}

fn start(text: &str, more: &[(&str, &str)]) -> Program {
    let scratch = ScratchFolder::create();
    let script = shell_script(&scratch, text);
    let folder = scratch.join("").to_str().expect("UTF-8").to_owned();
    let script = script.to_str().expect("UTF-8");
    let mut env = vec![STDIO, ("D", &folder)];
    env.extend_from_slice(more);
    Program::start_in(scratch, &watchdog(), &["--", script], &env)
}

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

/// What the original's programs write where they choose a status of their own.
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
    // Programs that get the input alone know nothing of it.
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
    // Calls at once have files of their own.
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
fn files_at_fixed_places_serve_one_call_at_a_time() {
    let scratch = ScratchFolder::create();
    let file = |name: &str| scratch.join(name).to_str().expect("UTF-8").to_owned();
    let (input, output) = (file("in.json"), file("out.json"));
    // It knows the places by heart; two at once would see each other's mark.
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
    // Two pods of one machine take turns as well.
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
fn an_exit_status_is_an_error_with_the_last_lines() {
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
fn a_kill_from_elsewhere_is_called_oom() {
    let answer = pod("kill -9 $$").invoke("1");
    assert_eq!((answer.status, answer.code().as_str()), (500, "OOM"));
    // What a shell says of its last command.
    let answer = pod("sh -c 'kill -9 $$'; exit $?").invoke("1");
    assert_eq!(answer.code(), "OOM");
    let answer = pod("kill -15 $$").invoke("1");
    assert_eq!(answer.code(), "HANDLER_ERROR");
    let words = "the program was ended by signal 15 (SIGTERM)";
    assert_eq!(answer.message(), words);
    let answer = pod("echo bye >&2; kill -11 $$").invoke("1");
    let words = "the program was ended by signal 11 (SIGSEGV): bye";
    assert_eq!(answer.message(), words);
}

/// A script with a child, a grandchild, and a stray that left the group.
const FAMILY: &str = r#"
    trap '' TERM
    sh -c 'trap "" TERM; sleep 1000 & echo $! > "$D/grandchild"; wait' &
    echo $! > "$D/child"
    setsid sh -c 'echo $$ > "$D/stray"; sleep 1000' &
    echo $$ > "$D/leader"
"#;

fn until_family_gone(pod: &Program, pids: &[nix::unistd::Pid]) {
    for pid in pids {
        until_gone(*pid);
    }
    assert!(pod.path("leader").exists());
}

fn family(pod: &Program) -> Vec<nix::unistd::Pid> {
    let names = ["grandchild", "child", "stray", "leader"];
    names.map(|name| read_pid(&pod.path(name))).to_vec()
}

#[test]
fn a_deadline_ends_the_whole_group() {
    let pod = pod(&format!("{FAMILY} wait"));
    let mut wire = pod.connect();
    // Long enough for all of them to be there.
    wire.send_invoke("1", &[("X-Deadline-Ms", "3000")]);
    let pids = family(&pod);
    let answer = wire.answer();
    assert_eq!((answer.status, answer.code().as_str()), (504, "TIMEOUT"));
    until_family_gone(&pod, &pids);
    assert_eq!(wire.call("GET", "/health", &[], b"").status, 200);
}

#[test]
fn a_caller_that_leaves_ends_the_whole_group() {
    let pod = pod(&format!("{FAMILY} wait"));
    let mut wire = pod.connect();
    wire.send_invoke("1", &[]);
    let pids = family(&pod);
    drop(wire);
    until_family_gone(&pod, &pids);
    pod.until_up();
}

#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let all_there = r#"
        while ! [ -s "$D/grandchild" ] || ! [ -s "$D/stray" ]; do sleep 0.01; done
        echo 1"#;
    let pod = pod(&format!("{FAMILY} {all_there}"));
    // The stray and the rest hold the pipes open: the answer comes all the same.
    assert_eq!(pod.invoke("1").text(), "1");
    let pids = family(&pod);
    until_family_gone(&pod, &pids);
}

#[test]
fn calls_at_once_are_processes_at_once() {
    // Each waits for the other.
    let text = r#"
        read -r me
        touch "$D/here-$me"
        while ! [ -e "$D/here-$((1 - me))" ]; do sleep 0.01; done
        echo "$me""#;
    let pod = pod(&text.replace("read -r me", "me=$(cat)"));
    let (mut one, mut two) = (pod.connect(), pod.connect());
    one.send_invoke("0", &[]);
    two.send_invoke("1", &[]);
    assert_eq!(one.answer().text(), "0");
    assert_eq!(two.answer().text(), "1");
}

#[test]
fn many_calls_leave_no_process() {
    let pod = pod("cat");
    std::thread::scope(|scope| {
        for client in 0..8 {
            let pod = &pod;
            scope.spawn(move || {
                let mut wire = pod.connect();
                for call in 0..25 {
                    let input = format!("[{client},{call}]");
                    assert_eq!(wire.invoke(&input).text(), input);
                }
            });
        }
    });
    let children = format!("/proc/{0}/task/{0}/children", pod.pid());
    until("no child is left", || {
        let list = std::fs::read_to_string(&children).ok()?;
        list.is_empty().then_some(())
    });
}

#[test]
fn told_to_stop_it_lets_the_call_end() {
    let text = r#"touch "$D/began"; while ! [ -e "$D/gate" ]; do sleep 0.01; done; echo 1"#;
    let mut pod = pod(text);
    let mut wire = pod.connect();
    wire.send_invoke("1", &[]);
    until_file(&pod.path("began"));
    pod.signal(Signal::SIGTERM);
    let health = || pod.connect().call("GET", "/health", &[], b"").status;
    until("/health is 503", || (health() == 503).then_some(()));
    std::fs::write(pod.path("gate"), "").expect("the gate opens");
    assert_eq!(wire.answer().text(), "1");
    assert_eq!(pod.exit().code(), Some(0));
}

#[test]
fn told_twice_it_ends_at_once_and_leaves_nothing() {
    let mut pod = pod(&format!("{FAMILY} wait"));
    let mut wire = pod.connect();
    wire.send_invoke("1", &[]);
    let pids = family(&pod);
    pod.signal(Signal::SIGTERM);
    let health = || pod.connect().call("GET", "/health", &[], b"").status;
    until("/health is 503", || (health() == 503).then_some(()));
    pod.signal(Signal::SIGTERM);
    assert_eq!(pod.exit().code(), Some(130));
    until_family_gone(&pod, &pids);
    drop(wire);
}

#[test]
fn a_program_that_is_not_there_stops_the_start() {
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
fn a_job_that_overstays_leaves_nothing() {
    let peer = Peer::start(&[NO_CONTENT]);
    let callback = peer.url("/executions");
    let env = [
        ("CALLBACK_URL", callback.as_str()),
        ("EXECUTION_ID", "e1"),
        ("TIMEOUT_MS", "3000"),
        ("INVOCATION_PAYLOAD", r#"{"input":1}"#),
    ];
    let mut job = start(&format!("{FAMILY} wait"), &env);
    let pids = family(&job);
    assert_eq!(job.exit().code(), Some(0), "{}", job.said());
    assert_eq!(peer.next().json()["error"]["code"], "TIMEOUT");
    until_family_gone(&job, &pids);
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
