//! This ledger has the executions as clients and pods see them: the body of each execution, the pods that
//! received it, and its end. It is not the ledger of the plane. It checks every received body against its
//! canary, and at the end the concurrency of every function. Pods and clients write the ledger. The ledger
//! sends nothing to the plane.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use nanofaas_testkit::wait::lock;

use crate::book::{At, Book};
use crate::canary::{Canary, Identity};
use crate::plan::name;
use crate::tally::Tally;

/// The number of the latest executions that clients may still ask about.
const RECENT: usize = 400;

/// A body that a pod received.
pub(crate) struct Receipt {
    pub(crate) identity: Identity,
    pub(crate) execution: String,
    pub(crate) attempt: u32,
    pub(crate) canary: Canary,
    pub(crate) mode: &'static str,
}

/// A call as its client knows it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) canary: Canary,
    pub(crate) from: At,
    pub(crate) raw: bool,
    /// The function and the idempotency key, joined by a slash.
    pub(crate) key: Option<String>,
}

/// An attempt in a scripted pod, from the end of the request to just before the answer.
struct AttemptSpan {
    attempt: u32,
    from: At,
    to: At,
}

#[derive(Default)]
struct Execution {
    sent: Option<Sent>,
    /// The time at which the client received the answer that accepted the call.
    accepted: Option<At>,
    cancelled: bool,
    /// The function and the life in which pods received the call.
    seen: Option<(usize, u64)>,
    spans: Vec<AttemptSpan>,
    /// The attempt that gave the execution its result.
    succeeded: Option<u32>,
    /// The number of attempts in which a pod closed the connection without an answer.
    losses: u32,
    /// The latest revision that was in force when a pod answered or the execution waited. The next attempt
    /// must not run under an older revision.
    next_floor: u64,
    /// The number of attempts when the plane accepted a cancel. No further attempt may start.
    attempts_max: Option<u32>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    executions: Mutex<HashMap<String, Execution>>,
    recent: Mutex<VecDeque<String>>,
    /// The time at which each idempotency key was first sent.
    keys: Mutex<HashMap<String, At>>,
    /// The execution that succeeded under each idempotency key.
    holders: Mutex<HashMap<String, String>>,
}

impl Ledger {
    /// Returns the time at which this key was first sent. Every execution under the key began later.
    pub(crate) fn first_use(&self, key: &str, now: At) -> At {
        *lock(&self.keys).entry(key.to_owned()).or_insert(now)
    }

    /// Records that an execution succeeded under this key. Until the function is removed, no other execution
    /// may succeed under the same key.
    pub(crate) fn hold(&self, key: &str, execution: &str) -> Result<(), String> {
        let mut holders = lock(&self.holders);
        let holder = holders
            .entry(key.to_owned())
            .or_insert_with(|| execution.to_owned());
        if holder == execution {
            return Ok(());
        }
        Err(format!(
            "key {key} gave two results: of {holder} and of {execution}"
        ))
    }

    /// Checks that the receipt's pod may receive this canary, in this attempt.
    pub(crate) fn receive(&self, receipt: &Receipt, book: &Book, tally: &Tally) {
        tally.count(&format!("received {}", receipt.mode));
        if receipt.attempt > 1 {
            tally.count("received again");
        }
        let Receipt {
            identity, canary, ..
        } = receipt;
        let (function, life) = (identity.function, identity.version.life);
        let describe = |what: &str| {
            let (pod, call) = (identity.path(), &canary.call);
            let (floor, attempt) = (canary.floor, receipt.attempt);
            let execution = &receipt.execution;
            format!(
                "{what}: pod {pod} received the body of call {call} to {} (sent at {floor:?}), \
                 attempt {attempt} of {execution}",
                name(canary.function)
            )
        };
        if function != canary.function {
            tally.wrong(describe("a body reached another function"));
            return;
        }
        if life < canary.floor.life {
            tally.wrong(describe("a body reached a removed registration"));
        }
        let is_replaced = identity.version.revision < canary.floor.revision;
        if receipt.mode == "POOL" && is_replaced {
            tally.wrong(describe("a body reached a replaced endpoint"));
        }
        let mut executions = lock(&self.executions);
        let known = executions.entry(receipt.execution.clone()).or_default();
        let first = *known.seen.get_or_insert((function, life));
        if first != (function, life) {
            let what = format!("an execution went from life {} to another", first.1);
            tally.wrong(describe(&what));
        }
        let before = known.accepted;
        let is_old = receipt.mode == "POOL" && identity.version.revision < known.next_floor;
        let losses = known.losses;
        let over = known
            .attempts_max
            .is_some_and(|most| receipt.attempt > most);
        drop(executions);
        if is_old {
            tally.wrong(describe(
                "an attempt under a specification that was replaced before",
            ));
        }
        // The second loss may count as a timeout of the attempt, so one more attempt is allowed after the
        // second loss.
        if losses > 2 {
            tally.wrong(describe(&format!("tried again after {losses} losses")));
        }
        if over {
            tally.wrong(describe("an attempt after a cancel was taken"));
        }
        if before.is_some_and(|accepted| book.began_after(function, life, accepted)) {
            tally.wrong(describe("accepted before this registration was sent"));
        }
        self.remember(&receipt.execution);
    }

