//! Ends the control planes that still run when the test process ends, even if the test process crashes.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use nix::unistd::Pid;

use crate::wait::lock;

/// A shell that reads from a pipe. The pipe closes when the test process ends. The shell then kills every
/// control plane that still runs, and ends.
pub(crate) struct Keeper(Mutex<Child>);

const SCRIPT: &str = r#"
pids=" "
while read -r what pid; do
    case $what in
        watch) pids="$pids$pid " ;;
        forget) pids="${pids%% $pid *} ${pids#* $pid }" ;;
    esac
done
[ -z "${pids# }" ] || kill -9 $pids 2>/dev/null
"#;

impl Keeper {
    pub(crate) fn get() -> &'static Self {
        static KEEPER: OnceLock<Keeper> = OnceLock::new();
        KEEPER.get_or_init(|| {
            let mut shell = Command::new("/bin/sh");
            shell
                .args(["-c", SCRIPT])
                .stdin(Stdio::piped())
                .stdout(Stdio::null());
            Self(Mutex::new(shell.spawn().expect("a shell")))
        })
    }

    fn write(&self, what: &str, pid: Pid) {
        let mut shell = lock(&self.0);
        let pipe = shell.stdin.as_mut().expect("a pipe");
        let _ = writeln!(pipe, "{what} {pid}");
    }

    pub(crate) fn watch(&self, pid: Pid) {
        self.write("watch", pid);
    }

    pub(crate) fn forget(&self, pid: Pid) {
        self.write("forget", pid);
    }
}
