//! The paths of built programs and of scratch folders, derived from the path of the running test
//! program. It builds nothing.

use std::path::{Path, PathBuf};

/// The folder of the running test program's profile: `target/debug`.
fn profile() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this program");
    let folder = test.ancestors().nth(2);
    folder.expect("a test program is in deps/").to_owned()
}

/// The path of a program of the workspace, built in the same profile as the running test program.
pub fn program(name: &str) -> PathBuf {
    profile().join(name)
}

/// The folder for files of tests: `target/tmp`.
pub fn scratch() -> PathBuf {
    profile().with_file_name("tmp")
}

/// The folder of the workspace.
pub fn repository() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("the crate is in the workspace")
}
