//! Decides whether the contract allows an outcome. The decision follows from what the call asked of its pod,
//! from the possible states of its function, and from cancels. An outcome that these do not explain is wrong.
//! This module sends nothing to the plane; `clients` passes it what the plane answered.

use serde_json::Value;

use crate::book::Possible;
use crate::canary::Identity;
use crate::ledger::Sent;
use crate::plan::Act;

/// The end of an execution, from its answer or its status.
#[derive(Debug)]
pub(crate) struct ReportedOutcome<'a> {
    pub(crate) state: &'a str,
    pub(crate) code: &'a str,
    pub(crate) message: &'a str,
}

pub(crate) fn http_status(code: &str) -> u16 {
    match code {
        "" => 200,
        "POD_LOST" | "POD_UNREACHABLE" | "BAD_OUTPUT" | "OUTPUT_TOO_LARGE" => 502,
        "COLD_START_FAILED" => 503,
        "TIMEOUT" => 408,
        "CANCELLED" => 409,
        "FUNCTION_REMOVED" => 410,
        _ => 500,
    }
}

/// Checks that the contract allows this failure. Returns the reason if it does not.
pub(crate) fn failure(
    sent: &Sent,
    possible: &Possible,
    cancelled: bool,
    outcome: &ReportedOutcome<'_>,
) -> Result<(), String> {
    let canary = &sent.canary;
    let timed_out = outcome.state == "timeout";
    let allowed = match outcome.code {
        "TIMEOUT" => timed_out,
        _ if timed_out => false,
        "CANCELLED" => cancelled,
        "FUNCTION_REMOVED" => possible.removed,
        "CHAOS" => canary.has(&[Act::Fail]) && outcome.message == canary.call,
        "POD_LOST" => {
            possible.process() || possible.rude || canary.has(&[Act::Die, Act::Reset, Act::Half])
        }
        "BAD_OUTPUT" => canary.has(&[Act::Garbage, Act::Half]),
        "POD_UNREACHABLE" => possible.warm || possible.closed || canary.has(&[Act::NotStarted]),
        "COLD_START_FAILED" => possible.process(),
        // The plane reads the number of OOM kills in this machine's cgroup, which counts other processes,
        // too. Any killed process may therefore be reported as OOM.
        "OOM" => possible.process(),
        _ => false,
    };
    if allowed {
        return Ok(());
    }
    Err(format!(
        "{outcome:?} is not allowed: {canary:?}, {possible:?}, cancelled: {cancelled}"
    ))
}

/// Checks that the output is the call's own. Returns the attempt that made it, or `None` for LOCAL.
pub(crate) fn output(
    sent: &Sent,
    possible: &Possible,
    output: &Value,
) -> Result<Option<u32>, String> {
    let canary = &sent.canary;
    let body = canary.to_json();
    let short = || output.to_string().chars().take(300).collect::<String>();
    if *output == body {
        let local = possible.local.then_some(None);
        return local.ok_or_else(|| format!("an echo of LOCAL for {canary:?}, {possible:?}"));
    }
    if output["echo"] != body {
        let call = &canary.call;
        return Err(format!(
            "call {call} got another call's output: {}",
            short()
        ));
    }
    let identity = output["by"].as_str().and_then(Identity::parse);
    let attempt = output["attempt"]
        .as_u64()
        .and_then(|count| u32::try_from(count).ok());
    let (Some(identity), Some(attempt)) = (identity, attempt) else {
        return Err(format!("an output of no pod: {}", short()));
    };
    if identity.function != canary.function || identity.version.life < canary.floor.life {
        return Err(format!(
            "call {canary:?} was answered by {}",
            identity.path()
        ));
    }
    if !(possible.process() || possible.pool) {
        return Err(format!("a pod's output for {canary:?}, {possible:?}"));
    }
    if matches!(canary.act(attempt), Act::Fail) {
        return Err(format!(
            "attempt {attempt} of {canary:?} cannot have succeeded"
        ));
    }
    Ok(Some(attempt))
}
