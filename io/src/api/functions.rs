//! Answers the requests that register, replace, list, show, remove or scale functions or ask for their cold
//! starts, and the ready reports of pods. The bridge owns the registry; this module sends requests to the
//! bridge, and shows this thread's copy of the function table.

use std::io::Write;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use nanofaas_core::message::{BridgeError, BridgeRequest, ColdStart, Reply};
use nanofaas_core::spec::{FunctionDraft, Json};

use crate::api::execution_json::write_phases;
use crate::api::warnings;
use crate::http::error::HttpError;
use crate::http::json::write_string;
use crate::http::response::{Response, error_response};
use crate::invoke::to_job::RuntimeTimestamps;
use crate::links::Links;
use crate::links::pending_requests::NoAnswer;
use crate::runtime::phase::ShutdownPhase;

/// Asks the bridge; turns a refusal into the matching error.
async fn ask(thread: &Links, name: &str, request: BridgeRequest) -> Result<Reply, HttpError> {
    match thread.ask(request).await {
        Ok(Reply::Refused(refused)) => Err(match refused {
            BridgeError::NotFound => HttpError::NoSuchFunction(name.to_owned()),
            BridgeError::Exists => HttpError::FunctionExists(name.to_owned()),
            BridgeError::Invalid(faults) => {
                HttpError::Invalid(faults.iter().map(ToString::to_string).collect())
            }
            BridgeError::Unavailable(why) => HttpError::RegistryUnavailable(why),
            BridgeError::Forbidden => HttpError::Forbidden("the token is not that of this pod"),
            BridgeError::NotWarm(mode) => HttpError::NotWarm {
                name: name.to_owned(),
                mode,
            },
            BridgeError::TooMany => {
                HttpError::RegistryUnavailable("the table of functions is full".to_owned())
            }
        }),
        Ok(reply) => Ok(reply),
        Err(NoAnswer::Full) => Err(HttpError::Busy),
        Err(NoAnswer::Late) => {
            let why = "the registry did not answer in time; the change may still happen";
            Err(HttpError::RegistryUnavailable(why.to_owned()))
        }
    }
}

fn finish(response: Result<Response, HttpError>) -> Response {
    response.unwrap_or_else(|error| error_response(&error))
}

fn shown(function: &nanofaas_core::function::Function) -> Vec<u8> {
    serde_json::to_vec(&function.spec).expect("a spec is JSON")
}

fn read_draft(mut body: Vec<u8>) -> Result<FunctionDraft, HttpError> {
    crate::http::json::check(&body, nanofaas_core::limits::JSON_DEPTH as u32)?;
    let value: Json = simd_json::from_slice(&mut body)
        .map_err(|error| HttpError::BadRequest(format!("the body cannot be taken: {error}")))?;
    FunctionDraft::from_json(value).map_err(|fault| HttpError::Invalid(vec![fault.to_string()]))
}

/// Answers `POST /v1/functions`, and `PUT /v1/functions/{name}` if there is a name.
pub(crate) async fn register(thread: &Rc<Links>, name: Option<&str>, body: Vec<u8>) -> Response {
    let change = async {
        if thread.phase.get() != ShutdownPhase::Serving {
            return Err(HttpError::ShuttingDown);
        }
        let mut draft = read_draft(body)?;
        if let Some(name) = name {
            draft.name_by_path(name);
        }
        let named = draft.name().unwrap_or_default().to_owned();
        let warnings = warnings::of(&draft);
        let replace = name.is_some();
        let request = BridgeRequest::Register {
            draft: Box::new(draft),
            replace,
        };
        let reply = ask(thread, &named, request).await?;
        let Reply::Registered { function, created } = reply else {
            return Err(HttpError::Busy);
        };
        let body = shown(&function);
        let response = if created {
            let location = format!("/v1/functions/{}", function.name());
            Response::created(body).with("Location", location.as_bytes())
        } else {
            Response::json(body)
        };
        let with = |response: Response, text: String| response.with("Warning", text.as_bytes());
        Ok(warnings.into_iter().fold(response, with))
    };
    finish(change.await)
}

/// Answers `DELETE /v1/functions/{name}`.
pub(crate) async fn remove(thread: &Rc<Links>, name: &str) -> Response {
    if thread.phase.get() != ShutdownPhase::Serving {
        return error_response(&HttpError::ShuttingDown);
    }
    let reply = ask(thread, name, BridgeRequest::Remove { name: name.into() }).await;
    let reply = reply.map_err(|error| match error {
        HttpError::NoSuchFunction(name) => HttpError::NothingToRemove(name),
        other => other,
    });
    finish(reply.map(|_| Response::no_content()))
}

#[derive(serde::Deserialize)]
struct Replicas {
    replicas: i64,
}

