//! The clients of a run call, wait for results, cancel and close connections as planned, and check every
//! answer against the contract. Clients change no function.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nanofaas_testkit::client::{Answer, RawClient, Request};
use nanofaas_testkit::wait::PATIENCE;
use serde_json::Value;

use crate::book::{At, Book, Version};
use crate::canary::Canary;
use crate::judge::{self, ReportedOutcome};
use crate::ledger::{Ledger, Sent};
use crate::plan::{Act, ClientLeave, ClientStep, Kind, PlannedCall, Steps, name};
use crate::tally::Tally;

/// The number of calls for which a client uses the same set of idempotency keys.
const KEY_AGE: u64 = 150;

pub(crate) struct ChaosClient<'a> {
    pub(crate) number: usize,
    pub(crate) listen: SocketAddr,
    pub(crate) book: &'a Arc<Book>,
    pub(crate) ledger: &'a Ledger,
    pub(crate) tally: &'a Tally,
    calls: u64,
    wire: Option<RawClient>,
}

/// Fails if the plane has ended.
fn connect(listen: SocketAddr) -> io::Result<RawClient> {
    TcpStream::connect(listen).map(RawClient::over)
}

impl<'a> ChaosClient<'a> {
    pub(crate) fn new(
        number: usize,
        listen: SocketAddr,
        book: &'a Arc<Book>,
        ledger: &'a Ledger,
        tally: &'a Tally,
    ) -> Self {
        Self {
            number,
            listen,
            book,
            ledger,
            tally,
            calls: 0,
            wire: None,
        }
    }

    /// Executes the plan until the run is over. Fails if an answer does not come.
    pub(crate) fn work(&mut self, mut steps: Steps, over: &AtomicBool) -> io::Result<()> {
        while !over.load(Ordering::Relaxed) {
            self.step(&steps.next())?;
        }
        Ok(())
    }

    fn step(&mut self, step: &ClientStep) -> io::Result<()> {
        match step {
            ClientStep::Call(call) => self.call(call),
            ClientStep::Cancel { back } => self.cancel(*back),
            ClientStep::Status { back, wait_ms } => self.status(*back, *wait_ms),
            ClientStep::Output { back } => self.output(*back),
            ClientStep::Show { function } => self.show(*function),
        }
    }

