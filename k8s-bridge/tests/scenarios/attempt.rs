//! Begins and ends attempts of calls of JOB functions as the io thread that owns the call does, and reads the
//! messages that the bridge sends to that thread.

use std::sync::Arc;

use nanofaas_core::function::Function;
use nanofaas_core::message::{BridgeMessage, JobStart, Message, ReadyTimestamps, Reply};
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::shard::ShardId;
use nanofaas_core::ticket::CallId;
use nanofaas_fake_api_server::server::FakeApiServer;
use serde_json::json;

use crate::fixture::ClusterFixture;

const DEADLINE_MS: u64 = 60_000;

pub(crate) fn call(index: u32) -> CallId {
    CallId {
        index,
        generation: 1,
        shard: ShardId::new(1),
    }
}

pub(crate) async fn with_function(server: &FakeApiServer) -> (ClusterFixture, Arc<Function>) {
    let mut fixture = ClusterFixture::acting(server).await;
    let spec = json!({"name": "j", "image": "i:1", "env": {"OWN": "$(X)"}, "timeoutMs": 30000});
    match fixture.register(spec, false).await {
        Reply::Registered { function, .. } => (fixture, function),
        _ => panic!("it is not registered"),
    }
}

pub(crate) fn start(fixture: &ClusterFixture, function: &Arc<Function>, call: CallId) {
    start_with(fixture, function, call, DEADLINE_MS);
}

pub(crate) fn start_with(
    fixture: &ClusterFixture,
    function: &Arc<Function>,
    call: CallId,
    deadline_ms: u64,
) {
    fixture.rings.send(BridgeMessage::Job(Box::new(JobStart {
        call,
        function: function.clone(),
        execution_id: "0e".into(),
        attempt: 1,
        trace_id: Some("t1".into()),
        token: "1.abc".into(),
        payload: Some("{\"input\":1}".into()),
        deadline_ms,
    })));
}

pub(crate) fn stop(fixture: &ClusterFixture, call: CallId, timestamps: Option<ReadyTimestamps>) {
    fixture.rings.send(BridgeMessage::JobStop {
        call,
        attempt: 1,
        timestamps,
    });
}

/// Waits until the io thread gets the message that the container runs.
pub(crate) async fn started(fixture: &ClusterFixture, of: CallId) {
    loop {
        match fixture.message(1).await {
            Message::JobStarting {
                call,
                attempt,
                running_since,
                ..
            } => {
                assert_eq!((call, attempt), (of, 1));
                if running_since.is_some() {
                    return;
                }
            }
            _ => panic!("another message than a start"),
        }
    }
}

pub(crate) async fn ended(fixture: &ClusterFixture, of: CallId) -> (ExecutionError, bool) {
    loop {
        match fixture.message(1).await {
            Message::JobStarting { .. } => {}
            Message::JobEnded {
                call, failure, oom, ..
            } => {
                assert_eq!(call, of);
                return (failure, oom);
            }
            _ => panic!("another message than an end"),
        }
    }
}
