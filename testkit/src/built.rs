//! Derives the paths of built programs from the path of the running test program. This module builds nothing.

use std::path::{Path, PathBuf};

/// Returns the path of a program of the workspace, or of `examples/NAME`, that was built in the same profile
/// as the running test program.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this program");
    let profile = test.ancestors().nth(2);
    profile.expect("a test program is in deps/").join(name)
}

/// Returns the folder of the workspace.
pub fn repository() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("the crate is in the workspace")
}
