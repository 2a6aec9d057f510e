//! Serves the watches of the fake API server. A watch sends the changes of objects, one line for each change,
//! or fails as the script says.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::http::{ServedRequest, write_answer};
use crate::script::Fault;
use crate::server::FakeApiServer;
use crate::store::{kind_of, refusal, selects};

const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
const END: &str = "0\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// Serves a watch that fails as `fault` says. Returns whether the connection stays open. A `Mute` watch ends
/// only when the client closes the connection.
pub(crate) async fn broken(fault: &Fault, stream: &mut BufReader<TcpStream>) -> bool {
    let text = match fault {
        Fault::EndAtOnce => [HEAD, END].concat(),
        Fault::ExpireByEvent => {
            let (_, status) = refusal(410, "Expired", "too old resource version");
            let event = json!({"type": "ERROR", "object": status});
            [HEAD, &chunk(&format!("{event}\n")), END].concat()
        }
        Fault::CutLine => {
            let half = r#"{"type":"MODIFIED","object":{"metadata":{"name":"ha"#;
            [HEAD, &chunk(half)].concat()
        }
        Fault::Mute => HEAD.to_owned(),
        fault => panic!("no fault of a watch: {fault:?}"),
    };
    let is_written = stream.write_all(text.as_bytes()).await.is_ok();
    if matches!(fault, Fault::Mute) {
        let _ = stream.fill_buf().await;
        return false;
    }
    is_written && !matches!(fault, Fault::CutLine)
}

/// Sends the changes until the watch's time is over or the client is gone; returns whether the connection
/// stays open.
pub(crate) async fn watch(
    server: &FakeApiServer,
    request: &ServedRequest,
    stream: &mut BufReader<TcpStream>,
) -> bool {
    let from = request.parameter("resourceVersion");
    let mut reached: u64 = from.and_then(|from| from.parse().ok()).unwrap_or_default();
    if reached < server.0.store.borrow().oldest {
        let (code, status) = refusal(410, "Expired", "too old resource version");
        return write_answer(stream, code, &status, None).await;
    }
    let seconds = request.parameter("timeoutSeconds");
    let seconds = seconds
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(300);
    let until = Instant::now() + Duration::from_secs(seconds);
    if stream.write_all(HEAD.as_bytes()).await.is_err() {
        return false;
    }
    let _open = Open::new(server, &request.resource);
    let selector = request.parameter("labelSelector").unwrap_or_default();
    loop {
        let changed = server.0.changed.notified();
        let (events, next) = due(server, request, &selector, &mut reached);
        for event in events {
            let line = chunk(&format!("{event}\n"));
            if stream.write_all(line.as_bytes()).await.is_err() {
                return false;
            }
        }
        if Instant::now() >= until {
            // The bookmark gives the client the version that the watch has reached, even if no event was
            // sent.
            let version = reached.to_string();
            let object = json!({"kind": kind_of(&request.resource).1, "apiVersion":
                kind_of(&request.resource).0, "metadata": {"resourceVersion": version}});
            let line = chunk(&format!(
                "{}\n",
                json!({"type": "BOOKMARK", "object": object})
            ));
            let _ = stream.write_all(line.as_bytes()).await;
            return stream.write_all(END.as_bytes()).await.is_ok();
        }
        let again = next.unwrap_or(until).min(until);
        let wait = first_of(first_of(changed, sleep_until(again)), async {
            // The client sends nothing during a watch, so this read ends when the client closes the
            // connection.
            let _ = stream.fill_buf().await;
        });
        if wait.await == FirstDone::Second {
            return false;
        }
    }
}

/// Returns the events that may be sent now, and the time at which a delayed event may be sent.
fn due(
    server: &FakeApiServer,
    request: &ServedRequest,
    selector: &str,
    reached: &mut u64,
) -> (Vec<Value>, Option<Instant>) {
    let store = server.0.store.borrow();
    let delay = server.0.watch_delay.get();
    let mut events = Vec::new();
    for happened in store.history.iter().filter(|one| one.version > *reached) {
        let at = happened.at + delay;
        if at > Instant::now() {
            *reached = happened.version - 1;
            return (events, Some(at));
        }
        if happened.resource == request.resource && selects(selector, &happened.object) {
            events.push(json!({"type": happened.what, "object": happened.object}));
        }
    }
    *reached = store.version().max(*reached);
    (events, None)
}

/// Lists the resource in `watches` while the watch is open.
struct Open<'a>(&'a FakeApiServer, String);

impl<'a> Open<'a> {
    fn new(server: &'a FakeApiServer, resource: &str) -> Self {
        server.0.watches.borrow_mut().push(resource.to_owned());
        Self(server, resource.to_owned())
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut watches = self.0.0.watches.borrow_mut();
        if let Some(at) = watches.iter().position(|one| *one == self.1) {
            watches.swap_remove(at);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum FirstDone {
    First,
    Second,
}

async fn first_of(one: impl Future, other: impl Future) -> FirstDone {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| {
        if one.as_mut().poll(context).is_ready() {
            return Poll::Ready(FirstDone::First);
        }
        other.as_mut().poll(context).map(|_| FirstDone::Second)
    })
    .await
}
