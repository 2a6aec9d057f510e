//! Determines from content types which bodies the platform reads itself, and which types differ only in
//! spelling (RFC 9110 §8.3.1). This module reads no body.

use crate::header_value::{split_unquoted, trim};

/// The kinds of bodies that the platform treats differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json` or `application/…+json`, in UTF-8.
    Json,
    /// `text/plain`, in UTF-8.
    Text,
    /// Any other type, and a type of the two kinds above in another charset.
    Other,
    /// No type was sent.
    None,
}

/// Returns the kind of a `Content-Type`. An empty value counts as none.
// This function is inlined, so that the spelling that nearly all clients use costs no call of a function in
// another crate.
#[inline]
pub fn media_type(value: Option<&[u8]>) -> MediaType {
    if value == Some(b"application/json") {
        MediaType::Json
    } else {
        other_spelling(value)
    }
}

fn other_spelling(value: Option<&[u8]>) -> MediaType {
    let Some(value) = value.map(trim).filter(|value| !value.is_empty()) else {
        return MediaType::None;
    };
    let mut parts = value.split(|&byte| byte == b';').map(trim);
    let essence = parts.next().unwrap_or_default();
    let kind = if is_json(essence) {
        MediaType::Json
    } else if essence.eq_ignore_ascii_case(b"text/plain") {
        MediaType::Text
    } else {
        return MediaType::Other;
    };
    if parts.all(is_utf8_or_no_charset) {
        kind
    } else {
        MediaType::Other
    }
}

/// Returns whether the type is `application/json` itself, and not a more specific type that is JSON, too.
pub fn is_plain_json(value: Option<&[u8]>) -> bool {
    let (essence, _) = split_unquoted(value.unwrap_or_default(), b';');
    media_type(value) == MediaType::Json && trim(essence).eq_ignore_ascii_case(b"application/json")
}

/// Returns whether a type is `application/json`, or a type of `application/` with the suffix `+json` (RFC
/// 6839).
fn is_json(essence: &[u8]) -> bool {
    const TREE: &[u8] = b"application/";
    const SUFFIX: &[u8] = b"+json";
    let Some((tree, subtype)) = essence.split_at_checked(TREE.len()) else {
        return false;
    };
    let is_suffixed = || {
        let name = subtype.len().checked_sub(SUFFIX.len()).filter(|&at| at > 0);
        name.is_some_and(|at| subtype[at..].eq_ignore_ascii_case(SUFFIX))
    };
    tree.eq_ignore_ascii_case(TREE) && (subtype.eq_ignore_ascii_case(b"json") || is_suffixed())
}

fn is_utf8_or_no_charset(parameter: &[u8]) -> bool {
    let Some((name, charset)) = parameter.split_at_checked(8) else {
        return true;
    };
    if !name.eq_ignore_ascii_case(b"charset=") {
        return true;
    }
    let charset = charset
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""))
        .unwrap_or(charset);
    // US-ASCII is a subset of UTF-8.
    [&b"utf-8"[..], b"utf8", b"us-ascii"]
        .iter()
        .any(|known| charset.eq_ignore_ascii_case(known))
}

/// Returns a form that is the same for all spellings of one type: type, subtype, parameter names
/// and the charset in lower case, values without quotes, parameters sorted by name. The form of a
/// type that the platform reads itself has no charset, because the platform reads UTF-8 only.
pub fn normal_form(content_type: &[u8]) -> Vec<u8> {
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
    // The sort is stable and compares only names, so two values of one name keep their order, which may have
    // a meaning.
    parameters.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut form = trim(essence).to_ascii_lowercase();
    for (name, value) in parameters {
        // A header cannot hold a NUL, so the separator cannot be taken for a part of a name or
        // value.
        form.push(0);
        form.extend(name);
        if let Some(value) = value {
            form.push(0);
            form.extend(value);
        }
    }
    form
}

/// Returns a parameter's name, and its value if it has one.
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

/// Returns the content of a quoted string, with its escapes decoded. Returns any other value
/// unchanged.
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
    fn media_types_differ_by_essence_and_charset() {
        for (value, expected) in [
            ("application/json", MediaType::Json),
            ("Application/JSON ; charset=UTF-8", MediaType::Json),
            ("application/json;charset=\"utf-8\"", MediaType::Json),
            ("application/json; v=1", MediaType::Json),
            ("application/json; charset=utf-16", MediaType::Other),
            ("application/json, text/plain", MediaType::Other),
            ("application/problem+json", MediaType::Json),
            (
                "Application/Vnd.Api+JSON; ext=\"a\"; charset=utf-8",
                MediaType::Json,
            ),
            ("application/a+json;charset=utf-16", MediaType::Other),
            ("application/+json", MediaType::Other),
            ("application/json+xml", MediaType::Other),
            ("application/jsonl", MediaType::Other),
            ("image/a+json", MediaType::Other),
            ("application/jsonp", MediaType::Other),
            ("text/plain", MediaType::Text),
            ("text/plain; charset=us-ascii", MediaType::Text),
            ("text/plain; charset=iso-8859-1", MediaType::Other),
            ("image/png", MediaType::Other),
            ("nonsense", MediaType::Other),
            ("  ", MediaType::None),
        ] {
            assert_eq!(media_type(Some(value.as_bytes())), expected, "{value}");
        }
        assert_eq!(media_type(None), MediaType::None);
    }

    #[test]
    fn plain_json_is_one_type_in_any_spelling() {
        for (value, expected) in [
            ("application/json", true),
            (" Application/JSON ; charset=utf-8", true),
            ("application/json; charset=utf-16", false),
            ("application/problem+json", false),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(is_plain_json(Some(value.as_bytes())), expected, "{value}");
        }
        assert!(!is_plain_json(None));
    }

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
