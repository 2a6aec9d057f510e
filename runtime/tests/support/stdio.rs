//! Pods of the watchdog's STDIO mode.

use nanofaas_testkit::folder::ScratchFolder;

use super::{Program, shell_script, watchdog};

pub(crate) const STDIO: (&str, &str) = ("EXECUTION_MODE", "STDIO");

/// Starts a pod whose function is a shell script. `$D` is the pod's scratch folder.
pub(crate) fn pod(text: &str) -> Program {
    pod_with(text, &[])
}

pub(crate) fn pod_with(text: &str, more: &[(&str, &str)]) -> Program {
    let pod = start(text, more);
    pod.until_up();
    pod
}

pub(crate) fn start(text: &str, more: &[(&str, &str)]) -> Program {
    let scratch = ScratchFolder::create();
    let script = shell_script(&scratch, text);
    let folder = scratch.join("").to_str().expect("UTF-8").to_owned();
    let script = script.to_str().expect("UTF-8");
    let mut env = vec![STDIO, ("D", &folder)];
    env.extend_from_slice(more);
    Program::start_in(scratch, &watchdog(), &["--", script], &env)
}
