//! Checks the inputs that a fuzzer kept because they reached code that earlier inputs did not reach.

use std::fs;
use std::path::Path;

use nanofaas_fuzz::{PROPERTIES, check};

/// The limits of each target's corpus, which keep the test short.
const FILES_MAX: usize = 200;
const BYTES_MAX: usize = 4096;

#[test]
fn what_was_kept_still_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, _) in PROPERTIES {
        let files = fs::read_dir(corpus.join(target)).expect("a folder for each target");
        let mut count = 0;
        for file in files {
            let path = file.expect("an entry").path();
            // The test harness prints this only if the test fails.
            println!("{}", path.display());
            let bytes = fs::read(&path).expect("a file");
            assert!(bytes.len() <= BYTES_MAX, "small inputs say as much");
            check(target, &bytes);
            count += 1;
        }
        assert!(
            (1..=FILES_MAX).contains(&count),
            "{target} has {count} inputs"
        );
    }
}