/// Answers `PUT /v1/functions/{name}/replicas`.
pub(crate) async fn scale(thread: &Rc<Links>, name: &str, mut body: Vec<u8>) -> Response {
    let change = async {
        if thread.phase.get() != ShutdownPhase::Serving {
            return Err(HttpError::ShuttingDown);
        }
        crate::http::json::check(&body, nanofaas_core::limits::JSON_DEPTH as u32)?;
        let Replicas { replicas } = simd_json::from_slice(&mut body).map_err(|_| {
            HttpError::Invalid(vec!["replicas: must be there, a whole number".to_owned()])
        })?;
        let replicas = u32::try_from(replicas).map_err(|_| {
            HttpError::Invalid(vec![format!("replicas: must be 0 or more, is {replicas}")])
        })?;
        let name: Arc<str> = name.into();
        let reply = ask(
            thread,
            &name,
            BridgeRequest::Scale {
                name: name.clone(),
                replicas,
            },
        )
        .await?;
        let Reply::Scaled { function, replicas } = reply else {
            return Err(HttpError::Busy);
        };
        let mut body = b"{\"function\":".to_vec();
        write_string(&mut body, &function);
        let _ = write!(body, ",\"replicas\":{replicas}}}");
        Ok(Response::json(body))
    };
    finish(change.await)
}

/// Answers `GET /v1/functions`.
pub(crate) fn list(thread: &Links) -> Response {
    if let Some(unknown) = thread.not_begun() {
        return error_response(&unknown);
    }
    let all = thread.functions.borrow().sorted();
    let mut body = b"[".to_vec();
    for (at, entry) in all.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&shown(&entry.function));
        // The thread beats for each function, because writing a long list may take longer than the watchdog
        // waits for a beat.
        thread.ledger().beat.beat(thread.now());
    }
    body.push(b']');
    Response::json(body)
}

/// Answers `GET /v1/functions/{name}`.
pub(crate) fn show(thread: &Links, name: &str) -> Response {
    match thread.function(name) {
        Some(entry) => Response::json(shown(&entry.function)),
        None => error_response(&thread.no_such(name)),
    }
}

/// Answers `GET /v1/functions/{name}/cold-starts`.
pub(crate) async fn cold_starts(thread: &Rc<Links>, name: &str) -> Response {
    let reply = ask(
        thread,
        name,
        BridgeRequest::ColdStarts { name: name.into() },
    )
    .await;
    finish(reply.and_then(|reply| {
        let Reply::ColdStarts(starts) = reply else {
            return Err(HttpError::Busy);
        };
        let mut body = b"{\"function\":".to_vec();
        write_string(&mut body, name);
        body.extend_from_slice(b",\"coldStarts\":[");
        // The latest start is written first.
        for (at, start) in starts.iter().rev().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            write_cold_start(&mut body, start);
        }
        body.extend_from_slice(b"]}");
        Ok(Response::json(body))
    }))
}

fn write_cold_start(out: &mut Vec<u8>, start: &ColdStart) {
    out.extend_from_slice(b"{\"pod\":");
    write_string(out, &start.pod);
    let wanted_ns = i128::from(start.wanted_at_ms) * 1_000_000;
    let wanted = jiff::Timestamp::from_nanosecond(wanted_ns).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let _ = write!(out, ",\"wantedAt\":\"{wanted:.3}\",\"phases\":");
    write_phases(out, &start.phases);
    out.extend_from_slice(b",\"failure\":");
    match &start.failure {
        Some(why) => write_string(out, why),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
}

/// Answers `POST /v1/internal/{token}/pods/{pod}:ready`.
pub(crate) async fn pod_ready(
    thread: &Rc<Links>,
    token: &[u8],
    pod: &str,
    address: Option<IpAddr>,
    mut body: Vec<u8>,
) -> Response {
    let Ok(token) = std::str::from_utf8(token) else {
        return error_response(&HttpError::Forbidden("the token is not that of this pod"));
    };
    // The JSON library would also read an array as the fields of the report, so the first byte of the JSON is
    // checked.
    let is_object = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let reported: Result<RuntimeTimestamps, _> = simd_json::from_slice(&mut body);
    let Some(reported) = reported.ok().filter(|_| is_object) else {
        let why = "the body must be {startedAt, loadedAt, readyAt}, in milliseconds since 1970";
        return error_response(&HttpError::BadRequest(why.to_owned()));
    };
    let timestamps = reported.into();
    let request = BridgeRequest::PodReady {
        token: token.into(),
        pod: pod.into(),
        address,
        timestamps,
    };
    let reply = ask(thread, pod, request)
        .await
        .map_err(|error| match error {
            // An unknown function gets the same answer as a wrong token, so that the answer does not reveal
            // which pods exist.
            HttpError::NoSuchFunction(_) => {
                HttpError::Forbidden("the token is not that of this pod")
            }
            other => other,
        });
    finish(reply.map(|_| Response::no_content()))
}
