//! A folder for the files of one test. The folder is deleted when the test ends.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

pub struct ScratchFolder(PathBuf);

impl ScratchFolder {
    pub fn create() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The name is short, because the path of a Unix socket can have at most 107 bytes.
        let name = format!("nft-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// Writes an executable file in this folder.
    pub fn executable(&self, name: &str, content: &str) -> PathBuf {
        let path = self.write(name, content);
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("an executable file");
        path
    }

    /// Returns the content of a file in this folder, or `None` while the file is absent or empty.
    pub fn read(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.join(name)).ok()?;
        (!text.is_empty()).then_some(text)
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
