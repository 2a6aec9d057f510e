//! Makes the body of a request: a given text, the content of a file, or generated text of a given size. A
//! body is made one time, before the run starts, and the plan keeps it.

use crate::load::RequestTarget;

#[derive(Debug)]
pub(crate) enum RequestBody {
    /// A body whose length is already in the formatted head.
    Fixed(Vec<u8>),
    /// The text before and after the duration. The length of the duration varies, so the head of each request
    /// gets its own content-length.
    Timed(String, String),
}

/// The placeholder for the duration of a trace's row.
const DURATION: &str = "{duration_ms}";

impl RequestBody {
    /// Returns `None` if the target has no body.
    pub(crate) fn of(target: &RequestTarget) -> Result<Option<Self>, String> {
        let given = usize::from(target.body.is_some())
            + usize::from(target.body_file.is_some())
            + usize::from(target.body_bytes.is_some());
        if given > 1 {
            return Err(format!(
                "{}: give one of body, body file and body size",
                target.url
            ));
        }
        if let Some(text) = &target.body {
            return Ok(Some(match text.split_once(DURATION) {
                Some((before, after)) => Self::Timed(before.to_owned(), after.to_owned()),
                None => Self::Fixed(text.clone().into_bytes()),
            }));
        }
        if let Some(file) = &target.body_file {
            let bytes = std::fs::read(file)
                .map_err(|error| format!("cannot read the body {}: {error}", file.display()))?;
            return Ok(Some(Self::Fixed(bytes)));
        }
        let Some(size) = target.body_bytes else {
            return Ok(None);
        };
        let json = target.headers.iter().all(|(name, value)| {
            !name.eq_ignore_ascii_case("content-type") || value.starts_with("application/json")
        });
        let (before, after) = if json {
            (r#"{"input":""#, r#""}"#)
        } else {
            ("", "")
        };
        let Some(letters) = size.checked_sub(before.len() + after.len()) else {
            return Err(format!(
                "{}: a JSON body takes at least {} bytes",
                target.url,
                before.len() + after.len()
            ));
        };
        let mut bytes = before.as_bytes().to_vec();
        bytes.resize(before.len() + letters, b'x');
        bytes.extend_from_slice(after.as_bytes());
        Ok(Some(Self::Fixed(bytes)))
    }
}
