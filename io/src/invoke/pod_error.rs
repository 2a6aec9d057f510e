//! Reads how a function describes its failure in an answer other than 2xx, or in the result of a Job. The
//! description has a code and a message, in any of several JSON forms. This module decides no retry. `to_pod`
//! and `to_job` call it.

use std::sync::Arc;

use nanofaas_core::outcome::{ExecutionError, HandlerError, Stage};
use nanofaas_core::time::Nanos;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The longest message, in bytes; a longer text is cut.
const MESSAGE_MAX: usize = 1024;
const CODE_MAX: usize = 64;

/// Returns the failure that `body` describes. `unsaid` makes the message if the body has none.
pub(crate) fn read(body: &[u8], unsaid: impl FnOnce() -> String) -> ExecutionError {
    let (code, message) = parse(body);
    let message = message.unwrap_or_else(unsaid).into();
    match code.as_deref() {
        // The worker that had the call has ended; its runtime goes on.
        Some("POD_LOST") => ExecutionError::PodLost(message),
        // The runtime refused the handler's output and did not send it.
        Some("BAD_OUTPUT") => ExecutionError::BadOutput(message),
        Some("OUTPUT_TOO_LARGE") => ExecutionError::OutputTooLarge(message),
        code => ExecutionError::Handler(Arc::new(HandlerError {
            code: code.unwrap_or("HANDLER_ERROR").into(),
            message,
            retry_after: None,
        })),
    }
}

/// Returns the call's own timeout in place of `failure`, if `failure` has the code TIMEOUT and at most
/// `early` is left until the deadline. A pod that stops a call at the deadline sends this code, perhaps a
/// little early. If more time is left, the function itself chose the code, and `failure` is returned
/// unchanged.
pub(crate) fn at_deadline(failure: ExecutionError, left: Nanos, early: Nanos) -> ExecutionError {
    match failure {
        ExecutionError::Handler(reported) if &*reported.code == "TIMEOUT" && left <= early => {
            ExecutionError::Timeout {
                stage: Stage::Running,
                limit: None,
            }
        }
        failure => failure,
    }
}

/// The members of an object that may describe the failure.
#[derive(Deserialize)]
struct ReportedError<'a> {
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    /// A text, or an object with a code and a message of its own.
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
}

impl<'a> ReportedError<'a> {
    /// Reads an object; none for any other value, and for an object that repeats a member.
    fn of(json: &'a str) -> Option<Self> {
        // Only an object is read, because serde would also accept an array whose elements are the members in
        // their order.
        let is_object = json.starts_with('{');
        is_object.then(|| serde_json::from_str(json).ok()).flatten()
    }
}

fn parse(body: &[u8]) -> (Option<String>, Option<String>) {
    let Ok(json) = serde_json::from_slice::<&RawValue>(body) else {
        return (None, plain_text(body));
    };
    let Some(reported) = ReportedError::of(json.get()) else {
        return (None, text_of(json));
    };
    let inner = reported
        .error
        .and_then(|error| ReportedError::of(error.get()));
    let inner = inner.as_ref();
    let codes = [reported.code, inner.and_then(|inner| inner.code)];
    let code = codes.into_iter().flatten().find_map(code_of);
    let messages = [
        reported.message,
        inner.and_then(|inner| inner.message),
        reported.error,
        reported.detail,
    ];
    let message = messages.into_iter().flatten().find_map(text_of);
    // If no member has a message, the whole JSON is the message, unless the JSON has a code.
    let message = message.or_else(|| text_of(json).filter(|_| code.is_none()));
    (code, message)
}

/// Returns the code, if it is a short text without control characters.
fn code_of(json: &RawValue) -> Option<String> {
    let code: String = serde_json::from_str(json.get()).ok()?;
    let is_short = !code.trim().is_empty() && code.len() <= CODE_MAX;
    (is_short && !code.chars().any(char::is_control)).then_some(code)
}

/// Returns the content of a string, or any other value as it is written; none for an empty value.
fn text_of(json: &RawValue) -> Option<String> {
    let json = json.get();
    match serde_json::from_str::<String>(json) {
        Ok(text) => plain_text(text.as_bytes()),
        Err(_) if matches!(json, "null" | "{}" | "[]") => None,
        Err(_) => plain_text(json.as_bytes()),
    }
}

