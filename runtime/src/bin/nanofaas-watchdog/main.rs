//! Makes any program a function. With `EXECUTION_MODE=STDIO`, each call runs one process, which
//! reads its stdin and writes JSON to its stdout; with `FILE` it reads and writes two files
//! instead. With `HTTP`, the default, the program serves HTTP itself; this process starts it,
//! watches it and restarts it. Before this process exits, it kills all of its descendants.

mod command;
mod ending;
mod group;
mod tail;
mod files;
mod marked;
mod stdio;
mod supervise;
mod relay;
mod once;

use std::process::ExitCode;

use nanofaas_runtime::{Handlers, log};

use command::{CommandLine, Mode};
use files::Places;
use stdio::{Passing, Stdio};

const USAGE: &str = "\
Makes any program a function.

Usage: nanofaas-watchdog [-- PROGRAM [ARGUMENT]...]

Without a program after -- the environment's WATCHDOG_CMD is run by /bin/sh -c.

EXECUTION_MODE=STDIO  one process per call: the call's input is its stdin, JSON on its stdout is
                      the output; EXECUTION_ID, TRACE_ID, DISPATCH_ATTEMPT, TIMEOUT_MS and
                      CONTENT_TYPE are in its environment. WATCHDOG_STDIN=envelope: the whole
                      {\"input\":…,\"metadata\":…} is its stdin
EXECUTION_MODE=FILE   the same with two files: the whole envelope is in INPUT_FILE, and JSON in
                      OUTPUT_FILE is the output
EXECUTION_MODE=HTTP   the program serves POST /invoke and GET /health on PORT or NANOFAAS_SOCKET;
                      it is started anew when it ends (the default)
";

fn main() -> ExitCode {
    // A cold start is measured from here. `FUNCTION_HANDLER` is ignored, because
    // the program may use it.
    let handlers = Handlers::new().without_picking();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if matches!(arguments.first(), Some(word) if word == "--help" || word == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let read = CommandLine::read(arguments, |name| std::env::var(name).ok());
    let (line, mode) = match read {
        Ok(read) => read,
        Err(message) => {
            log::line("error", &message, None, &[]);
            return ExitCode::from(2);
        }
    };
    // A subreaper inherits descendants whose parent has ended, so this process can kill
    // them.
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        let message = format!("processes that leave their group cannot be ended: {error}");
        log::line("warn", &message, None, &[]);
    }
    let one_call = std::env::var("CALLBACK_URL").is_ok_and(|url| !url.is_empty());
    let found = line.clone();
    let handlers = handlers.init(move || found.check());
    let code = match (mode, one_call) {
        (Mode::Stdio(given), _) => {
            let stdio = Stdio::new(line, Passing::Pipes(given));
            nanofaas_runtime::serve(handlers.add("stdio", stdio))
        }
        (Mode::File, _) => {
            let places = Places::read(|name| std::env::var(name).ok());
            let file = Stdio::new(line, Passing::Files(places));
            nanofaas_runtime::serve(handlers.add("file", file))
        }
        (Mode::Http, true) => nanofaas_runtime::serve(handlers.add("http", once::Once::new(line))),
        (Mode::Http, false) => supervise::serve(&line),
    };
    // No descendant may outlive this process, whatever the outcome.
    group::end_all();
    code
}