    /// Sends over the kept connection, or over a new one. Keeps the connection if the plane keeps it open.
    fn send(&mut self, request: &Request) -> io::Result<Answer> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => connect(self.listen)?,
        };
        wire.send(&request.bytes());
        let answer = wire.read(true)?;
        if answer.header("connection") != Some("close") {
            self.wire = Some(wire);
        }
        Ok(answer)
    }

    fn canary(&self, call: &PlannedCall) -> (Canary, Option<String>) {
        let number = self.calls;
        let mut canary = Canary {
            function: call.function,
            call: format!("c{}-{number}", self.number),
            floor: self.book.floor(call.function),
            acts: call.acts.clone(),
            pad: call.pad as usize,
        };
        let Kind::Keyed { key, other, .. } = call.kind else {
            return (canary, None);
        };
        // All calls with the same key must send the same body, so the body depends only on the key and on
        // `other`.
        let age = number / KEY_AGE;
        let key = format!("k{age}-{key}");
        canary.call = format!("{key}-{other}");
        canary.floor = Version::default();
        canary.acts = match age % 3 {
            0 => vec![Act::Slow],
            1 => vec![Act::Fail, Act::Slow],
            _ => vec![Act::NotStarted, Act::Echo],
        };
        canary.pad = 0;
        (canary, Some(key))
    }

    fn call(&mut self, call: &PlannedCall) -> io::Result<()> {
        self.calls += 1;
        let (canary, key) = self.canary(call);
        let raw = call.raw && key.is_none();
        let request = request(call, &canary, key.as_deref(), raw);
        let now = self.book.now();
        let key = key.map(|key| format!("{}/{key}", name(call.function)));
        let from = key
            .as_ref()
            .map_or(now, |key| self.ledger.first_use(key, now));
        let sent = Sent {
            canary,
            from,
            raw,
            key,
        };
        if raw {
            self.tally.count("call raw");
        }
        let what = match call.kind {
            Kind::Invoke => "call invoke",
            Kind::Enqueue => "call enqueue",
            Kind::Keyed { .. } => "call keyed",
            Kind::PreferAsync => "call prefer-async",
            Kind::PreferWait => "call prefer-wait",
            Kind::Leave(leave) => return self.leave(leave, &sent, &request),
        };
        self.tally.count(what);
        let answer = self.send(&request)?;
        let verdict = self.judge(call.kind, &sent, &answer, false);
        self.tally
            .check(verdict.map_err(|why| format!("{what}: {why}")));
        Ok(())
    }

    /// Checks that the contract allows this answer to the call.
    fn judge(&self, kind: Kind, sent: &Sent, answer: &Answer, left: bool) -> Result<(), String> {
        let now = self.book.now();
        let possible = self.book.possible(sent.canary.function, sent.from, now);
        let unexpected = || {
            let Answer { status, .. } = answer;
            let text: String = answer.text().chars().take(400).collect();
            Err(format!(
                "{status} {text}, for {:?}, {possible:?}",
                sent.canary
            ))
        };
        let waits = matches!(
            kind,
            Kind::Invoke | Kind::PreferWait | Kind::Leave(_) | Kind::Keyed { enqueue: false, .. }
        );
        let accepts = matches!(
            kind,
            Kind::Enqueue
                | Kind::PreferAsync
                | Kind::PreferWait
                | Kind::Keyed { enqueue: true, .. }
        );
        if answer.header("idempotent-replay").is_some() {
            self.tally.count("replay");
            if sent.key.is_none() {
                return Err(format!("a replay of a call without a key: {answer:?}"));
            }
        }
        let Some(id) = answer.header("x-execution-id") else {
            self.tally.count(&format!("answer {}", answer.status));
            let allowed = match (answer.status, answer.json()["error"].as_str()) {
                (404, Some("FUNCTION_NOT_FOUND")) => possible.absent,
                (422, Some("IDEMPOTENCY_MISMATCH")) => sent.key.is_some(),
                (429, Some("TOO_MANY_REQUESTS")) => {
                    let has = |name| answer.header(name).is_some();
                    has("retry-after") && has("x-queue-reject-reason")
                }
                // The key may belong to another io thread. If that io thread has no room for the question
                // about the key, the plane answers BUSY.
                (503, Some("BUSY")) => sent.key.is_some(),
                _ => false,
            };
            return if allowed { Ok(()) } else { unexpected() };
        };
        if answer.status == 202 {
            self.tally.count("answer 202");
            self.ledger.accept(id, sent, now);
            let own = answer.json()["executionId"] == id;
            return if accepts && own { Ok(()) } else { unexpected() };
        }
        if !waits {
            return unexpected();
        }
        let cancelled = left || self.ledger.is_cancelled(id);
        if sent.key.is_some() {
            self.ledger.accept(id, sent, now);
        }
        if sent.raw && answer.status == 200 {
            let output = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
            let fine = answer.header("x-execution-status") == Some("success");
            return if fine {
                self.succeeded(id, sent, &output)
            } else {
                unexpected()
            };
        }
        let body = answer.json();
        if body["executionId"] != id {
            return unexpected();
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let state = text(&body["status"]);
        if state == "success" {
            let fine = answer.status == 200 && body["error"] == Value::Null;
            return if fine {
                self.succeeded(id, sent, &body["output"])
            } else {
                unexpected()
            };
        }
        let (code, message) = (
            text(&body["error"]["code"]),
            text(&body["error"]["message"]),
        );
        // A JOB's runtime that cannot send an output reports an error of the function: status 500.
        let by_job = code == "BAD_OUTPUT" && possible.job && answer.status == 500;
        if answer.status != judge::http_status(&code) && !by_job {
            return unexpected();
        }
        // A call that joined another call's execution may time out at its own deadline, while the execution
        // continues.
        let gave_up = sent.key.is_some() && code == "TIMEOUT";
        let outcome = ReportedOutcome {
            state: if gave_up { "timeout" } else { &state },
            code: &code,
            message: &message,
        };
        self.tally.count(&format!("end {code}"));
        judge::failure(sent, &possible, cancelled, &outcome)
    }

    fn succeeded(&self, id: &str, sent: &Sent, output: &Value) -> Result<(), String> {
        succeeded(self.book, self.ledger, self.tally, id, sent, output)
    }

    /// Sends the request, or the planned part of it, and closes the connection.
    fn leave(&self, leave: ClientLeave, sent: &Sent, request: &Request) -> io::Result<()> {
        let mut wire = connect(self.listen)?;
        let bytes = request.bytes();
        match leave {
            ClientLeave::InRequest(percent) => {
                self.tally.count("leave in-request");
                wire.send(&bytes[..bytes.len() * percent as usize / 100]);
            }
            ClientLeave::Waiting(ms) => {
                self.tally.count("leave waiting");
                wire.send(&bytes);
                std::thread::sleep(Duration::from_millis(ms));
            }
            ClientLeave::HalfClosed => {
                self.tally.count("leave half-closed");
                wire.send(&bytes);
                wire.finish();
                wire.set_patience(PATIENCE);
                // After a FIN the plane may answer the call or not.
                if let Ok(answer) = wire.read(true) {
                    let verdict = self.judge(Kind::Leave(leave), sent, &answer, true);
                    self.tally
                        .check(verdict.map_err(|why| format!("half-closed: {why}")));
                }
            }
        }
        Ok(())
    }

    fn cancel(&mut self, back: u64) -> io::Result<()> {
        let Some(id) = self.ledger.back(back) else {
            return Ok(());
        };
        self.tally.count("step cancel");
        self.ledger.cancel(&id);
        let answer = self.send(&Request::delete(&format!("/v1/executions/{id}")))?;
        self.expect(&id, &answer, &[200, 202]);
        if answer.status != 202 {
            return Ok(());
        }
        self.tally.count("cancel taken");
        let answer = self.send(&Request::get(&format!("/v1/executions/{id}")))?;
        self.expect(&id, &answer, &[200]);
        if answer.status == 200 {
            self.ledger.stop_at(&id, attempts(&answer.json()));
        }
        Ok(())
    }

    /// Checks the answer to a request about an execution. A 404 is wrong while the plane must keep the
    /// execution's record.
    fn expect(&self, id: &str, answer: &Answer, statuses: &[u16]) {
        let forgotten = answer.status == 404 && self.ledger.sent(id).is_none();
        if !forgotten && !statuses.contains(&answer.status) {
            let text = answer.text();
            self.tally
                .wrong(format!("execution {id}: {} {text}", answer.status));
        }
    }

    fn status(&mut self, back: u64, wait_ms: u64) -> io::Result<()> {
        let Some(id) = self.ledger.back(back) else {
            return Ok(());
        };
        self.tally.count("step status");
        let path = format!("/v1/executions/{id}?waitMs={wait_ms}");
        let asked = self.book.now();
        let answer = self.send(&Request::get(&path))?;
        self.expect(&id, &answer, &[200]);
        if answer.status == 200 {
            let state = status(
                self.book,
                self.ledger,
                self.tally,
                &id,
                asked,
                &answer.json(),
            );
            self.tally.check(state.map(drop));
        }
        Ok(())
    }

    fn output(&mut self, back: u64) -> io::Result<()> {
        let Some(id) = self.ledger.back(back) else {
            return Ok(());
        };
        self.tally.count("step output");
        let answer = self.send(&Request::get(&format!("/v1/executions/{id}/output")))?;
        self.expect(&id, &answer, &[200, 409, 410]);
        if let (200, Some(sent)) = (answer.status, self.ledger.sent(&id)) {
            let output = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
            self.tally.check(self.succeeded(&id, &sent, &output));
        }
        Ok(())
    }

    fn show(&mut self, function: usize) -> io::Result<()> {
        self.tally.count("step show");
        let from = self.book.now();
        let answer = self.send(&Request::get(&format!("/v1/functions/{}", name(function))))?;
        let possible = self.book.possible(function, from, self.book.now());
        let fine = match answer.status {
            200 => answer.json()["name"] == name(function).as_str(),
            404 => possible.absent,
            _ => false,
        };
        if !fine {
            self.tally
                .wrong(format!("{}: {answer:?}, {possible:?}", name(function)));
        }
        Ok(())
    }
}