/// Returns the text without the white space around it. A text that is too long is cut.
fn plain_text(text: &[u8]) -> Option<String> {
    let text = text.trim_ascii();
    // The head has four bytes more than the limit, so that a character that crosses the limit is complete.
    let head = &text[..text.len().min(MESSAGE_MAX + 4)];
    let mut text = String::from_utf8_lossy(head).into_owned();
    if text.len() > MESSAGE_MAX {
        let end = (0..=MESSAGE_MAX)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the code and the message.
    fn reported(body: &str) -> (String, String) {
        let failure = read(body.as_bytes(), || "unsaid".to_owned());
        (failure.code().to_owned(), failure.message().to_string())
    }

    #[test]
    fn every_shape_is_a_message() {
        for (body, code, message) in [
            (r#"{"error":"flat"}"#, "HANDLER_ERROR", "flat"),
            (r#"{"code":"A_1","message":"m"}"#, "A_1", "m"),
            (r#"{"error":{"code":"A","message":"m"}}"#, "A", "m"),
            (
                r#"{"error":{"code":7,"message":"m"}}"#,
                "HANDLER_ERROR",
                "m",
            ),
            (r#"{"code":500,"message":"m"}"#, "HANDLER_ERROR", "m"),
            (
                r#"{"code":"order.empty","message":"m"}"#,
                "order.empty",
                "m",
            ),
            (r#"{"code":"My Code","message":"m"}"#, "My Code", "m"),
            (r#"{"code":"a\nb","message":"m"}"#, "HANDLER_ERROR", "m"),
            (r#"{"code":" ","message":"m"}"#, "HANDLER_ERROR", "m"),
            (r#"{"code":"A","error":"e"}"#, "A", "e"),
            (r#"{"error":"E","message":"m"}"#, "HANDLER_ERROR", "m"),
            (r#"{"message":null,"error":"e"}"#, "HANDLER_ERROR", "e"),
            (r#"{"detail":"d"}"#, "HANDLER_ERROR", "d"),
            (
                r#"{"detail":[{"loc":["a", 1],"msg":"m"}]}"#,
                "HANDLER_ERROR",
                r#"[{"loc":["a", 1],"msg":"m"}]"#,
            ),
            (
                r#"{"title":"t","status":4}"#,
                "HANDLER_ERROR",
                r#"{"title":"t","status":4}"#,
            ),
            (r#"{"error":{"why":1}}"#, "HANDLER_ERROR", r#"{"why":1}"#),
            (r#"{"code":"A"}"#, "A", "unsaid"),
            (r#""text""#, "HANDLER_ERROR", "text"),
            (" [1, 2] \n", "HANDLER_ERROR", "[1, 2]"),
            (r#"["A","m"]"#, "HANDLER_ERROR", r#"["A","m"]"#),
            ("7", "HANDLER_ERROR", "7"),
            ("plain words\r\n", "HANDLER_ERROR", "plain words"),
            (r#"{"code":"#, "HANDLER_ERROR", r#"{"code":"#),
            (
                r#"{"code":"A","code":"B"}"#,
                "HANDLER_ERROR",
                r#"{"code":"A","code":"B"}"#,
            ),
            ("", "HANDLER_ERROR", "unsaid"),
            (" \n", "HANDLER_ERROR", "unsaid"),
            ("null", "HANDLER_ERROR", "unsaid"),
            ("{}", "HANDLER_ERROR", "unsaid"),
            (r#"{"error":""}"#, "HANDLER_ERROR", r#"{"error":""}"#),
        ] {
            assert_eq!(
                reported(body),
                (code.to_owned(), message.to_owned()),
                "{body}"
            );
        }
    }

    #[test]
    fn platform_codes_keep_their_meaning_from_a_pod() {
        let read = |body: &str| read(body.as_bytes(), String::new);
        let lost = read(r#"{"code":"POD_LOST","message":"exited with status 3"}"#);
        assert_eq!(lost, ExecutionError::PodLost("exited with status 3".into()));
        let bad = read(r#"{"code":"BAD_OUTPUT","message":"no JSON"}"#);
        assert_eq!(bad, ExecutionError::BadOutput("no JSON".into()));
        let large = read(r#"{"code":"OUTPUT_TOO_LARGE","message":"7 MiB"}"#);
        assert_eq!(large, ExecutionError::OutputTooLarge("7 MiB".into()));
    }

    #[test]
    fn a_timeout_is_the_calls_after_its_deadline() {
        let ms = Nanos::from_ms;
        let reported = || {
            read(
                br#"{"code":"TIMEOUT","message":"the database"}"#,
                String::new,
            )
        };
        assert!(matches!(
            at_deadline(reported(), ms(5), ms(5)),
            ExecutionError::Timeout { .. }
        ));
        let own = at_deadline(reported(), ms(6), ms(5));
        assert_eq!((own.code(), &*own.message()), ("TIMEOUT", "the database"));
        let other = at_deadline(read(b"words", String::new), ms(0), ms(5));
        assert_eq!(other.code(), "HANDLER_ERROR");
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let long = "é".repeat(4 * MESSAGE_MAX);
        for body in [
            long.clone(),
            format!("x{long}"),
            format!("\"{long}\""),
            format!("{{\"detail\":[\"{long}\"]}}"),
        ] {
            let (_, message) = reported(&body);
            assert!(message.ends_with("é…"), "{message}");
            assert!(message.len() <= MESSAGE_MAX + '…'.len_utf8());
            assert!(message.len() >= MESSAGE_MAX);
        }
    }

    #[test]
    fn binary_and_deep_json_bodies_do_no_harm() {
        let text = |body: &[u8]| read(body, String::new).message().to_string();
        assert_eq!(text(b"\xff\x00a"), "\u{fffd}\0a");
        assert_eq!(text(b"\"\\ud800\""), "\"\\ud800\"");
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(text(deep.as_bytes()).starts_with("[[["));
        let open = "{\"error\":".repeat(100_000);
        assert!(text(open.as_bytes()).starts_with("{\"error\""));
    }
}
