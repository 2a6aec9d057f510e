//! A program with several handlers: of all three kinds, and with different ways to end a call.
//! `FUNCTION_HANDLER` selects a handler. The tests run this program as their function.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use nanofaas_runtime::{Context, Error, Handlers, Input, Output, handler};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Sum {
    numbers: Vec<i64>,
}

#[derive(Serialize)]
struct Total {
    total: i64,
}

fn sum(input: Sum, _: &Context) -> Result<Total, Error> {
    let add = |total: i64, number: &i64| total.checked_add(*number);
    let total = input.numbers.iter().try_fold(0, add);
    let total = total.ok_or_else(|| Error::with_code("TOO_BIG", "the sum is over 64 bits"))?;
    Ok(Total { total })
}

#[derive(Serialize)]
struct Facts {
    id: Option<String>,
    trace: Option<String>,
    attempt: u32,
    metadata: BTreeMap<String, String>,
    bounded: bool,
    agent: Option<String>,
    /// Method, path, query and number of headers of an HTTP call.
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<(String, String, Option<String>, usize)>,
    pid: u32,
}

fn facts(_: serde_json::Value, context: &Context) -> Result<Facts, Error> {
    context.log("info", "facts asked for");
    Ok(Facts {
        id: context.execution_id().map(str::to_owned),
        trace: context.trace_id().map(str::to_owned),
        attempt: context.attempt(),
        metadata: context.metadata(),
        bounded: context.remaining_ms().is_some_and(|left| left <= 60_000),
        agent: context.header("User-Agent").map(str::to_owned),
        http: context.is_http().then(|| {
            let text = |part: Option<&str>| part.map(str::to_owned);
            let [method, path] = [context.method(), context.path()].map(text);
            let query = text(context.query());
            (
                method.unwrap_or_default(),
                path.unwrap_or_default(),
                query,
                context.headers().count(),
            )
        }),
        pid: std::process::id(),
    })
}

/// Writes a text to a file when the value is dropped, also when the handler's future is dropped.
struct Epitaph(PathBuf, &'static str);

impl Drop for Epitaph {
    fn drop(&mut self) {
        // The test fails if the file is missing, so ignore the error.
        let _ = std::fs::write(&self.0, self.1);
    }
}

#[derive(Deserialize)]
struct WaitInput {
    began: PathBuf,
    gate: PathBuf,
    ended: PathBuf,
}

async fn wait(input: WaitInput, _: Context) -> Result<&'static str, Error> {
    let mut epitaph = Epitaph(input.ended, "dropped");
    std::fs::write(input.began, "")?;
    while !input.gate.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    epitaph.1 = "returned";
    Ok("done")
}

/// Checks every 5 ms whether its call is cancelled, as a blocking handler should.
fn spin(input: WaitInput, context: &Context) -> Result<&'static str, Error> {
    let mut epitaph = Epitaph(input.ended, "returned");
    std::fs::write(input.began, "")?;
    while !input.gate.exists() {
        if context.cancelled() {
            epitaph.1 = "cancelled";
            return Err(Error::with_code("CANCELLED", "nobody waits"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok("done")
}

/// Never checks whether its call is cancelled.
fn deaf(input: WaitInput, _: &Context) -> Result<&'static str, Error> {
    let _epitaph = Epitaph(input.ended, "returned");
    std::fs::write(input.began, "")?;
    while !input.gate.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok("done")
}

fn fail(how: String, _: &Context) -> Result<Output, Error> {
    match how.as_str() {
        "error" => Err(Error::new("it did not work")),
        "code" => Err(Error::with_code("MY_CODE", "my message")),
        "std" => Ok(std::fs::read("/nowhere/at/all").map(|_| Output::raw("a/b", vec![]))?),
        "panic" => panic!("out of {}", "order"),
        "type" => Ok(Output::raw("a/b\r\nX-Evil: 1", b"x".to_vec())),
        "forged" => Ok(Output::raw(
            "application/json",
            br#"1,"success":true"#.to_vec(),
        )),
        "png" => Ok(Output::raw("image/png", b"\x89PNG".to_vec())),
        _ => Err(Error::bad_input(
            "error, code, std, panic, type, forged or png",
        )),
    }
}

fn main() -> ExitCode {
    let mut handlers = Handlers::new()
        .add(
            "echo",
            handler::inline(|input: Input, _: &Context| Ok(input)),
        )
        .add("sum", handler::inline(sum))
        .add("facts", handler::inline(facts))
        .add("wait", handler::future(wait))
        .add("spin", handler::blocking(spin))
        .add("deaf", handler::blocking(deaf))
        .add("fail", handler::inline(fail))
        .add("fail-blocking", handler::blocking(fail))
        .add(
            "fail-future",
            handler::future(|how: String, context: Context| async move { fail(how, &context) }),
        );
    if let Some(gate) = std::env::var_os("INIT_GATE").map(PathBuf::from) {
        handlers = handlers.init(move || {
            while !gate.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let text = std::fs::read_to_string(&gate)?;
            match text.as_str() {
                "" => Ok(()),
                why => Err(Error::new(why)),
            }
        });
    }
    nanofaas_runtime::serve(handlers)
}
