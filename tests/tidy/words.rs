//! Comments name the client, thread or process that acts.

use crate::{files, read};

/// Each of these words leaves open which client, thread, process or person is meant.
const VAGUE: [&str; 4] = ["whoever", "nobody", "somebody", "anybody"];

#[test]
fn comments_say_who() {
    let mut vague = Vec::new();
    for file in files("", "rs") {
        for (number, line) in read(&file).lines().enumerate() {
            let Some(comment) = line.trim_start().strip_prefix("//") else {
                continue;
            };
            let mut words = comment.split(|letter: char| !letter.is_alphanumeric());
            if words.any(|word| VAGUE.contains(&word.to_ascii_lowercase().as_str())) {
                vague.push(format!("{}:{}", file.display(), number + 1));
            }
        }
    }
    assert!(vague.is_empty(), "a comment does not say who: {vague:#?}");
}
