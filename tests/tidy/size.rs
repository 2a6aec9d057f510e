//! Files, functions and comment lines have a largest length.

use crate::names::{name_at, signature};
use crate::{files, read};

/// The largest number of lines of a file. A longer file should be split into files with one topic each.
const LINES_MAX: usize = 520;
/// The largest number of lines of a function, so that it fits on a screen.
const FUNCTION_LINES_MAX: usize = 75;
/// The largest number of lines of a test. A test is often a list of cases, which can be read in parts, so
/// this limit is higher than that of a function.
const TEST_LINES_MAX: usize = 100;
const COMMENT_WIDTH_MAX: usize = 120;
/// The functions that are longer, with the reason why they are not split.
const LONG: [(&str, &str); 8] = [
    ("exchange", "the order of one call on a connection to a pod"),
    ("error_response", "an arm for each error: a table"),
    ("answer_into", "the order of one request on a connection"),
    (
        "start",
        "what the parts of the process are made of, in order",
    ),
    (
        "plain_call",
        "the order of one call, which is the warm path",
    ),
    ("answer", "an arm for each way of a chaotic pod: a table"),
    ("only_a_definite_answer_is_final", "a table of cases"),
    ("a_functions_own_error_is_the_message", "a table of cases"),
];

#[test]
fn no_file_is_too_long_for_a_reader() {
    let mut long = Vec::new();
    for extension in ["rs", "py"] {
        for file in files("", extension) {
            let lines = read(&file).lines().count();
            if lines > LINES_MAX {
                long.push(format!("{}: {lines} lines", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "split by noun: {long:#?}");
}

/// Counts the lines of the function that begins at `at`. rustfmt gives its closing brace the indentation of
/// its first line.
fn function_lines(lines: &[&str], at: usize) -> usize {
    let indent = lines[at].len() - lines[at].trim_start().len();
    let end = format!("{}}}", &lines[at][..indent]);
    let rest = lines[at..].iter();
    let found = rest.take(1000).position(|line| *line == end);
    found.map_or(1, |length| length + 1)
}

#[test]
fn a_function_fits_a_screen() {
    let (mut long, mut seen) = (Vec::new(), Vec::new());
    for file in files("", "rs") {
        let text = read(&file);
        let lines: Vec<&str> = text.lines().collect();
        let path = file.to_string_lossy();
        let is_tests = path.starts_with("tests/") || path.contains("/tests");
        for at in 0..lines.len() {
            let Some(signature) = signature(&lines, at) else {
                continue;
            };
            let is_test = is_tests || at > 0 && lines[at - 1].contains("#[test]");
            let most = if is_test {
                TEST_LINES_MAX
            } else {
                FUNCTION_LINES_MAX
            };
            let length = function_lines(&lines, at);
            // A function without a body is skipped, because the lines up to the next closing brace belong to
            // another function.
            if length <= most || signature.ends_with(';') {
                continue;
            }
            let name = name_at(&signature);
            match LONG.iter().position(|(long, _)| *long == name) {
                Some(known) => seen.push(known),
                None => long.push(format!("{path}:{}: {name}, {length} lines", at + 1)),
            }
        }
    }
    assert!(long.is_empty(), "split by verb: {long:#?}");
    for (at, (name, _)) in LONG.iter().enumerate() {
        assert!(seen.contains(&at), "LONG: {name} is short now, remove it");
    }
}

#[test]
fn a_comment_fits_the_width() {
    let mut wide = Vec::new();
    for file in files("", "rs") {
        for (number, line) in read(&file).lines().enumerate() {
            if line.trim_start().starts_with("//") && line.chars().count() > COMMENT_WIDTH_MAX {
                wide.push(format!("{}:{}", file.display(), number + 1));
            }
        }
    }
    assert!(wide.is_empty(), "more than {COMMENT_WIDTH_MAX}: {wide:#?}");
}
