//! Makes warnings for environment variables that look like settings, so that a misspelt setting is not
//! ignored silently. This module reads only the names of variables. `serve` logs the warnings at the start.

use std::collections::BTreeSet;

use clap::Command;
use strsim::levenshtein;

const PREFIX: &str = "NANOFAAS_";
/// A build with planted bugs gives no warning for this variable, because `core/src/sync.rs` reads it there.
const PLANTED_BUG: &str = "NANOFAAS_PLANTED_BUG";
/// The largest edit distance at which a known name is suggested.
const DISTANCE_MAX: usize = 3;
/// A longer name is cut to this length.
const NAME_LEN_MAX: usize = 100;

/// Returns a line for each variable that begins with `NANOFAAS_` and is not a setting of any command. In a
/// cluster, the variables of a Service are left out, because a Service may be named `nanofaas`.
pub(crate) fn unknown_variables(
    command: &Command,
    names: impl Iterator<Item = String>,
    is_in_cluster: bool,
) -> Vec<String> {
    let mut known = BTreeSet::new();
    collect(command, &mut known);
    if cfg!(feature = "planted-bugs") {
        known.insert(PLANTED_BUG.to_owned());
    }
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with(PREFIX) && !known.contains(name))
        .filter(|name| !(is_in_cluster && is_of_a_service(name)))
        .collect();
    names.sort_unstable();
    names.iter().map(|name| line(name, &known)).collect()
}

fn collect(command: &Command, known: &mut BTreeSet<String>) {
    let variables = command.get_arguments().filter_map(clap::Arg::get_env);
    known.extend(variables.map(|name| name.to_string_lossy().into_owned()));
    for inner in command.get_subcommands() {
        collect(inner, known);
    }
}

fn line(name: &str, known: &BTreeSet<String>) -> String {
    // Cut a long name, because the comparison takes time in proportion to both lengths.
    let shown: String = name.chars().take(NAME_LEN_MAX).collect();
    let nearest = known
        .iter()
        .map(|other| (levenshtein(&shown, other), other))
        .filter(|(distance, _)| *distance <= DISTANCE_MAX)
        .min();
    match nearest {
        Some((_, other)) => format!("{shown} is no setting, and is ignored: is {other} meant?"),
        None => format!("{shown} is no setting, and is ignored: `nanofaas serve --help` lists all"),
    }
}

/// Returns whether the variable has the form of those that a kubelet sets for a Service: `NANOFAAS_PORT`,
/// `NANOFAAS_X_SERVICE_HOST`, `NANOFAAS_PORT_8080_TCP_ADDR` and the like.
fn is_of_a_service(name: &str) -> bool {
    let ends = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];
    let in_port = ["_TCP", "_UDP", "_SCTP", "_PROTO", "_ADDR", "_PORT"];
    ends.iter().any(|end| name.ends_with(end))
        || name.contains("_SERVICE_PORT_")
        || (name.contains("_PORT_") && in_port.iter().any(|end| name.ends_with(end)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn unknown(names: &[&str], is_in_cluster: bool) -> Vec<String> {
        let names = names.iter().map(|name| (*name).to_owned());
        unknown_variables(&crate::ProgramArgs::command(), names, is_in_cluster)
    }

    #[test]
    fn a_near_setting_is_suggested() {
        let names = [
            "PATH",
            "NANOFAAS_LISTN",
            "NANOFAAS_QUEUE",
            "NANOFAAS_LISTEN",
        ];
        let expected = [
            "NANOFAAS_LISTN is no setting, and is ignored: is NANOFAAS_LISTEN meant?",
            "NANOFAAS_QUEUE is no setting, and is ignored: `nanofaas serve --help` lists all",
        ];
        assert_eq!(unknown(&names, false), expected);
        let settings = [
            "NANOFAAS_SERVER",
            "NANOFAAS_IO_THREADS",
            "NANOFAAS_LOG_LEVEL",
        ];
        assert_eq!(unknown(&settings, false), [""; 0]);
        let long = format!("NANOFAAS_{}", "x".repeat(100_000));
        assert!(unknown(&[&long], false)[0].len() < 200);
    }

    #[test]
    fn kubelet_service_variables_are_no_settings() {
        let links = [
            "NANOFAAS_PORT",
            "NANOFAAS_SERVICE_HOST",
            "NANOFAAS_MANAGEMENT_SERVICE_PORT_MANAGEMENT",
            "NANOFAAS_PORT_8080_TCP",
            "NANOFAAS_PORT_8080_TCP_ADDR",
        ];
        assert_eq!(unknown(&links, true), [""; 0]);
        assert_eq!(unknown(&links, false).len(), links.len());
    }
}