fn succeeded(
    book: &Book,
    ledger: &Ledger,
    tally: &Tally,
    id: &str,
    sent: &Sent,
    output: &Value,
) -> Result<(), String> {
    let possible = book.possible(sent.canary.function, sent.from, book.now());
    let attempt = judge::output(sent, &possible, output)?;
    if let Some(key) = sent.key.as_ref().filter(|_| !possible.removed) {
        ledger.hold(key, id)?;
    }
    tally.count(if attempt.is_some() {
        "end success"
    } else {
        "end LOCAL"
    });
    if let Some(attempt) = attempt {
        ledger.succeed(id, attempt);
    }
    Ok(())
}

/// Checks that the contract allows this status of an execution, which was requested at the time `asked`.
/// Returns whether the execution has ended.
pub(crate) fn status(
    book: &Book,
    ledger: &Ledger,
    tally: &Tally,
    id: &str,
    asked: At,
    status: &Value,
) -> Result<bool, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let state = text(&status["status"]);
    if status["executionId"] != id {
        return Err(format!("the status of {id} is {status}"));
    }
    if !ledger.allows(id, attempts(status)) {
        return Err(format!("an attempt after a cancel was taken: {status}"));
    }
    let over = matches!(state.as_str(), "success" | "error" | "timeout");
    if !over && !matches!(state.as_str(), "queued" | "running") {
        return Err(format!("the status of {id} is {status}"));
    }
    if state == "queued"
        && let Some(sent) = ledger.sent(id)
    {
        tally.count("status queued");
        ledger.waited(id, book.floor_at(sent.canary.function, asked).revision);
    }
    // Only the client of a plain call knows the call's body, and judges the answer. The ledger has no `sent`
    // of such a call.
    let Some(sent) = ledger.sent(id).filter(|_| over) else {
        return Ok(over);
    };
    if status["function"] != name(sent.canary.function).as_str() {
        return Err(format!(
            "the status of a call to another function: {status}"
        ));
    }
    if state == "success" {
        if status["outputKept"] == true && !sent.raw {
            succeeded(book, ledger, tally, id, &sent, &status["output"])?;
        }
        return Ok(true);
    }
    let (code, message) = (
        text(&status["error"]["code"]),
        text(&status["error"]["message"]),
    );
    let possible = book.possible(sent.canary.function, sent.from, book.now());
    let outcome = ReportedOutcome {
        state: &state,
        code: &code,
        message: &message,
    };
    tally.count(&format!("end {code}"));
    judge::failure(&sent, &possible, ledger.is_cancelled(id), &outcome)?;
    Ok(true)
}

fn attempts(status: &Value) -> u32 {
    let attempts = status["attempt"]
        .as_u64()
        .and_then(|count| u32::try_from(count).ok());
    attempts.expect("a status has a number of attempts")
}

fn request(call: &PlannedCall, canary: &Canary, key: Option<&str>, raw: bool) -> Request {
    let enqueue = matches!(call.kind, Kind::Enqueue | Kind::Keyed { enqueue: true, .. });
    let verb = if enqueue { "enqueue" } else { "invoke" };
    let path = format!("/v1/functions/{}:{verb}", name(call.function));
    let request = Request::new("POST", &path);
    let body = canary.to_json();
    let mut request = if raw {
        request.body("application/octet-stream", body.to_string())
    } else {
        request.json(&serde_json::json!({ "input": body }))
    };
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    if let Some(ms) = call.timeout_ms {
        request = request.header("X-Timeout-Ms", &ms.to_string());
    }
    match call.kind {
        Kind::PreferAsync => request.header("Prefer", "respond-async"),
        Kind::PreferWait => request.header("Prefer", "wait=1"),
        _ => request,
    }
}
