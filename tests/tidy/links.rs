//! Checks that the paths, files and sections that documents name exist.

use crate::{files, quoted, read, root};

/// Returns whether a word in backquotes can only be a path of this repository.
fn is_path(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let top = word.split('/').next().unwrap_or_default();
    word.contains('/') && word.bytes().all(plain) && !top.is_empty() && root().join(top).exists()
}

#[test]
fn what_documents_name_is_there() {
    let mut missing = Vec::new();
    for page in files("", "md") {
        let text = read(&page);
        let folder = root().join(&page);
        let folder = folder.parent().expect("a folder");
        let exists = |word: &str| root().join(word).exists() || folder.join(word).exists();
        let is_missing = |word: &&str| is_path(word) && !exists(word);
        for word in quoted(&text).filter(is_missing) {
            missing.push(format!("{}: `{word}`", page.display()));
        }
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                missing.push(format!("{}: link to {path}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn links_to_sections_lead_to_one() {
    let mut missing = Vec::new();
    for page in files("", "md") {
        let text = read(&page);
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            let Some((path, section)) = link.split_once('#') else {
                continue;
            };
            if path.contains("://") {
                continue;
            }
            let target = if path.is_empty() {
                page.clone()
            } else {
                page.with_file_name("").join(path)
            };
            let sections: Vec<String> = read(&target)
                .lines()
                .filter(|line| line.starts_with('#'))
                .map(|line| anchor(line.trim_start_matches('#').trim()))
                .collect();
            if !sections.iter().any(|one| one == section) {
                missing.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Returns the anchor of a heading, as links name it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ if letter.is_alphanumeric() => Some(letter.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}