    /// Records that a scripted pod is about to answer an attempt or to close the connection instead.
    pub(crate) fn answer(&self, receipt: &Receipt, from: At, book: &Book, closes: bool) {
        let (attempt, to) = (receipt.attempt, book.now());
        let floor = book.floor(receipt.identity.function).revision;
        let mut executions = lock(&self.executions);
        let known = executions.entry(receipt.execution.clone()).or_default();
        known.spans.push(AttemptSpan { attempt, from, to });
        known.losses += u32::from(closes);
        known.next_floor = known.next_floor.max(floor);
    }

    /// Records that the plane accepted a call that continues without its client.
    pub(crate) fn accept(&self, execution: &str, sent: &Sent, now: At) {
        let mut executions = lock(&self.executions);
        let known = executions.entry(execution.to_owned()).or_default();
        known.accepted.get_or_insert(now);
        // A call that repeats a key joins the execution of another call. The client of the other call may
        // have recorded the execution already.
        known.sent.get_or_insert_with(|| sent.clone());
        drop(executions);
        self.remember(execution);
    }

    pub(crate) fn succeed(&self, execution: &str, attempt: u32) {
        let mut executions = lock(&self.executions);
        let known = executions.entry(execution.to_owned()).or_default();
        known.succeeded = Some(attempt);
    }

    pub(crate) fn cancel(&self, execution: &str) {
        let mut executions = lock(&self.executions);
        let known = executions.entry(execution.to_owned()).or_default();
        known.cancelled = true;
    }

    /// Records that the execution waited while this revision was in force. The next attempt must not run
    /// under an older revision.
    pub(crate) fn waited(&self, execution: &str, floor: u64) {
        let mut executions = lock(&self.executions);
        let known = executions.entry(execution.to_owned()).or_default();
        known.next_floor = known.next_floor.max(floor);
    }

    /// Returns the latest executions of a function that continue without their clients.
    pub(crate) fn latest_of(&self, function: usize, count: usize) -> Vec<String> {
        let recent = lock(&self.recent).clone();
        let is_of = |id: &&String| {
            let sent = self.sent(id);
            sent.is_some_and(|sent| sent.canary.function == function)
        };
        recent
            .iter()
            .rev()
            .filter(is_of)
            .take(count)
            .cloned()
            .collect()
    }

    /// Records that the plane accepted a cancel when the execution had at most this many attempts.
    pub(crate) fn stop_at(&self, execution: &str, attempts: u32) {
        let mut executions = lock(&self.executions);
        let known = executions.entry(execution.to_owned()).or_default();
        known.attempts_max.get_or_insert(attempts);
    }

    pub(crate) fn allows(&self, execution: &str, attempts: u32) -> bool {
        let executions = lock(&self.executions);
        let most = executions
            .get(execution)
            .and_then(|known| known.attempts_max);
        most.is_none_or(|most| attempts <= most)
    }

    pub(crate) fn is_cancelled(&self, execution: &str) -> bool {
        let executions = lock(&self.executions);
        executions
            .get(execution)
            .is_some_and(|known| known.cancelled)
    }

    /// Returns the call as its client sent it, or `None` if the plane need not keep the execution's record.
    pub(crate) fn sent(&self, execution: &str) -> Option<Sent> {
        lock(&self.executions).get(execution)?.sent.clone()
    }

    fn remember(&self, execution: &str) {
        let mut recent = lock(&self.recent);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(execution.to_owned());
    }

    /// Returns the execution that became known `back` executions before the last one.
    pub(crate) fn back(&self, back: u64) -> Option<String> {
        let recent = lock(&self.recent);
        let at = recent.len().checked_sub(1 + back as usize)?;
        recent.get(at).cloned()
    }

    pub(crate) fn all(&self) -> Vec<String> {
        lock(&self.executions).keys().cloned().collect()
    }

    /// Checks that no function ran more calls in its scripted pods at the same time than its concurrency.
    /// Only an attempt that gave its execution the result is known to have held a slot during its whole span,
    /// so the other attempts do not count.
    pub(crate) fn check_concurrency(&self, book: &Book, tally: &Tally) {
        let mut edges: HashMap<(usize, u64), Vec<(At, i64)>> = HashMap::new();
        for known in lock(&self.executions).values() {
            let Some(place) = known.seen else { continue };
            for span in &known.spans {
                if known.succeeded == Some(span.attempt) {
                    let list = edges.entry(place).or_default();
                    list.extend([(span.from, 1), (span.to, -1)]);
                }
            }
        }
        for ((function, life), mut list) in edges {
            // At equal times, -1 sorts before 1. A call that ends therefore does not overlap with one that
            // starts at the same time.
            list.sort_unstable();
            let running = list.iter().scan(0, |sum, (_, step)| {
                *sum += step;
                Some(*sum)
            });
            let most = running.max().unwrap_or(0);
            let limit = book.concurrency_max(function, life);
            if most > i64::try_from(limit).expect("a small number") {
                let name = name(function);
                tally.wrong(format!(
                    "{name} in its life {life} ran {most} calls at once, its concurrency was {limit}"
                ));
            }
        }
    }
}
