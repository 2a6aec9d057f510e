//! The command line of the program to run, and the mode that the environment selects. This module
//! starts no process. `main` calls `CommandLine::read`, and the three modes use the result.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nanofaas_runtime::Error;

/// Variables that the platform sets for this process. The program does not get them, because they
/// can hold tokens.
const OURS: [&str; 4] = [
    "CALLBACK_URL",
    "INVOCATION_PAYLOAD",
    "INVOCATION_PAYLOAD_URL",
    "NANOFAAS_READY_URL",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Stdio(Given),
    File,
    Http,
}

/// The program's stdin if the call's body is JSON (`WATCHDOG_STDIN`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// The envelope's `input`.
    Input,
    /// The whole body: `{"input":…,"metadata":…}`.
    Envelope,
}

/// A program and its arguments: one word at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandLine {
    words: Vec<OsString>,
}

impl CommandLine {
    /// Reads the arguments and the environment. An error names the wrong word and the allowed
    /// values.
    pub(crate) fn read(
        arguments: Vec<OsString>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<(Self, Mode), String> {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        let mode = get("EXECUTION_MODE").unwrap_or_else(|| "HTTP".to_owned());
        let mode = match mode.to_ascii_uppercase().as_str() {
            "HTTP" => Mode::Http,
            "STDIO" => Mode::Stdio(read_given(&get)?),
            "FILE" => Mode::File,
            _ => {
                return Err(format!(
                    "EXECUTION_MODE must be HTTP, STDIO or FILE, is {mode:?}"
                ));
            }
        };
        let mut arguments = arguments.into_iter();
        let words = match (arguments.next(), get("WATCHDOG_CMD")) {
            (Some(dashes), _) if dashes == "--" => arguments.collect(),
            (Some(other), _) => {
                return Err(format!(
                    "put the program after --; got {other:?} (see --help)"
                ));
            }
            (None, Some(line)) => vec!["/bin/sh".into(), "-c".into(), line.into()],
            (None, None) => Vec::new(),
        };
        if words.is_empty() {
            return Err("name a program after --, or in WATCHDOG_CMD".into());
        }
        Ok((Self { words }, mode))
    }

    /// Returns the command, ready to be spawned. Its stdin is empty, and its stdout is that of this
    /// process.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).stdin(Stdio::null());
        for name in OURS {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn program(&self) -> String {
        self.words[0].to_string_lossy().into_owned()
    }

    /// Fails if the program does not exist or may not be executed. Without this check at the start,
    /// every call would fail.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let program = Path::new(&self.words[0]);
        let runs = |path: &Path| {
            let found = path.metadata().ok().filter(std::fs::Metadata::is_file);
            found.is_some_and(|file| file.permissions().mode() & 0o111 != 0)
        };
        // As in `execvp`, only a name without a slash is searched in PATH.
        let found = if program.components().count() > 1 {
            runs(program)
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|folder| runs(&folder.join(program)))
        };
        match found {
            true => Ok(()),
            false => Err(Error::new(format!(
                "there is no program {:?}, or it may not be executed",
                self.program()
            ))),
        }
    }
}

/// Reads `WATCHDOG_STDIN`. If it is not set, `WARM=true` selects the envelope, because images for
/// the watchdog of the original nanofaas set `WARM=true`, and their programs read the whole
/// envelope.
fn read_given(get: &impl Fn(&str) -> Option<String>) -> Result<Given, String> {
    match get("WATCHDOG_STDIN").as_deref() {
        Some("input") => Ok(Given::Input),
        Some("envelope") => Ok(Given::Envelope),
        Some(other) => Err(format!(
            "WATCHDOG_STDIN must be input or envelope, is {other:?}"
        )),
        None => match get("WARM").as_deref() {
            Some("1" | "true" | "TRUE" | "yes" | "YES") => Ok(Given::Envelope),
            _ => Ok(Given::Input),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str], set: &[(&str, &str)]) -> Result<(Vec<String>, Mode), String> {
        let arguments = arguments.iter().map(OsString::from).collect();
        let read = CommandLine::read(arguments, |name| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        let text = |word: OsString| word.into_string().expect("UTF-8");
        read.map(|(line, mode)| (line.words.into_iter().map(text).collect(), mode))
    }

    #[test]
    fn arguments_go_before_the_environment() {
        let set = [("WATCHDOG_CMD", "a | b"), ("EXECUTION_MODE", "STDIO")];
        let (words, mode) = read(&["--", "x", "-y"], &set).expect("sound");
        let stdio = Mode::Stdio(Given::Input);
        assert_eq!((words.join(" ").as_str(), mode), ("x -y", stdio));
        let (words, mode) = read(&[], &set[..1]).expect("sound");
        assert_eq!(
            (words.join(" ").as_str(), mode),
            ("/bin/sh -c a | b", Mode::Http)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = read(&[], &[]).expect_err("no program");
        assert!(message.contains("WATCHDOG_CMD"), "{message}");
        assert!(read(&["--"], &[]).is_err());
        let message = read(&["x"], &[]).expect_err("no dashes");
        assert!(message.contains("--") && message.contains('x'), "{message}");
        let set = [("EXECUTION_MODE", "SOCKET"), ("WATCHDOG_CMD", "a")];
        let message = read(&[], &set).expect_err("no such mode");
        assert!(message.contains("HTTP, STDIO or FILE"), "{message}");
        let set = [("EXECUTION_MODE", "STDIO"), ("WATCHDOG_STDIN", "json")];
        let message = read(&[], &set).expect_err("no such choice");
        assert!(message.contains("input or envelope"), "{message}");
    }

    #[test]
    fn stdin_has_the_input_unless_told_otherwise() {
        let given = |set: &[(&str, &str)]| {
            let mut all = vec![("EXECUTION_MODE", "stdio"), ("WATCHDOG_CMD", "a")];
            all.extend_from_slice(set);
            read(&[], &all).expect("sound").1
        };
        assert_eq!(given(&[]), Mode::Stdio(Given::Input));
        assert_eq!(given(&[("WARM", "false")]), Mode::Stdio(Given::Input));
        assert_eq!(given(&[("WARM", "true")]), Mode::Stdio(Given::Envelope));
        let asked = [("WATCHDOG_STDIN", "envelope")];
        assert_eq!(given(&asked), Mode::Stdio(Given::Envelope));
        let both = [("WATCHDOG_STDIN", "input"), ("WARM", "true")];
        assert_eq!(given(&both), Mode::Stdio(Given::Input));
    }
}
