//! No file grows without limit.

use crate::{files, read};

/// A file with more lines should be split by noun.
const LINES_MAX: usize = 520;
#[test]
fn no_file_is_longer_than_a_reader_takes_in() {
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
