//! One attempt of a JOB call: one process, which posts its result by itself (contract §3.2).
//! It never learns the result; the io thread that owns the call does, and says when it is over.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use nanofaas_core::cold_start::Phase;
use nanofaas_core::message::{JobStart, Message, ReadyStamps};
use nanofaas_core::outcome::Failure;
use nanofaas_core::ticket::CallRef;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::context::LocalContext;
use crate::guard::link::End;
use crate::process::program::Program;
use crate::process::{self, Process, drain_output, forget_pipes, rung_before};

/// How long the process of an attempt that is over may take to end by itself.
const STOP: Duration = Duration::from_secs(2);
/// How far the io thread's word may be behind the end of a process that exited with status 0.
const WORD_BEHIND: Duration = Duration::from_millis(200);
/// The io thread ends a call at its deadline; a process that is older by this much was forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Which attempt.
pub(crate) type JobKey = (CallRef, u32);

/// A Job as seen by all tasks but its own.
pub(crate) struct Job {
    /// Its process, as pods are named.
    name: String,
    bell: Rc<Notify>,
    stop: Cell<bool>,
    stamps: Cell<Option<ReadyStamps>>,
}

/// All Jobs that run.
pub(crate) type Jobs = HashMap<JobKey, Rc<Job>>;

impl Job {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            bell: Rc::new(Notify::new()),
            stop: Cell::new(false),
            stamps: Cell::new(None),
        }
    }

    /// Called when the attempt is over. `stamps` are the start times that its runtime reported, if
    /// any.
    pub(crate) fn stop(&self, stamps: Option<ReadyStamps>) {
        self.stamps.set(stamps);
        self.stop.set(true);
        self.bell.notify_one();
    }

    /// Runs the Job from its start to its end and reports each step but the last one, which the
    /// caller passes to `tell_end`.
    pub(crate) async fn live(
        &self,
        context: &Rc<LocalContext>,
        start: &JobStart,
    ) -> Option<(Failure, bool)> {
        let function = start.function.name();
        let now = context.now();
        context.say(|desk| desk.starts.begin(function, &self.name, now));
        self.run(context, start).await
    }

    /// Reports how it ended, once it is in no table any more.
    pub(crate) fn tell_end(
        &self,
        context: &LocalContext,
        start: &JobStart,
        ended: Option<(Failure, bool)>,
    ) {
        let function = start.function.name();
        if let Some(stamps) = self.stamps.get() {
            context.say(|desk| desk.starts.stamped(function, &self.name, stamps));
        }
        let Some((failure, oom)) = ended else { return };
        let (call, attempt) = (start.call, start.attempt);
        let (id, why) = (&start.execution_id, failure.message());
        tracing::warn!(%function, executionId = %id, attempt, "the call's process is gone: {why}");
        context.say(|desk| {
            if let Failure::ColdStart(why) = &failure {
                desk.starts.failed(function, &self.name, why.clone());
            }
            let ended = Message::JobEnded {
                call,
                attempt,
                failure,
                oom,
            };
            desk.tell(call.thread, ended);
        });
    }

    /// Runs the attempt; returns the failure, or none if the attempt was over before its process.
    async fn run(&self, context: &Rc<LocalContext>, start: &JobStart) -> Option<(Failure, bool)> {
        let (link, run_dir) = (&context.link, &context.run_dir);
        let id = link.next_id();
        let function = start.function.name();
        let program = program(start, self.name.clone(), &context.config.callback_base);
        let started = process::start(link, run_dir, function, id, program, self.bell.clone());
        let mut process = match started {
            Ok(process) => process,
            Err(error) => {
                forget_pipes(run_dir, id);
                let why = format!("cannot make its pipes: {error}");
                return Some((Failure::ColdStart(why.into()), false));
            }
        };
        let left = Duration::from_millis(start.deadline_ms);
        let deadline = Instant::now() + left + FORGOTTEN;
        let running = self.running(context, start, &process, deadline).await;
        forget_pipes(run_dir, id);
        if let Over::Stopped = running {
            end(process).await;
            return None;
        }
        if let Over::Forgotten = running {
            process.kill().await;
        } else if process.ended_well() && self.is_stopped_soon().await {
            return None;
        }
        let why = why(context, process).await;
        (!self.stop.get()).then_some(why)
    }

    /// Whether the io thread's word that the result came follows within `WORD_BEHIND`, because it
    /// may arrive a little after the end of the process.
    async fn is_stopped_soon(&self) -> bool {
        let deadline = Instant::now() + WORD_BEHIND;
        while !self.stop.get() && rung_before(&self.bell, Some(deadline)).await {}
        self.stop.get()
    }

    async fn running(
        &self,
        context: &LocalContext,
        start: &JobStart,
        process: &Process,
        deadline: Instant,
    ) -> Over {
        let mut was_told = false;
        loop {
            if process.is_started() && !was_told {
                was_told = true;
                let (call, attempt, at) = (start.call, start.attempt, context.now());
                let function = start.function.name();
                context.say(|desk| {
                    let starts = &mut desk.starts;
                    starts.reached(function, &self.name, Phase::Spawned, at);
                    let started = Message::JobStarting {
                        call,
                        attempt,
                        running_since: Some(at),
                        start: starts.phases(function, &self.name),
                        held_up: None,
                    };
                    desk.tell(call.thread, started);
                });
            }
            if self.stop.get() {
                return Over::Stopped;
            }
            if process.end().is_some() {
                return Over::Ended;
            }
            if !rung_before(&self.bell, Some(deadline)).await {
                return Over::Forgotten;
            }
        }
    }
}

enum Over {
    /// The io thread said that the attempt is over.
    Stopped,
    Ended,
    Forgotten,
}

/// Ends the process of an attempt that is over.
async fn end(mut process: Process) {
    if process.end().is_none() {
        process.terminate();
        if !process.ended_before(Instant::now() + STOP).await {
            process.kill().await;
        }
    }
    drain_output(process);
}

async fn why(context: &LocalContext, mut process: Process) -> (Failure, bool) {
    if let Some(End::NotStarted { message, .. }) = process.end() {
        return (Failure::ColdStart(message.into()), false);
    }
    let oom = process.fell_to_sigkill() && context.oom.is_guilty();
    let how = format!("the call's process gave no result: {}", process.how());
    (Failure::PodLost(process.with_last_words(how).await), oom)
}

fn program(start: &JobStart, name: String, callback_base: &str) -> Program {
    let mut program = Program::of(&start.function, name);
    let callback = format!("{callback_base}/v1/internal/{}/executions", start.token);
    let timeout_ms = u64::from(start.function.spec.timeout_ms).min(start.deadline_ms);
    program.set("EXECUTION_ID", &*start.execution_id);
    program.set("DISPATCH_ATTEMPT", start.attempt.to_string());
    if let Some(trace_id) = &start.trace_id {
        program.set("TRACE_ID", &**trace_id);
    }
    program.set("TIMEOUT_MS", start.deadline_ms.to_string());
    program.set("INVOCATION_TIMEOUT_MS", timeout_ms.to_string());
    match &start.payload {
        Some(payload) => program.set("INVOCATION_PAYLOAD", &**payload),
        None => {
            let url = format!("{callback}/{}/input", start.execution_id);
            program.set("INVOCATION_PAYLOAD_URL", url);
        }
    }
    program.set("CALLBACK_URL", callback);
    program
}
