//! A type's name has one meaning in the whole workspace, so a reader knows which type is meant. A function
//! whose name is a question returns the answer and changes nothing.

use std::collections::BTreeMap;

use crate::{files, read};

/// The names with several meanings, with the reason. Add no name, and remove a name when it has one meaning.
const SEVERAL: [(&str, &str); 3] = [
    (
        "Output",
        "what a function returns: the runtime's for its author, io's for the caller's answer",
    ),
    (
        "Stream",
        "io_uring's and epoll's half of one facade, named with its module elsewhere",
    ),
    (
        "Watch",
        "the facade, and io_uring's and epoll's half of it, named with its module elsewhere",
    ),
];

/// Returns the part of a line after its visibility, such as `pub` or `pub(crate)`.
fn without_visibility(line: &str) -> &str {
    let Some(rest) = line.strip_prefix("pub") else {
        return line;
    };
    match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(") ").map_or(line, |(_, rest)| rest),
        None => rest.trim_start(),
    }
}

pub(crate) fn name_at(text: &str) -> &str {
    let ends = |letter: char| !letter.is_alphanumeric() && letter != '_';
    text.split(ends).next().unwrap_or_default()
}

/// Returns the type that this line defines. An indented alias belongs to a trait and does not count.
fn defined(line: &str) -> Option<&str> {
    let item = without_visibility(line.trim_start());
    let (keyword, rest) = item
        .strip_prefix("unsafe ")
        .unwrap_or(item)
        .split_once(' ')?;
    let defines = match keyword {
        "struct" | "enum" | "union" | "trait" => true,
        "type" => !line.starts_with(' '),
        _ => false,
    };
    let name = name_at(rest);
    (defines && name.starts_with(|letter: char| letter.is_ascii_uppercase())).then_some(name)
}

#[test]
fn a_type_name_has_one_meaning() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files("", "rs") {
        for (number, line) in read(&file).lines().enumerate() {
            if let Some(name) = defined(line) {
                let place = format!("{}:{}", file.display(), number + 1);
                places.entry(name.to_owned()).or_default().push(place);
            }
        }
    }
    for (name, _) in SEVERAL {
        assert!(
            places.remove(name).is_some_and(|places| places.len() > 1),
            "SEVERAL: {name} has at most one meaning, remove it"
        );
    }
    places.retain(|_, places| places.len() > 1);
    assert!(
        places.is_empty(),
        "a name with several meanings, say which: {places:#?}"
    );
}

/// Returns the signature of the function that begins on this line, from its name on.
pub(crate) fn signature(lines: &[&str], at: usize) -> Option<String> {
    let mut item = without_visibility(lines[at].trim_start());
    for word in ["const ", "async ", "unsafe "] {
        item = item.strip_prefix(word).unwrap_or(item);
    }
    let mut signature = item.strip_prefix("fn ")?.to_owned();
    for line in &lines[at + 1..] {
        if signature.ends_with(['{', '}', ';']) {
            break;
        }
        signature.push_str(line);
    }
    Some(signature)
}

#[test]
fn a_question_answers_and_changes_nothing() {
    let mut wrong = Vec::new();
    for file in files("", "rs") {
        let text = read(&file);
        let lines: Vec<&str> = text.lines().collect();
        for at in 0..lines.len() {
            let Some(signature) = signature(&lines, at) else {
                continue;
            };
            let name = name_at(&signature);
            let asks = name.starts_with("is_") || name.starts_with("has_");
            let (arguments, answer) = signature.split_once("->").unwrap_or((&signature, ""));
            let answers = answer.contains("bool") && !arguments.contains("&mut ");
            if asks && !answers {
                wrong.push(format!("{}:{}: {name}", file.display(), at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "name what it does: {wrong:#?}");
}
