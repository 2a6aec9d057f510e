//! LOCAL functions: an echo inside the control plane, for measuring the platform alone.
//! It talks to no pod. `call` runs it.

use nanofaas_core::retry::AttemptFailure;
use nanofaas_core::ticket::PodVerdict;

use crate::call::{Attempt, Call};
use crate::output::Output;

/// Gives the input back: the very bytes of `input`, or the raw body under its own content type.
pub(crate) fn echo(call: &Call<'_>) -> Attempt {
    let request = call.request;
    let now_ns = call.thread.last_ns();
    let result = if let Some(input) = request.input() {
        let mut buffer = call.thread.buffers.take(input.len());
        buffer.extend_from_slice(input);
        let body = 0..buffer.len();
        Ok(Output::json(buffer, body))
    } else {
        let content_type = request
            .content_type()
            .unwrap_or(b"application/octet-stream");
        let body = request.body();
        let mut buffer = call.thread.buffers.take(content_type.len() + body.len());
        buffer.extend_from_slice(content_type);
        buffer.extend_from_slice(body);
        let split = content_type.len();
        let end = buffer.len();
        Output::check(buffer, split..end, 0..split, None)
    };
    let failure = if result.is_ok() {
        AttemptFailure::Handler
    } else {
        AttemptFailure::Final
    };
    Attempt {
        result,
        failure,
        verdict: PodVerdict::Healthy,
        sent_ns: Some(now_ns),
        answered_ns: Some(call.thread.now_ns()),
        cold_start: false,
        init_ms: None,
        start_ns: 0,
    }
}
