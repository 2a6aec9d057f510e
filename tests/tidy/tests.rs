//! The name of a test has few words, so a list of tests is readable. The name says what is true, and the name
//! of its module says for which part.

use crate::{files, read};

/// The largest number of words in a name. Underscores separate the words.
const WORDS_MAX: usize = 8;

/// Returns the names in a text: lower-case words that are joined by underscores.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let joins = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    text.split(move |letter: char| !joins(letter) && letter != '_')
        .map(|name| name.trim_matches('_'))
}

// Some tests are functions without `#[test]`, and the names of some tests are in strings, so all names in a
// file are checked.
#[test]
fn a_name_has_eight_words_at_most() {
    let mut long = Vec::new();
    for extension in ["rs", "py"] {
        for file in files("", extension) {
            for (number, line) in read(&file).lines().enumerate() {
                for name in names(line) {
                    let words = name.strip_prefix("test_").unwrap_or(name).split('_');
                    if words.count() > WORDS_MAX {
                        long.push(format!("{}:{}: {name}", file.display(), number + 1));
                    }
                }
            }
        }
    }
    long.sort();
    assert!(long.is_empty(), "say it shorter: {long:#?}");
}
