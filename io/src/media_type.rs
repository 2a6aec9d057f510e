//! Content types that differ in their spelling alone (RFC 9110 §8.3.1) have one form here. It reads no
//! body. Called by `idempotency`: the same body in another spelling is the same body.

use crate::field::{MediaType, media_type, split_unquoted, trim};

/// Type, subtype and names of parameters in lower case, values without quotes, parameters by name; no
/// charset where the platform reads the body by itself, since it reads UTF-8 only.
pub(crate) fn normal_form(content_type: &[u8]) -> Vec<u8> {
    let is_read = matches!(
        media_type(Some(content_type)),
        MediaType::Json | MediaType::Text
    );
    let (essence, mut rest) = split_unquoted(content_type, b';');
    let mut parameters = Vec::new();
    while !rest.is_empty() {
        let (parameter, after) = split_unquoted(rest, b';');
        rest = after;
        let (name, value) = parameter_of(trim(parameter));
        if !(name.is_empty() && value.is_none() || is_read && name == b"charset") {
            parameters.push((name, value));
        }
    }
    // By name alone: which of two values comes first may mean something.
    parameters.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut form = trim(essence).to_ascii_lowercase();
    for (name, value) in parameters {
        // No header has a NUL, so the parts cannot be taken for others.
        form.push(0);
        form.extend(name);
        if let Some(value) = value {
            form.push(0);
            form.extend(value);
        }
    }
    form
}

/// Its name, and its value where it has one.
fn parameter_of(parameter: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let (name, value) = split_unquoted(parameter, b'=');
    let has_value = name.len() < parameter.len();
    let name = name.to_ascii_lowercase();
    let mut value = unquoted(value);
    if name == b"charset" {
        value.make_ascii_lowercase();
    }
    (name, has_value.then_some(value))
}

/// A quoted string's content with its escapes undone; anything else as it is.
fn unquoted(value: &[u8]) -> Vec<u8> {
    let [b'"', inner @ .., b'"'] = value else {
        return value.to_vec();
    };
    let (mut content, mut bytes) = (Vec::with_capacity(inner.len()), inner.iter());
    while let Some(&byte) = bytes.next() {
        let escaped = (byte == b'\\').then(|| bytes.next()).flatten();
        content.push(*escaped.unwrap_or(&byte));
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_type_have_one_form() {
        for same in [
            &[
                "application/json",
                "Application/JSON;",
                "application/json ; charset=\"UTF-8\"",
            ][..],
            &[
                "application/json;v=1",
                "application/json; V=\"1\"; charset=utf8",
            ],
            &["text/plain", " text/plain;charset=us-ascii ", "TEXT/plain"],
            &[
                "text/plain;charset=latin1",
                "text/plain; CHARSET=\"Latin1\"",
            ],
            &[
                "a/b;c=d;e=\"f;g\"",
                "A/b; E=\"f\\;g\";; C=d",
                "a/b;\tc=\"\\d\"; e=\"f;g\"",
            ],
            &["a/b;c", "a/b; C ;"],
            &["", " ", ";"],
        ] {
            for other in same {
                let (one, other) = (
                    normal_form(same[0].as_bytes()),
                    normal_form(other.as_bytes()),
                );
                assert_eq!(one, other, "{same:?}");
            }
        }
    }

    #[test]
    fn different_types_have_different_forms() {
        let all = [
            "",
            "a",
            "a/b",
            "a/c",
            "a/b;c",
            "a/b;c=",
            "a/b;c=d",
            "a/b;c=D",
            "a/b;d=c",
            "a/b;c=d;c=e",
            "a/b;c=e;c=d",
            "a/b;c=\"d;c=e\"",
            "a/b;c=\"d",
            "a/b;c=d, a/b",
            "a/b;charset=utf-8",
            "application/json",
            "application/json;v=1",
            "application/json;charset=utf-16",
            "application/problem+json",
            "text/plain",
            "text/plain;charset=latin1",
            "a/b;c=\"\\\"\"",
        ];
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                let (first, second) = (normal_form(one.as_bytes()), normal_form(other.as_bytes()));
                assert_ne!(first, second, "{one} {other}");
            }
        }
    }
}
