//! Turns the way in which a program ended into the error that its calls get. The codes and messages are the
//! same in every runtime of nanofaas.

use std::fmt;

use nanofaas_runtime::Error;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

/// The status with which a program ended; none if the system did not report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending(pub(crate) Option<WaitStatus>);

impl Ending {
    pub(crate) fn is_well(self) -> bool {
        matches!(self.0, Some(WaitStatus::Exited(_, 0)))
    }

    /// Returns whether a SIGKILL from outside this process ended the program. Status 137 counts,
    /// too, because a shell exits with 128 + 9 if its last command was killed.
    fn is_kill(self) -> bool {
        matches!(
            self.0,
            Some(WaitStatus::Signaled(_, Signal::SIGKILL, _) | WaitStatus::Exited(_, 137))
        )
    }

    /// Returns the error of a call that has its own process.
    pub(crate) fn failed(self, said: &str) -> Error {
        self.error(said, Error::new)
    }

    /// Returns the error of a call whose program serves HTTP and ended before its answer.
    pub(crate) fn lost(self, said: &str) -> Error {
        self.error(said, Error::pod_lost)
    }

    fn error(self, said: &str, otherwise: impl FnOnce(String) -> Error) -> Error {
        match self.is_kill() {
            true => Error::with_code(
                "OOM",
                format!("the program {self}, most likely for its memory{said}"),
            ),
            false => otherwise(format!("the program {self}{said}")),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(WaitStatus::Exited(_, code)) => write!(out, "exited with status {code}"),
            Some(WaitStatus::Signaled(_, signal, _)) => {
                write!(out, "was ended by signal {} ({signal})", signal as i32)
            }
            Some(other) => write!(out, "ended in a way that has no name ({other:?})"),
            None => out.write_str("ended, and the system did not say how"),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

    fn signaled(signal: Signal) -> Ending {
        Ending(Some(WaitStatus::Signaled(Pid::from_raw(1), signal, false)))
    }

    fn exited(status: i32) -> Ending {
        Ending(Some(WaitStatus::Exited(Pid::from_raw(1), status)))
    }

    #[test]
    fn the_words_name_status_and_signal() {
        let lost = exited(3).lost("");
        assert_eq!(
            (lost.code(), lost.message()),
            ("POD_LOST", "the program exited with status 3")
        );
        let failed = signaled(Signal::SIGSEGV).failed(": its last line");
        let words = "the program was ended by signal 11 (SIGSEGV): its last line";
        assert_eq!((failed.code(), failed.message()), ("HANDLER_ERROR", words));
    }

    #[test]
    fn a_sigkill_is_oom_in_every_mode() {
        for ending in [signaled(Signal::SIGKILL), exited(137)] {
            assert_eq!(ending.lost("").code(), "OOM");
            assert_eq!(ending.failed("").code(), "OOM");
        }
    }
}
