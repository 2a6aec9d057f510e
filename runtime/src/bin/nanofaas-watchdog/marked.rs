//! Outputs with their own status, in the form of the original nanofaas:
//! `{"__nanofaas_envelope__":true,"statusCode":404,"output":…}`. `stdio` calls this module for
//! programs that get the whole envelope.

use nanofaas_runtime::{Error, Output};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

const MESSAGE_BYTES_MAX: usize = 1024;

#[derive(Deserialize)]
struct Mark {
    #[serde(rename = "__nanofaas_envelope__", default)]
    is_marked: Value,
}

/// An output that has the mark. The original's fields `headers` and `encoding` are ignored, because
/// the platform's answer cannot carry them.
#[derive(Deserialize)]
struct Marked<'a> {
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(rename = "statusCode", default)]
    status: Option<u16>,
}

/// Returns the inner output of a marked output, or the error for its status. An output without the
/// mark stays as it is.
pub(crate) fn unwrap(output: Output) -> Result<Output, Error> {
    let is_marked = serde_json::from_slice(output.bytes())
        .is_ok_and(|mark: Mark| mark.is_marked == Value::Bool(true));
    if !is_marked {
        return Ok(output);
    }
    let marked: Marked<'_> = serde_json::from_slice(output.bytes()).map_err(|error| {
        Error::bad_output(format!("an output with __nanofaas_envelope__: {error}"))
    })?;
    let inner = marked.output.map_or("null", RawValue::get);
    match marked.status.unwrap_or(200) {
        200..300 => Output::json_bytes(inner.as_bytes().to_vec()),
        status @ 300..600 => {
            let said = message(inner);
            Err(Error::new(format!(
                "the function answered {status}: {said}"
            )))
        }
        status => {
            let message = format!("statusCode must be 200 to 599, is {status}");
            Err(Error::bad_output(message))
        }
    }
}

/// Returns the beginning of the text of `error` or `message`. An output without these fields is the
/// message itself.
fn message(output: &str) -> String {
    let value: Value = serde_json::from_str(output).unwrap_or_default();
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let said = text("error").or_else(|| text("message"));
    let mut said = said.unwrap_or_else(|| output.to_owned());
    let mut cut = said.len().min(MESSAGE_BYTES_MAX);
    while !said.is_char_boundary(cut) {
        cut -= 1;
    }
    said.truncate(cut);
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unwrapped(text: &str) -> Result<String, (String, String)> {
        let output = Output::json_bytes(text.as_bytes().to_vec()).expect("JSON");
        unwrap(output)
            .map(|output| String::from_utf8(output.bytes().to_vec()).expect("UTF-8"))
            .map_err(|error| (error.code().to_owned(), error.message().to_owned()))
    }

    #[test]
    fn only_the_mark_makes_a_status() {
        for plain in [
            "1",
            "[1]",
            r#"{"statusCode":404}"#,
            r#"{"__nanofaas_envelope__":false,"statusCode":404}"#,
            r#"{"__nanofaas_envelope__":"true","output":1}"#,
        ] {
            assert_eq!(unwrapped(plain).as_deref(), Ok(plain));
        }
    }

    #[test]
    fn a_2xx_is_its_output_byte_for_byte() {
        let text = r#"{"__nanofaas_envelope__":true,"output":{"a": 1.50},"statusCode":201}"#;
        assert_eq!(unwrapped(text).as_deref(), Ok(r#"{"a": 1.50}"#));
        let none = r#"{"__nanofaas_envelope__":true}"#;
        assert_eq!(unwrapped(none).as_deref(), Ok("null"));
    }

    #[test]
    fn another_status_is_an_error() {
        let text =
            r#"{"__nanofaas_envelope__":true,"output":{"error":"no such"},"statusCode":404}"#;
        let (code, message) = unwrapped(text).expect_err("404");
        assert_eq!(
            (code.as_str(), message.as_str()),
            ("HANDLER_ERROR", "the function answered 404: no such")
        );
        for wrong in ["999", "\"404\"", "-1"] {
            let text = format!(r#"{{"__nanofaas_envelope__":true,"statusCode":{wrong}}}"#);
            assert_eq!(unwrapped(&text).expect_err("no status").0, "BAD_OUTPUT");
        }
    }
}
