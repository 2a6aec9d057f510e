//! Ends the process. After a signal, the process refuses new calls and lets running calls go on for the time
//! of the drain. Then the threads stop in the order of their dependencies. If an io thread or the scheduler
//! has ended, there is no drain.

use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nanofaas_core::message::Message;
use nanofaas_core::post::IoPost;

use super::{STOP_GRACE, Serving};
use crate::signals::MainEvent;

const BRIDGE: &str = "the bridge";
const POLL: Duration = Duration::from_millis(10);
/// How long a send to an io thread's full inbox is retried, and how long a thread may take to finish after it
/// has sent `End`.
const SEND_MAX: Duration = Duration::from_secs(5);
/// The time limit for io threads, after `Stop`, to answer the calls that are left.
const IO_STOP_MAX: Duration = Duration::from_secs(10);
/// The time limit for the bridge to end the function processes, in addition to their `STOP_GRACE`.
const BRIDGE_STOP_MAX: Duration = Duration::from_secs(10);

impl Serving {
    pub(super) fn until_stopped(mut self) -> ExitCode {
        let signal = loop {
            match self.signals.events.recv() {
                Ok(MainEvent::Signal(name)) => break name,
                Ok(MainEvent::End) => {}
                Err(_) => break "nobody left to hear signals",
            }
            // A thread sends `End` just before it is finished.
            wait(SEND_MAX, || self.who_ended().is_some());
            if let Some(what) = self.who_ended() {
                tracing::error!("{what} ended by itself; the process stops");
                if what == BRIDGE {
                    // Calls can go on without the bridge for a while, so let them end.
                    self.drain();
                }
                self.stop();
                return ExitCode::from(1);
            }
        };
        tracing::info!(
            drainMs = self.config.drain_ms,
            "{signal}: no new calls are taken"
        );
        self.drain();
        self.stop();
        ExitCode::SUCCESS
    }

    fn who_ended(&self) -> Option<&'static str> {
        if self.io.threads.iter().any(|thread| thread.is_finished()) {
            Some("an io thread")
        } else if self
            .scheduler
            .as_ref()
            .is_some_and(|thread| thread.is_finished())
        {
            Some("the scheduler")
        } else if self.bridge.is_finished() {
            Some(BRIDGE)
        } else {
            None
        }
    }

    pub(super) fn send_to_all(&self, message: fn() -> Message) {
        for post in &self.io_posts {
            if !send(post, message) {
                tracing::error!("an io thread does not take messages");
            }
        }
    }

    /// Refuses new calls, and waits until every accepted call has ended or the time of the drain has passed.
    fn drain(&self) {
        // Set this first, because the process must not count as ready while it refuses calls.
        self.health.draining.store(true, Relaxed);
        self.send_to_all(|| Message::Drain);
        let began = Instant::now();
        let longest = Duration::from_millis(self.config.drain_ms);
        // A call may be accepted just before its io thread receives `Drain`, so one check is not enough.
        let mut quiet = 0;
        while quiet < 3 && began.elapsed() < longest {
            quiet = if self.unfinished() == 0 { quiet + 1 } else { 0 };
            sleep(POLL.min(longest.saturating_sub(began.elapsed())));
        }
        let left = self.unfinished();
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            tracing::info!(ms, "every call has ended");
        } else {
            tracing::warn!(ms, left, "calls are left and end as SHUTDOWN");
        }
    }

    fn unfinished(&self) -> u64 {
        let ledgers = self.health.ledgers.iter();
        // If a call ends between the two reads, the result may be too high but not too low.
        let of = ledgers.map(|ledger| {
            let finished = ledger.finished.get();
            ledger.accepted.get().saturating_sub(finished)
        });
        of.sum()
    }

    /// Stops the io threads first, because they answer the calls, and then the scheduler, which they use. The
    /// bridge is last, because it ends the processes in which calls ran.
    fn stop(&mut self) {
        self.send_to_all(|| Message::Stop);
        let io = std::mem::take(&mut self.io.threads);
        let all_ended = wait(IO_STOP_MAX, || io.iter().all(|thread| thread.is_finished()));
        if !all_ended {
            tracing::error!("an io thread does not end");
        } else if let Some(scheduler) = self.scheduler.take() {
            scheduler.stop();
        }
        self.bridge.stop();
        if !wait(STOP_GRACE + BRIDGE_STOP_MAX, || self.bridge.is_finished()) {
            tracing::error!("the bridge does not end; the guard ends what it leaves");
        }
        tracing::info!("nanofaas has stopped");
    }
}

fn send(post: &IoPost, message: fn() -> Message) -> bool {
    wait(SEND_MAX, || post.send(message()).is_ok())
}

/// Waits until `done` returns true. Returns false if `longest` passes before that.
fn wait(longest: Duration, mut done: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + longest;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        sleep(POLL);
    }
}
