//! Tests of Jobs, whose attempts of calls are one process each.

use std::sync::Arc;

use nanofaas_core::event::Event;
use nanofaas_core::function::Function;
use nanofaas_core::message::{BridgeMessage, JobStart, Message};
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::shard::ShardId;
use nanofaas_core::ticket::CallId;
use nanofaas_core::time::Uptime;
use nanofaas_testkit::process::is_alive;

use crate::ProcessTest;
use crate::fixture::{LocalFixture, until, with};

pub(crate) const TESTS: &[ProcessTest] = &[
    ("a_job_gets_its_call_in_the_environment", environment),
    ("a_job_that_fails_reports_its_last_output", failures),
    ("a_job_that_is_over_is_ended", stops),
    ("a_slightly_late_result_is_waited_for", late_result),
    ("many_jobs_leave_nothing_behind", many),
];

const CALL: CallId = CallId {
    index: 4,
    generation: 2,
    shard: ShardId::new(1),
};

async fn job(fixture: &mut LocalFixture, command: &str) -> Arc<Function> {
    let directory = fixture.scratch.path().display();
    let fields =
        format!(r#""command":{command},"timeoutMs":5000,"local":{{"directory":"{directory}"}}"#);
    let function = fixture.register(&fields).await;
    assert!(matches!(fixture.event().await, Event::LaneOpened { .. }));
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
        timestamps: None,
    }
}

async fn started(fixture: &mut LocalFixture) {
    let message = fixture.message(1).await;
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
    assert!(at > Uptime::ZERO && at <= fixture.now());
    assert!(matches!(start[..], [("spawned", _)]), "{start:?}");
}

async fn ended(fixture: &mut LocalFixture) -> ExecutionError {
    match fixture.message(1).await {
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
    with(|mut fixture| async move {
        let script = "#!/bin/sh\nenv >env.new\nmv env.new env$INVOCATION_TIMEOUT_MS\n";
        fixture.scratch.executable("job", script);
        let function = job(&mut fixture, r#"["./job"]"#).await;
        fixture.send(start(&function, Some(r#"{"input":1}"#), 60_000));
        started(&mut fixture).await;
        ended(&mut fixture).await;
        let env = fixture.line("env5000").await;
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
        fixture.send(start(&function, None, 1234));
        started(&mut fixture).await;
        ended(&mut fixture).await;
        let env = fixture.line("env1234").await;
        let url = format!("INVOCATION_PAYLOAD_URL={callback}/id1/input");
        assert!(env.lines().any(|line| line == url), "{env}");
        assert!(!env.contains("INVOCATION_PAYLOAD="));
        fixture
    });
}

fn failures() {
    with(|mut fixture| async move {
        let function = job(&mut fixture, r#"["sh","-c","echo broken >&2; exit 7"]"#).await;
        fixture.send(start(&function, Some("{}"), 1000));
        started(&mut fixture).await;
        let ExecutionError::PodLost(why) = ended(&mut fixture).await else {
            panic!("another failure");
        };
        assert!(why.contains("status 7") && why.ends_with("broken"), "{why}");
        let function = job(&mut fixture, r#"["true"]"#).await;
        fixture.send(start(&function, Some("{}"), 1000));
        started(&mut fixture).await;
        let ExecutionError::PodLost(why) = ended(&mut fixture).await else {
            panic!("another failure");
        };
        assert!(
            why.contains("no result") && why.contains("status 0"),
            "{why}"
        );
        let function = job(&mut fixture, r#"["./no-such-job"]"#).await;
        fixture.send(start(&function, Some("{}"), 1000));
        let ExecutionError::ColdStart(why) = ended(&mut fixture).await else {
            panic!("another failure");
        };
        assert!(why.contains("no-such-job"), "{why}");
        fixture
    });
}

fn stops() {
    with(|mut fixture| async move {
        let script = "#!/bin/sh\ntrap '' TERM\nsleep 1000 &\necho $! >child\necho $$ >pid\nwait\n";
        fixture.scratch.executable("job", script);
        let function = job(&mut fixture, r#"["./job"]"#).await;
        fixture.send(start(&function, Some("{}"), 60_000));
        started(&mut fixture).await;
        let (pid, child) = (fixture.pid("pid").await, fixture.pid("child").await);
        fixture.send(stop());
        until("both are gone", || !is_alive(pid) && !is_alive(child)).await;
        // These attempts are stopped before their processes run.
        fixture.send(start(&function, Some("{}"), 60_000));
        fixture.send(stop());
        fixture.send(start(&function, Some("{}"), 60_000));
        fixture.send(stop());
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        while let Some(message) = fixture.try_message(1) {
            assert!(
                !matches!(message, Message::JobEnded { .. }),
                "nobody waits for it"
            );
        }
        fixture
    });
}

/// The process ends before the bridge gets `JobStop`, which reports that the result has arrived.
fn late_result() {
    const TRIES: usize = 5;
    with(|mut fixture| async move {
        let quick = job(&mut fixture, r#"["sh","-c","echo $$ >quick"]"#).await;
        for _ in 0..TRIES {
            fixture.send(start(&quick, Some("{}"), 60_000));
            let pid = fixture.pid("quick").await;
            until("it has ended", || !is_alive(pid)).await;
            fixture.send(stop());
            std::fs::remove_file(fixture.scratch.join("quick")).expect("written");
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let mut losses = 0;
        while let Some(message) = fixture.try_message(1) {
            losses += usize::from(matches!(message, Message::JobEnded { .. }));
        }
        // Some losses are allowed, because a machine that stalls may deliver some of the reports too late.
        assert!(losses < TRIES, "a result that came is called lost");
        fixture
    });
}

fn many() {
    const ROUNDS: u32 = 20;
    const AT_ONCE: u32 = 16;
    with(|mut fixture| async move {
        let function = job(&mut fixture, r#"["false"]"#).await;
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
                fixture.send(BridgeMessage::Job(job));
            }
            let mut ended = 0;
            while ended < AT_ONCE {
                ended += u32::from(matches!(fixture.message(1).await, Message::JobEnded { .. }));
            }
            if round == 0 {
                open_first = open();
            }
        }
        let each = since.elapsed() / (ROUNDS * AT_ONCE);
        println!("a job of `false`: {} us", each.as_micros());
        until("the pipes are closed", || open() <= open_first).await;
        let dirs = std::fs::read_dir(fixture.scratch.join(""))
            .expect("there")
            .flatten();
        let mut dirs = dirs.filter(|dir| dir.file_name().to_string_lossy().contains("nanofaas-"));
        let run_dir = dirs.next().expect("the bridge's").path();
        let left: Vec<_> = std::fs::read_dir(run_dir)
            .expect("there")
            .flatten()
            .collect();
        assert_eq!(left.len(), 1, "only the lock: {left:?}");
        fixture
    });
}
