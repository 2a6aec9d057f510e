//! The two files of a call in FILE mode: the body in one, the output in the other. This module
//! starts no process. `stdio` uses it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nanofaas_runtime::Error;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::spawn_blocking;

use crate::stdio::{OUTPUT_BYTES_MAX, too_large};

pub(crate) enum Places {
    /// Each call has its own folder.
    Own,
    /// `INPUT_FILE` and `OUTPUT_FILE` of the watchdog's environment, for programs that always use
    /// these paths. Of all watchdogs with the same output path, only one runs a call at a time.
    Fixed {
        input: PathBuf,
        output: PathBuf,
        turn: Arc<Mutex<()>>,
    },
}

/// The files of one call. Dropping the value removes the call's own folder, if there is one.
pub(crate) struct Files {
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
    folder: Option<PathBuf>,
    _turn: Option<FileTurn>,
}

/// The lock on the fixed paths. The mutex excludes other calls of this watchdog; the file lock
/// excludes other watchdogs with the same output path.
struct FileTurn {
    _here: OwnedMutexGuard<()>,
    _anywhere: Flock<File>,
}

impl FileTurn {
    async fn wait(turn: &Arc<Mutex<()>>, output: &Path) -> Result<Self, Error> {
        // Lock the mutex first, so that at most one thread of this process blocks in `flock`.
        let here = Arc::clone(turn).lock_owned().await;
        let mut path = output.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let at = path.clone();
        let lock = move || {
            // The lock file stays, because another watchdog may wait for its lock. A lock on a new
            // file would not exclude that watchdog.
            let file = File::create(&at)?;
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| io::Error::from(error))
        };
        let locked = spawn_blocking(lock).await.map_err(io::Error::other);
        let anywhere = locked
            .and_then(|locked| locked)
            .map_err(|error| Error::new(format!("cannot lock {}: {error}", path.display())))?;
        Ok(Self {
            _here: here,
            _anywhere: anywhere,
        })
    }
}

impl Places {
    pub(crate) fn read(env: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        match (get("INPUT_FILE"), get("OUTPUT_FILE")) {
            (None, None) => Self::Own,
            (input, output) => Self::Fixed {
                input: input.map_or_else(|| "/tmp/input.json".into(), PathBuf::from),
                output: output.map_or_else(|| "/tmp/output.json".into(), PathBuf::from),
                turn: Arc::default(),
            },
        }
    }

    /// Prepares the files of one call, and writes its body to the input file.
    pub(crate) async fn take(&self, given: &[u8]) -> Result<Files, Error> {
        let files = match self {
            Self::Own => Files::in_a_folder()?,
            Self::Fixed {
                input,
                output,
                turn,
            } => Files {
                input: input.clone(),
                output: output.clone(),
                folder: None,
                _turn: Some(FileTurn::wait(turn, output).await?),
            },
        };
        // Write on this thread. A write on another thread would go on after its call was cut off,
        // and could overwrite the input of the next call.
        files.write(given).map_err(|error| {
            let path = files.input.display();
            Error::new(format!("cannot write the call's input to {path}: {error}"))
        })?;
        Ok(files)
    }
}

impl Files {
    fn in_a_folder() -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("nanofaas-call-{}-{number}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            // Other users of this machine must not read the call's data.
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {
                    return Ok(Self {
                        input: folder.join("input.json"),
                        output: folder.join("output.json"),
                        folder: Some(folder),
                        _turn: None,
                    });
                }
                // A killed watchdog with the same process id may have left the folder. Try the next
                // number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let message = format!("cannot make the folder {}: {error}", folder.display());
                    return Err(Error::new(message));
                }
            }
        }
    }

    fn write(&self, body: &[u8]) -> io::Result<()> {
        match fs::remove_file(&self.output) {
            // An earlier output that cannot be removed would be taken for this call's output.
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => fs::write(&self.input, body),
        }
    }

    pub(crate) async fn read(&self) -> Result<Vec<u8>, Error> {
        let path = self.output.clone();
        let read = spawn_blocking(move || {
            let mut bytes = Vec::new();
            // The byte above the limit shows that the file is too large.
            let most = OUTPUT_BYTES_MAX as u64 + 1;
            File::open(path)?.take(most).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let read = read.await.map_err(io::Error::other).and_then(|read| read);
        let bytes = read.map_err(|error| {
            let path = self.output.display();
            Error::bad_output(format!(
                "the program must write its output to OUTPUT_FILE ({path}): {error}"
            ))
        })?;
        match bytes.len() {
            ..=OUTPUT_BYTES_MAX => Ok(bytes),
            _ => Err(too_large("OUTPUT_FILE")),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // Another process may have removed the folder already.
            let _ = fs::remove_dir_all(folder);
        }
    }
}
