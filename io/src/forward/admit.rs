//! Admits a request of `/fn/` by its head alone: checks the rate, the function, the origin and the path, and
//! charges the memory. `serve` then puts the call into the queue, or refuses it.

use std::rc::Rc;

use nanofaas_core::call::Deadline;
use nanofaas_core::limits::CALL_OVERHEAD_BYTES;
use nanofaas_core::metrics::RejectReason;
use nanofaas_core::outcome::TimeLimit;
use nanofaas_core::spec::{ExecutionMode, SpecFields};
use nanofaas_core::time::{Nanos, Uptime};
use nanofaas_http1::forward::value_of;
use nanofaas_http1::framing::Framing;
use nanofaas_http1::header_value::parse_timeout_ms;
use nanofaas_http1::request::{FetchSite, Method, RequestHead};

use crate::forward::request::ForwardHead;
use crate::forward::serve::AdmittedForward;
use crate::http::error::HttpError;
use crate::invoke::admit::{find, rejected};
use crate::links::Links;
use crate::runtime::buffers::LARGE;

/// `name_len` is the length of the function's name as the path spells it.
pub(crate) fn admit_head(
    thread: &Rc<Links>,
    name: &str,
    name_len: usize,
    head: &RequestHead,
    bytes: &[u8],
    arrived_at: Uptime,
) -> Result<AdmittedForward, HttpError> {
    let entry = find(thread, name, arrived_at)?;
    let spec = &entry.function.spec;
    check_mode(spec)?;
    check_origin(spec, head, &bytes[..head.len])?;
    let forward = ForwardHead::read(head, bytes, name_len)?;
    forward
        .check(spec, bytes)
        .map_err(|why| HttpError::BadRequest(why.to_owned()))?;
    let limit = match head.timeout_ms {
        Some(span) => TimeLimit::Client(parse_timeout_ms(span.of(bytes))?),
        None => TimeLimit::Function(spec.timeout_ms),
    };
    // What the client sends of a body before the call is granted is held, so a buffer for it is charged.
    let body = match head.framing {
        Framing::None | Framing::Length(0) => 0,
        Framing::Length(_) | Framing::Chunked => LARGE as u64,
    };
    let due = CALL_OVERHEAD_BYTES as u64 + body;
    let charge = thread.account.charge(due);
    let charge =
        charge.ok_or_else(|| rejected(thread, &entry, RejectReason::Memory, Nanos::ZERO))?;
    Ok(AdmittedForward {
        _held: charge,
        head: forward,
        arrived_at,
        deadline: Deadline::after(arrived_at, limit),
        entry,
    })
}

fn check_mode(spec: &SpecFields) -> Result<(), HttpError> {
    match spec.execution_mode {
        mode @ (ExecutionMode::Job | ExecutionMode::Local) => Err(HttpError::NeverHttp {
            name: spec.name.to_string(),
            mode,
        }),
        ExecutionMode::Warm | ExecutionMode::Pool if spec.http => Ok(()),
        ExecutionMode::Warm | ExecutionMode::Pool => Err(HttpError::NotHttp(
            "the function is not served at /fn/: set http to true in its spec, or call :invoke",
        )),
    }
}

/// Refuses a request of a page of another origin, unless the request only reads or the function allows the
/// origin. A page may send requests that its user did not ask for, and this port has no login.
fn check_origin(spec: &SpecFields, head: &RequestHead, bytes: &[u8]) -> Result<(), HttpError> {
    let origin = head.origin.map(|origin| origin.of(bytes));
    let is_foreign = match (head.fetch_site, origin) {
        (FetchSite::User | FetchSite::SameOrigin, _) | (FetchSite::Unknown, None) => false,
        (FetchSite::Foreign, _) => true,
        (FetchSite::Unknown, Some(origin)) => {
            let host = head.host.map(|host| host.of(bytes));
            let named = [&b"http://"[..], b"https://"]
                .iter()
                .find_map(|scheme| origin.strip_prefix(*scheme));
            !named
                .zip(host)
                .is_some_and(|(named, host)| named.eq_ignore_ascii_case(host))
        }
    };
    let only_reads = matches!(head.method, Method::Get | Method::Head | Method::Options)
        && value_of(bytes, b"upgrade").is_none();
    let is_allowed = || {
        let origins = &spec.allowed_origins;
        origins.iter().any(|allowed| {
            allowed == "*" || origin.is_some_and(|origin| origin == allowed.as_bytes())
        })
    };
    if is_foreign && !only_reads && !is_allowed() {
        return Err(HttpError::CrossOrigin);
    }
    Ok(())
}
