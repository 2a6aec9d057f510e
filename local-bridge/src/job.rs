//! Runs one attempt of a call of a JOB function as one process, which posts its result to the control plane
//! (contract §3.2). The io thread that owns the call receives the result and sends `JobStop` when the attempt
//! is over. This module does not see the result.

use std::time::Duration;

use nanofaas_backend::job::{FORGOTTEN, JobAttempt, JobTable};
use nanofaas_core::cold_start::Phase;
use nanofaas_core::outcome::ExecutionError;
use tokio::time::Instant;

use crate::context::LocalContext;
use crate::guard::link::ProcessEnd;
use crate::process::program::FunctionProgram;
use crate::process::{self, Process, drain_output, forget_pipes};

/// How long the process may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(2);
/// How long a task waits for `JobStop` after its process exited with status 0. The io thread may report the
/// result a little later than the guard reports the exit.
const REPORT_BEHIND: Duration = Duration::from_millis(200);

/// The Jobs that have a task.
pub(crate) type LocalJobs = JobTable<JobAttempt>;

/// How a Job failed, and whether the OOM killer ended it. None if the io thread reported that the attempt is
/// over.
type JobEnd = Option<(ExecutionError, bool)>;

/// Runs the Job to its end. It announces every step except the end; for that, the caller passes the result to
/// `announce_end`.
pub(crate) async fn live(job: &JobAttempt, context: &LocalContext) -> JobEnd {
    let (function, announcer) = (job.start.function.name(), &context.announcer);
    let now = announcer.now();
    announcer.begin(function, &job.name, now);
    run(job, context).await
}

/// Records the start times that the runtime reported, and announces the failure, if there is one. The Job
/// must no longer be in its table.
pub(crate) fn announce_end(job: &JobAttempt, context: &LocalContext, ended: JobEnd) {
    let (function, announcer) = (job.start.function.name(), &context.announcer);
    if let Some(timestamps) = job.timestamps() {
        announcer.with_work_queue(|queue| {
            queue
                .starts
                .apply_timestamps(function, &job.name, timestamps)
        });
    }
    let Some((failure, oom)) = ended else { return };
    let (id, attempt) = (&job.start.execution_id, job.start.attempt);
    let why = failure.message();
    tracing::warn!(%function, executionId = %id, attempt, "the call's process is gone: {why}");
    announcer.job_ended(&job.start, &job.name, failure, oom);
}

async fn run(job: &JobAttempt, context: &LocalContext) -> JobEnd {
    let (link, run_dir) = (&context.link, &context.run_dir);
    let id = link.next_id();
    let function = job.start.function.name();
    let mut program = FunctionProgram::of(&job.start.function, job.name.clone());
    for (name, value) in job.env(&context.config.callback_base) {
        program.set(name, value);
    }
    let started = process::start(link, run_dir, function, id, program, job.bell.clone());
    let mut process = match started {
        Ok(process) => process,
        Err(error) => {
            forget_pipes(run_dir, id);
            let why = format!("cannot make its pipes: {error}");
            return Some((ExecutionError::ColdStart(why.into()), false));
        }
    };
    let left = Duration::from_millis(job.start.deadline_ms);
    let deadline = Instant::now() + left + FORGOTTEN;
    let over = running(job, context, &process, deadline).await;
    forget_pipes(run_dir, id);
    match over {
        ProcessOutcome::Stopped => {
            end(process).await;
            return None;
        }
        ProcessOutcome::Forgotten => process.kill().await,
        ProcessOutcome::Ended
            if process.ended_well() && job.is_stopped_within(REPORT_BEHIND).await =>
        {
            return None;
        }
        ProcessOutcome::Ended => {}
    }
    let why = why(context, process).await;
    (!job.is_stopped()).then_some(why)
}

async fn running(
    job: &JobAttempt,
    context: &LocalContext,
    process: &Process,
    deadline: Instant,
) -> ProcessOutcome {
    let mut was_running = false;
    loop {
        if process.is_started() && !std::mem::replace(&mut was_running, true) {
            let announcer = &context.announcer;
            announcer.reached(&job.start.function, &job.name, Phase::Spawned);
            let running_since = Some(announcer.now());
            announcer.job_starting(&job.start, &job.name, running_since, None);
        }
        if job.is_stopped() {
            return ProcessOutcome::Stopped;
        }
        if process.end().is_some() {
            return ProcessOutcome::Ended;
        }
        if !job.rung_before(deadline).await {
            return ProcessOutcome::Forgotten;
        }
    }
}

enum ProcessOutcome {
    /// The io thread reported that the attempt is over.
    Stopped,
    Ended,
    Forgotten,
}

async fn end(mut process: Process) {
    if process.end().is_none() {
        process.terminate();
        if !process.ended_before(Instant::now() + STOP).await {
            process.kill().await;
        }
    }
    drain_output(process);
}

/// Returns why the process gave no result, and whether the OOM killer ended it.
async fn why(context: &LocalContext, mut process: Process) -> (ExecutionError, bool) {
    if let Some(ProcessEnd::NotStarted { message, .. }) = process.end() {
        return (ExecutionError::ColdStart(message.into()), false);
    }
    let oom = process.fell_to_sigkill() && context.oom.is_guilty();
    let how = format!("the call's process gave no result: {}", process.how());
    (
        ExecutionError::PodLost(process.with_last_output(how).await),
        oom,
    )
}
