//! Answers requests of clients and Jobs about an execution: its state, output, cancellation, input or result.
//! The thread that owns the execution answers them; `dispatch` and `shard::questions` call this module.

use std::borrow::Cow;
use std::rc::Rc;
use std::task::Poll;

use nanofaas_core::call::End;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::memory::Loose;
use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::time::Nanos;

use crate::api::execution_json;
use crate::http::error::HttpError;
use crate::http::response::{Response, error_response};
use crate::invoke::to_job;
use crate::links::Links;
use crate::links::questions::{About, ClientQuestion, JobQuestion};
use crate::links::shards;
use crate::state::call_table::{JobAnswer, JobUpdate};
use crate::state::executions::{ExecutionRecord, Found, StoredExecution};

/// The answer to a wrong token, whether or not the execution exists.
pub(crate) const WRONG_TOKEN: &str = "the token is not that of this execution";

/// Answers a question about an execution, on the thread that owns the execution.
pub(crate) async fn answer_anywhere(thread: &Rc<Links>, id: ExecutionId, about: About) -> Response {
    if id.shard() == thread.id {
        return answer(thread, id, about).await;
    }
    if id.shard().number() >= thread.threads {
        return error_response(&match about {
            About::OfJob { .. } => HttpError::Forbidden(WRONG_TOKEN),
            About::OfClient(_) => HttpError::NoSuchExecution,
        });
    }
    let answer = shards::ask_about(thread, id, about).await;
    answer.unwrap_or_else(|| error_response(&HttpError::Busy))
}

/// Answers a question about an execution of this thread.
pub(crate) async fn answer(thread: &Rc<Links>, id: ExecutionId, about: About) -> Response {
    let asked = match about {
        About::OfJob { token, question } => return answer_job(thread, id, &token, question),
        About::OfClient(asked) => asked,
    };
    let Some(found) = thread.executions.find(id) else {
        return error_response(&HttpError::NoSuchExecution);
    };
    match asked {
        ClientQuestion::Status { wait_ms } => {
            if let Found::Stored(stored) = &found {
                until_over(thread, stored, wait_ms).await;
            } else if wait_ms > 0 {
                return plain_status(thread, id, wait_ms).await;
            }
            state(thread, &found)
        }
        ClientQuestion::Output => output(&found),
        ClientQuestion::Cancel => cancel(thread, &found),
    }
}

fn answer_job(thread: &Links, id: ExecutionId, token: &[u8], question: JobQuestion) -> Response {
    // The token is checked before the execution is looked up, so that the answer to a wrong token does not
    // reveal whether the execution exists.
    let Some(attempt) = thread.tokens.verify(id, token) else {
        return error_response(&HttpError::Forbidden(WRONG_TOKEN));
    };
    let Some(found) = thread.executions.find(id) else {
        return error_response(&HttpError::NoSuchExecution);
    };
    match question {
        JobQuestion::Complete {
            content_type,
            content_encoding,
            body,
        } => {
            let labels = (content_type.as_deref(), content_encoding.as_deref());
            complete(thread, &found, attempt, labels, body)
        }
        JobQuestion::Input => match thread.inputs.borrow().get(&id.random()) {
            Some(input) if input.attempt == attempt => {
                let content_type = Cow::Owned(input.content_type.to_vec());
                let response = Response::bytes(content_type, input.body.to_vec());
                response.encoded(input.content_encoding.as_deref())
            }
            _ => error_response(&HttpError::Stale),
        },
    }
}

fn state(thread: &Links, found: &Found) -> Response {
    match found {
        Found::Stored(stored) => {
            let output = stored.output.borrow();
            execution_json::execution(thread, &stored.record.borrow(), output.as_ref())
        }
        Found::Plain(record) => execution_json::execution(thread, record, None),
    }
}

