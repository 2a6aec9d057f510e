//! The warnings in the answer to a registration: `Warning` headers name the unknown fields. Their code is 299
//! (RFC 7234), as in the answers of Kubernetes' API servers. `functions` sends them.

use nanofaas_core::spec::FunctionDraft;

/// The largest number of `Warning` headers in one answer. It is small, because some HTTP clients accept only
/// a hundred headers.
const WARNINGS_MAX: usize = 16;
/// A field's path in a warning is cut at this length, because a field's name may be as long as a body.
const PATH_LEN_MAX: usize = 128;

/// Returns the values of the headers, one for each unknown field. If there are too many fields, the last
/// value counts those that are left out.
pub(crate) fn of(draft: &FunctionDraft) -> Vec<String> {
    let paths = draft.unknown_paths();
    let named = if paths.len() > WARNINGS_MAX {
        WARNINGS_MAX - 1
    } else {
        paths.len()
    };
    let mut texts: Vec<String> = paths[..named]
        .iter()
        .map(|path| FunctionDraft::ignored(&shown(path)))
        .collect();
    if named < paths.len() {
        let more = paths.len() - named;
        texts.push(format!(
            "{more} more fields are not fields of a function, and are ignored"
        ));
    }
    texts.iter().map(|text| value(text)).collect()
}

/// Returns the path of a JSON field in printable ASCII. Other characters are escaped as in a Rust string, and
/// a long path is cut.
fn shown(path: &str) -> String {
    let mut shown = String::new();
    for c in path.chars() {
        if shown.len() >= PATH_LEN_MAX {
            shown.push_str("...");
            break;
        }
        match c {
            ' '..='~' => shown.push(c),
            other => shown.extend(other.escape_default()),
        }
    }
    shown
}

/// Returns the value of a header: `299 - "text"`.
fn value(text: &str) -> String {
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("299 - \"{quoted}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(fields: &str) -> Vec<String> {
        of(&serde_json::from_str(fields).expect("a draft"))
    }

    #[test]
    fn each_unknown_field_is_named_by_its_path() {
        let bare = warnings(r#"{"name":"f","colour":1,"scalingConfig":{"foo":1,"minReplicas":1}}"#);
        let is_none = "is not a field of a function, and is ignored";
        let expected = ["colour", "scalingConfig.foo"];
        assert_eq!(
            bare,
            expected.map(|path| format!("299 - \"{path} {is_none}\""))
        );
        let object = r#"{"apiVersion":"nanofaas.io/v1","kind":"Function","metadata":{"name":"f"},
            "spec":{"colour":1,"local":{"x":1}},"status":{},"more":1}"#;
        let expected = ["spec.colour", "spec.local.x", "more"];
        let expected = expected.map(|path| format!("299 - \"{path} {is_none}\""));
        assert_eq!(warnings(object), expected);
        assert_eq!(
            warnings(r#"{"name":"f","effectiveExecutionMode":"JOB"}"#),
            [""; 0]
        );
    }

    #[test]
    fn a_name_cannot_break_out_of_its_header() {
        let found = warnings(r#"{"a\"b\\c\r\nX: y":1,"ä":2}"#);
        assert_eq!(
            found[0],
            "299 - \"a\\\"b\\\\c\\\\r\\\\nX: y is not a field of a function, and is ignored\""
        );
        assert!(
            found[1].starts_with("299 - \"\\\\u{e4} is not"),
            "{found:?}"
        );
        assert!(
            found
                .iter()
                .all(|value| value.bytes().all(|byte| matches!(byte, b' '..=b'~')))
        );
    }

    #[test]
    fn warnings_are_bounded() {
        let many: Vec<String> = (0..40)
            .map(|number| format!("\"x{number:02}\":1"))
            .collect();
        let found = warnings(&format!("{{{}}}", many.join(",")));
        assert_eq!(found.len(), WARNINGS_MAX);
        assert!(found[15].contains("25 more fields"), "{found:?}");
        let long = warnings(&format!("{{\"{}\":1}}", "ä".repeat(100_000)));
        assert!(long[0].len() < 400, "{}", long[0].len());
    }
}
