//! Replaces variables in braces, such as `{folder}`, `{port.proxy}` and `{flags}`, by their values. Braces
//! around anything but a plain word stay unchanged, so JSON and nginx.conf need no escapes. The files of
//! contenders contain such variables.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub(crate) struct Variables(BTreeMap<String, String>);

/// Variables that stay unchanged here, because the load plan fills them in for each request.
const LATER: [&str; 2] = ["function", "duration_ms"];
/// The longest chain of values that refer to other variables.
const DEPTH: usize = 8;

impl Variables {
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    pub(crate) fn fill(&self, text: &str) -> Result<String, String> {
        self.fill_to(text, DEPTH)
    }

    fn fill_to(&self, text: &str, depth: usize) -> Result<String, String> {
        if depth == 0 {
            return Err(format!(
                "{text:?}: its variables name each other in a circle"
            ));
        }
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            let Some(name) = word(rest).filter(|name| !LATER.contains(name)) else {
                filled.push('{');
                rest = &rest[1..];
                continue;
            };
            let value = self.0.get(name).ok_or_else(|| {
                let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
                format!("{{{name}}} is not set; there are: {}", known.join(", "))
            })?;
            filled.push_str(&self.fill_to(value, depth - 1)?);
            rest = &rest[name.len() + 2..];
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// Fills in the variables in the words of a command. A word that is only a variable becomes as many words
    /// as its value has.
    pub(crate) fn words(&self, texts: &[String]) -> Result<Vec<String>, String> {
        let mut words = Vec::new();
        for text in texts {
            let filled = self.fill(text)?;
            if word(text).is_some_and(|name| name.len() + 2 == text.len()) {
                words.extend(filled.split_whitespace().map(str::to_owned));
            } else {
                words.push(filled);
            }
        }
        Ok(words)
    }
}

/// Returns the name of the variable in braces at the beginning of a text.
fn word(text: &str) -> Option<&str> {
    let (word, _) = text.strip_prefix('{')?.split_once('}')?;
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.".contains(&byte);
    (!word.is_empty() && word.bytes().all(plain)).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_filled_in_and_other_braces_stay() {
        let mut variables = Variables::default();
        variables.set("port.pod", "81");
        variables.set("pod", "http://h:{port.pod}");
        variables.set("flags", "--a 1");
        variables.set("none", "");
        let filled = variables.fill(r#"events { x; } {"a":"{pod}/x"} {} {function} {Q}"#);
        assert_eq!(
            filled.as_deref(),
            Ok(r#"events { x; } {"a":"http://h:81/x"} {} {function} {Q}"#)
        );
        let words = ["p", "{flags}", "{none}", "a {none}"].map(str::to_owned);
        assert_eq!(
            variables.words(&words),
            Ok(["p", "--a", "1", "a "].map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn unknown_words_and_circles_are_told() {
        let mut variables = Variables::default();
        variables.set("a", "{a}");
        assert!(
            variables
                .fill("{a}")
                .is_err_and(|error| error.contains("circle"))
        );
        assert!(
            variables
                .fill("{b}")
                .is_err_and(|error| error.contains("there are: a"))
        );
    }
}