async fn until_over(thread: &Links, stored: &StoredExecution, wait_ms: u64) {
    if wait_ms == 0 || stored.is_over() {
        return;
    }
    let alarm = thread.alarms.alarm();
    alarm.set(thread.now() + Nanos::from_ms(wait_ms));
    let mut over = stored.until_over();
    std::future::poll_fn(|cx| {
        if over.poll(cx) {
            return Poll::Ready(());
        }
        alarm.poll(cx)
    })
    .await;
}

/// Waits for the end of a plain call, but at most `wait_ms`, and returns its state. A plain call keeps no
/// list of tasks to wake, so its record is polled.
async fn plain_status(thread: &Rc<Links>, id: ExecutionId, wait_ms: u64) -> Response {
    const POLL_EVERY: Nanos = Nanos::from_ms(20);
    let until = thread.now() + Nanos::from_ms(wait_ms);
    let alarm = thread.alarms.alarm();
    loop {
        let Some(found) = thread.executions.find(id) else {
            return error_response(&HttpError::NoSuchExecution);
        };
        let over = matches!(&found, Found::Plain(record) if record.status.is_terminal());
        let now = thread.now();
        if over || now >= until {
            return state(thread, &found);
        }
        alarm.until((now + POLL_EVERY).min(until)).await;
    }
}

fn output(found: &Found) -> Response {
    let stored = match found {
        Found::Stored(stored) => stored,
        Found::Plain(record) if !record.status.is_terminal() => {
            return error_response(&HttpError::NotEnded);
        }
        Found::Plain(_) => {
            let why = "a plain :invoke gives its output to its caller alone; use :enqueue, \
                       Prefer or an Idempotency-Key to have it kept";
            return error_response(&HttpError::NoOutput(why));
        }
    };
    if !stored.status().is_terminal() {
        return error_response(&HttpError::NotEnded);
    }
    match &*stored.output.borrow() {
        Some(output) => Response::output(output),
        None => error_response(&HttpError::NoOutput(
            "the execution has no output; its status says why",
        )),
    }
}

fn cancel(thread: &Links, found: &Found) -> Response {
    let record: ExecutionRecord = match found {
        Found::Stored(stored) => stored.record.borrow().clone(),
        Found::Plain(record) => (**record).clone(),
    };
    if record.status.is_terminal() {
        return state(thread, found);
    }
    if let Some(call) = record.call {
        thread.calls.end(call, End::Cancelled);
    }
    state(thread, found).but_accepted()
}

fn complete(
    thread: &Links,
    found: &Found,
    attempt: u32,
    (content_type, content_encoding): (Option<&[u8]>, Option<&[u8]>),
    body: Option<(Vec<u8>, Loose)>,
) -> Response {
    let (call, over) = match found {
        Found::Stored(stored) => {
            let record = stored.record.borrow();
            (record.call, record.status.is_terminal())
        }
        Found::Plain(record) => (record.call, record.status.is_terminal()),
    };
    let bytes_max = thread.config.response_bytes_max;
    let too_large = body.is_none();
    let read = body
        .map(|(body, charge)| to_job::read_result(content_type, content_encoding, body, charge));
    let answer = match read {
        None => JobAnswer {
            result: Err(ExecutionError::output_too_large(bytes_max)),
            timestamps: None,
        },
        Some(Ok(answer)) => answer,
        Some(Err(why)) => {
            if let Some(call) = call.filter(|_| !over) {
                let update = JobUpdate::Refused(to_job::bad_result(&why));
                thread.calls.job(call, attempt, update);
            }
            return error_response(&why);
        }
    };
    let recorded = !over
        && call.is_some_and(|call| {
            thread
                .calls
                .job(call, attempt, JobUpdate::Answered(Box::new(answer)))
        });
    match (recorded, too_large) {
        (true, false) => Response::no_content(),
        (true, true) => error_response(&HttpError::BodyTooLarge { bytes_max }),
        (false, _) => error_response(&HttpError::Stale),
    }
}
