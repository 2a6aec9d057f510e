//! Jobs: one process for each attempt of a call.

use std::sync::Arc;

use nanofaas_core::event::Event;
use nanofaas_core::function::Function;
use nanofaas_core::message::{BridgeMessage, JobStart, Message};
use nanofaas_core::outcome::Failure;
use nanofaas_core::shard::ShardId;
use nanofaas_core::ticket::CallId;
use nanofaas_core::time::Uptime;

use crate::Test;
use crate::bench::{Bench, lives, until, with};

pub(crate) const TESTS: &[Test] = &[
    ("a_job_gets_its_call_in_the_environment", environment),
    ("a_job_that_fails_says_its_last_words", failures),
    ("a_job_that_is_over_is_ended", stops),
    ("a_word_that_is_a_little_late_is_waited_for", late_word),
    ("many_jobs_leave_nothing_behind", many),
];

const CALL: CallId = CallId {
    index: 4,
    generation: 2,
    shard: ShardId::new(1),
};

async fn job(bench: &mut Bench, command: &str) -> Arc<Function> {
    let directory = bench.scratch.path();
    let fields =
        format!(r#""command":{command},"timeoutMs":5000,"local":{{"directory":"{directory}"}}"#);
    let function = bench.register(&fields).await;
    assert!(matches!(bench.event().await, Event::LaneOpened { .. }));
    function
}

fn start(function: &Arc<Function>, payload: Option<&str>, deadline_ms: u64) -> BridgeMessage {
    BridgeMessage::Job(Box::new(JobStart {
        call: CALL,
        function: function.clone(),
        execution_id: "id1".into(),
        attempt: 3,
        trace_id: Some("trace".into()),
        token: "3.abc".into(),
        payload: payload.map(Into::into),
        deadline_ms,
    }))
}

fn stop() -> BridgeMessage {
    BridgeMessage::JobStop {
        call: CALL,
        attempt: 3,
        stamps: None,
    }
}

async fn started(bench: &mut Bench) {
    let message = bench.message(1).await;
    let Message::JobStarting {
        call: CALL,
        attempt: 3,
        running_since: Some(at),
        start,
        ..
    } = message
    else {
        panic!("it did not start");
    };
    assert!(at > Uptime::ZERO && at <= bench.now());
    assert!(matches!(start[..], [("spawned", _)]), "{start:?}");
}

async fn ended(bench: &mut Bench) -> Failure {
    match bench.message(1).await {
        Message::JobEnded {
            call: CALL,
            attempt: 3,
            failure,
            oom: false,
        } => failure,
        _ => panic!("it did not end"),
    }
}

fn environment() {
    with(|mut bench| async move {
        let script = "#!/bin/sh\nenv >env.new\nmv env.new env$INVOCATION_TIMEOUT_MS\n";
        bench.scratch.program("job", script);
        let function = job(&mut bench, r#"["./job"]"#).await;
        bench.send(start(&function, Some(r#"{"input":1}"#), 60_000));
        started(&mut bench).await;
        ended(&mut bench).await;
        let env = bench.scratch.line("env5000").await;
        let callback = "http://127.0.0.1:1/v1/internal/3.abc/executions";
        let has = |line: &str| env.lines().any(|known| known == line);
        for line in [
            "EXECUTION_ID=id1",
            "DISPATCH_ATTEMPT=3",
            "TRACE_ID=trace",
            "TIMEOUT_MS=60000",
            "FUNCTION_NAME=f1",
            "EXECUTION_MODE=HTTP",
            r#"INVOCATION_PAYLOAD={"input":1}"#,
            &format!("CALLBACK_URL={callback}"),
        ] {
            assert!(has(line), "{line} is not in\n{env}");
        }
        assert!(!env.contains("INVOCATION_PAYLOAD_URL") && !env.contains("NANOFAAS_SOCKET"));
        bench.send(start(&function, None, 1234));
        started(&mut bench).await;
        ended(&mut bench).await;
        let env = bench.scratch.line("env1234").await;
        let url = format!("INVOCATION_PAYLOAD_URL={callback}/id1/input");
        assert!(env.lines().any(|line| line == url), "{env}");
        assert!(!env.contains("INVOCATION_PAYLOAD="));
        bench
    });
}

fn failures() {
    with(|mut bench| async move {
        let function = job(&mut bench, r#"["sh","-c","echo broken >&2; exit 7"]"#).await;
        bench.send(start(&function, Some("{}"), 1000));
        started(&mut bench).await;
        let Failure::PodLost(why) = ended(&mut bench).await else {
            panic!("another failure");
        };
        assert!(why.contains("status 7") && why.ends_with("broken"), "{why}");
        let function = job(&mut bench, r#"["true"]"#).await;
        bench.send(start(&function, Some("{}"), 1000));
        started(&mut bench).await;
        let Failure::PodLost(why) = ended(&mut bench).await else {
            panic!("another failure");
        };
        assert!(
            why.contains("no result") && why.contains("status 0"),
            "{why}"
        );
        let function = job(&mut bench, r#"["./no-such-job"]"#).await;
        bench.send(start(&function, Some("{}"), 1000));
        let Failure::ColdStart(why) = ended(&mut bench).await else {
            panic!("another failure");
        };
        assert!(why.contains("no-such-job"), "{why}");
        bench
    });
}

fn stops() {
    with(|mut bench| async move {
        let script = "#!/bin/sh\ntrap '' TERM\nsleep 1000 &\necho $! >child\necho $$ >pid\nwait\n";
        bench.scratch.program("job", script);
        let function = job(&mut bench, r#"["./job"]"#).await;
        bench.send(start(&function, Some("{}"), 60_000));
        started(&mut bench).await;
        let (pid, child) = (
            bench.scratch.pid("pid").await,
            bench.scratch.pid("child").await,
        );
        bench.send(stop());
        until("both are gone", || !lives(pid) && !lives(child)).await;
        // One that is over before it runs.
        bench.send(start(&function, Some("{}"), 60_000));
        bench.send(stop());
        bench.send(start(&function, Some("{}"), 60_000));
        bench.send(stop());
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        while let Some(message) = bench.try_message(1) {
            assert!(
                !matches!(message, Message::JobEnded { .. }),
                "nobody waits for it"
            );
        }
        bench
    });
}

/// The process ends before the word that its result came.
fn late_word() {
    const TRIES: usize = 5;
    with(|mut bench| async move {
        let quick = job(&mut bench, r#"["sh","-c","echo $$ >quick"]"#).await;
        for _ in 0..TRIES {
            bench.send(start(&quick, Some("{}"), 60_000));
            let pid = bench.scratch.pid("quick").await;
            until("it has ended", || !lives(pid)).await;
            bench.send(stop());
            std::fs::remove_file(bench.scratch.at("quick")).expect("written");
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let mut losses = 0;
        while let Some(message) = bench.try_message(1) {
            losses += usize::from(matches!(message, Message::JobEnded { .. }));
        }
        // A machine that stalls may make one of them late.
        assert!(losses < TRIES, "a result that came is called lost");
        bench
    });
}

fn many() {
    const ROUNDS: u32 = 20;
    const AT_ONCE: u32 = 16;
    with(|mut bench| async move {
        let function = job(&mut bench, r#"["false"]"#).await;
        let open = || std::fs::read_dir("/proc/self/fd").expect("there").count();
        let mut open_first = 0;
        let since = std::time::Instant::now();
        for round in 0..ROUNDS {
            for index in 0..AT_ONCE {
                let call = CallId { index, ..CALL };
                let BridgeMessage::Job(mut job) = start(&function, Some("{}"), 60_000) else {
                    unreachable!("it is a job");
                };
                job.call = call;
                bench.send(BridgeMessage::Job(job));
            }
            let mut ended = 0;
            while ended < AT_ONCE {
                ended += u32::from(matches!(bench.message(1).await, Message::JobEnded { .. }));
            }
            if round == 0 {
                open_first = open();
            }
        }
        let each = since.elapsed() / (ROUNDS * AT_ONCE);
        println!("a job of `false`: {} us", each.as_micros());
        until("the pipes are closed", || open() <= open_first).await;
        let dirs = std::fs::read_dir(bench.scratch.at(""))
            .expect("there")
            .flatten();
        let mut dirs = dirs.filter(|dir| dir.file_name().to_string_lossy().contains("nanofaas-"));
        let run_dir = dirs.next().expect("the bridge's").path();
        let left: Vec<_> = std::fs::read_dir(run_dir)
            .expect("there")
            .flatten()
            .collect();
        assert_eq!(left.len(), 1, "only the lock: {left:?}");
        bench
    });
}
