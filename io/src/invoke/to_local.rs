//! LOCAL functions: an echo inside the control plane, which serves to measure the platform alone. It talks to
//! no pod. `drive` runs it.

use nanofaas_core::ticket::PodVerdict;
use nanofaas_core::time::Nanos;

use crate::http::output::Output;
use crate::http::response::HEAD_ROOM;
use crate::invoke::attempt::{AttemptError, ChargedOutput, FinishedAttempt};
use crate::invoke::call::ServedCall;
use crate::runtime::buffers::Buffers;

/// Returns the input: the unchanged bytes of `input`, or the raw body with its content type and encoding.
pub(crate) async fn echo(call: &ServedCall<'_>) -> FinishedAttempt {
    let request = call.request;
    let labels = [request.content_type(), request.content_encoding()];
    let labels: usize = labels.into_iter().flatten().map(<[u8]>::len).sum();
    let bytes = request.body().len() + labels;
    let room = Buffers::size_for(bytes + HEAD_ROOM) as u64;
    let charge = match call.thread.account.charge_answer(room) {
        Some(charge) => charge,
        None => {
            let mut wait = call.thread.account.wait(room);
            std::future::poll_fn(|cx| wait.poll(cx)).await
        }
    };
    let now = call.thread.recent();
    let result = if let Some(input) = request.input() {
        let mut buffer = call.thread.buffers.take(input.len());
        buffer.extend_from_slice(input);
        let body = 0..buffer.len();
        let output = Output::json(buffer, body);
        Ok(ChargedOutput { output, charge })
    } else {
        let content_type = request
            .content_type()
            .unwrap_or(b"application/octet-stream");
        let content_encoding = request.content_encoding();
        let body = request.body();
        let length = content_type.len() + content_encoding.map_or(0, <[u8]>::len) + body.len();
        let buffer = call.thread.buffers.take(length);
        Output::labelled(buffer, Some(content_type), content_encoding, body)
            .map(|output| ChargedOutput { output, charge })
            .map_err(AttemptError::last)
    };
    FinishedAttempt {
        result,
        verdict: PodVerdict::Healthy,
        sent_at: Some(now),
        answered_at: Some(call.thread.now()),
        cold_start: false,
        init_ms: None,
        start: Nanos::ZERO,
    }
}
