//! Makes the private directory of one control plane, for the sockets and pipes of its functions. `bridge`
//! calls this module at its start. The module then also removes the directories that ended control planes
//! have left. A directory of a running control plane or of another user is not touched.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;

const PREFIX: &str = "nanofaas-";
const LOCK: &str = "lock";

/// A directory without a lock file that is younger than this may belong to a control plane that still starts.
const MAKING: Duration = Duration::from_secs(60);

/// The limit of a file's name and the slash before it, in bytes.
const NAME_LEN_MAX: usize = 24;
/// The longest path of a socket, in bytes. The kernel has room for 108 bytes, of which the last is zero.
const SOCKET_PATH_LEN_MAX: usize = 107;

/// Dropping this value removes the directory and its contents.
pub(crate) struct RunDir {
    path: PathBuf,
    /// Locked while the control plane runs. The kernel releases the lock however the process ends.
    _lock: File,
}

#[expect(
    clippy::disallowed_methods,
    reason = "a place of the machine, no setting"
)]
pub(crate) fn base() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(dir) if dir.is_absolute() && is_ours(&dir) => dir,
        _ => std::env::temp_dir(),
    }
}

fn is_ours(path: &Path) -> bool {
    let found = fs::symlink_metadata(path);
    found.is_ok_and(|found| found.is_dir() && found.uid() == Uid::effective().as_raw())
}

impl RunDir {
    /// Makes a new directory under `base`, and removes the directories of ended control planes there.
    pub(crate) fn create(base: &Path) -> io::Result<Self> {
        remove_stale(base);
        let random = u32::from_ne_bytes(nanofaas_backend::random::random());
        let name = format!("{PREFIX}{}-{random:08x}", std::process::id());
        let path = base.join(name);
        let length = path.to_str().map(|text| text.len() + NAME_LEN_MAX);
        if length.is_none_or(|length| length > SOCKET_PATH_LEN_MAX) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "its path is too long for a socket, or not UTF-8; set TMPDIR to a shorter one",
            ));
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        // The umask may have removed bits that the owner needs.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        let lock = lock_options().create(true).open(path.join(LOCK))?;
        lock.try_lock()?;
        Ok(Self { path, _lock: lock })
    }

    /// Returns the path of a file in the directory. `name` must be shorter than `NAME_LEN_MAX`.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        debug_assert!(name.len() < NAME_LEN_MAX, "{name}");
        self.path.join(name)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn lock_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).truncate(false);
    options
}

fn remove_stale(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_one = name.to_str().is_some_and(|name| {
            let mut parts = name.strip_prefix(PREFIX).unwrap_or_default().split('-');
            let pid = parts.next().unwrap_or_default();
            let digits = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
            digits && parts.next().is_some() && parts.next().is_none()
        });
        let path = entry.path();
        if is_one && is_ours(&path) && is_stale(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the age of a file is of the wall clock"
)]
fn is_stale(path: &Path) -> bool {
    match lock_options().open(path.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = fs::metadata(path).and_then(|found| found.modified());
            made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > MAKING))
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_of_dead_planes_are_removed() {
        let base = std::env::temp_dir().join(format!("rundir-{}", std::process::id()));
        fs::create_dir(&base).expect("a scratch directory");
        let living = RunDir::create(&base).expect("the first");
        fs::write(living.at("a.sock"), "").expect("private to us");
        let dead = base.join("nanofaas-1-abcde");
        let other = base.join("nanofaas-notes-1");
        for dir in [&dead, &other] {
            fs::create_dir(dir).expect("new");
            fs::write(dir.join(LOCK), "").expect("new");
        }
        let making = base.join("nanofaas-2-abcde");
        fs::create_dir(&making).expect("new");
        let second = RunDir::create(&base).expect("the second");
        assert!(living.at("a.sock").exists() && other.exists() && making.exists());
        assert!(!dead.exists());
        let mode = fs::metadata(&second.path).expect("there").mode();
        assert_eq!(mode & 0o777, 0o700);
        let path = second.path.clone();
        drop(second);
        assert!(!path.exists());
        drop(living);
        fs::remove_dir_all(&base).expect("ours");
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused() {
        let base = std::env::temp_dir().join("d".repeat(90));
        let error = RunDir::create(&base).err().expect("too long");
        assert!(error.to_string().contains("TMPDIR"), "{error}");
    }
}
