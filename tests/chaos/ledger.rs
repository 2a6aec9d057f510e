//! Executions, as far as clients and pods know them: what each was sent, which pods saw it, and how
//! it ended. It holds every receipt of a body against what its canary says, and at the end every
//! execution against the concurrency of its function. It asks the plane nothing. Pods and clients
//! write it.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use crate::book::{At, Book};
use crate::canary::{Canary, Identity};
use crate::plan::name;
use crate::plane::lock;
use crate::tally::Tally;

/// Executions that a client may still ask for by their age.
const RECENT: usize = 400;

/// A body that reached a pod.
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
    /// Its function and idempotency key.
    pub(crate) key: Option<String>,
}

/// An attempt in a scripted pod: from the whole request to before its answer.
struct Span {
    attempt: u32,
    from: At,
    to: At,
}

#[derive(Default)]
struct Execution {
    sent: Option<Sent>,
    /// When its client was told that it is accepted.
    accepted: Option<At>,
    cancelled: bool,
    /// The function and its life in which pods saw it.
    seen: Option<(usize, u64)>,
    spans: Vec<Span>,
    /// The attempt whose answer became its result.
    succeeded: Option<u32>,
    /// Attempts in which a peer closed in place of an answer.
    losses: u32,
    /// What held when the last peer answered: the next attempt is under no older specification.
    next_floor: u64,
    /// How many attempts it had when its cancel had been taken: there is no further one.
    attempts_max: Option<u32>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    executions: Mutex<HashMap<String, Execution>>,
    recent: Mutex<VecDeque<String>>,
    /// When an idempotency key was sent first.
    keys: Mutex<HashMap<String, At>>,
    /// The execution that succeeded under an idempotency key.
    holders: Mutex<HashMap<String, String>>,
}

impl Ledger {
    /// When this key was sent first; an execution that holds it is not older.
    pub(crate) fn first_use(&self, key: &str, now: At) -> At {
        *lock(&self.keys).entry(key.to_owned()).or_insert(now)
    }

    /// An execution succeeded under this key, and its function was not removed since the key was
    /// sent first: no other execution may.
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

    /// Holds a receipt against its canary.
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
        // One is allowed, and one more may have been the end of the attempt's time.
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

    /// A scripted pod is about to answer an attempt, or to close in place of an answer.
    pub(crate) fn answer(&self, receipt: &Receipt, from: At, book: &Book, closes: bool) {
        let (attempt, to) = (receipt.attempt, book.now());
        let floor = book.floor(receipt.identity.function).revision;
        let mut executions = lock(&self.executions);
        let known = executions.entry(receipt.execution.clone()).or_default();
        known.spans.push(Span { attempt, from, to });
        known.losses += u32::from(closes);
        known.next_floor = known.next_floor.max(floor);
    }

    /// The plane accepted a call that goes on without its client.
    pub(crate) fn accept(&self, execution: &str, sent: &Sent, now: At) {
        let mut executions = lock(&self.executions);
        let known = executions.entry(execution.to_owned()).or_default();
        known.accepted.get_or_insert(now);
        // Who repeats a key joins an execution that another one sent, perhaps before.
        known.sent.get_or_insert_with(|| sent.clone());
        drop(executions);
        self.remember(execution);
    }

    /// The attempt gave the execution its result.
    pub(crate) fn succeed(&self, execution: &str, attempt: u32) {
        let mut executions = lock(&self.executions);
        let known = executions.entry(execution.to_owned()).or_default();
        known.succeeded = Some(attempt);
    }

    /// A client is about to cancel it.
    pub(crate) fn cancel(&self, execution: &str) {
        let mut executions = lock(&self.executions);
        let known = executions.entry(execution.to_owned()).or_default();
        known.cancelled = true;
    }

    /// It waited when this was the floor: what runs next is under no older specification.
    pub(crate) fn waited(&self, execution: &str, floor: u64) {
        let mut executions = lock(&self.executions);
        let known = executions.entry(execution.to_owned()).or_default();
        known.next_floor = known.next_floor.max(floor);
    }

    /// The latest of a function's executions that go on without their clients.
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

    /// Its cancel was taken before it was seen to have so many attempts.
    pub(crate) fn stop_at(&self, execution: &str, attempts: u32) {
        let mut executions = lock(&self.executions);
        let known = executions.entry(execution.to_owned()).or_default();
        known.attempts_max.get_or_insert(attempts);
    }

    /// Whether it may have so many attempts.
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

    /// What the execution was sent, where its record is kept whatever happens.
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

    /// The execution that became known so many executions ago.
    pub(crate) fn back(&self, back: u64) -> Option<String> {
        let recent = lock(&self.recent);
        let at = recent.len().checked_sub(1 + back as usize)?;
        recent.get(at).cloned()
    }

    pub(crate) fn all(&self) -> Vec<String> {
        lock(&self.executions).keys().cloned().collect()
    }

    /// No function ever had more calls in its pods than its concurrency. Only attempts that gave
    /// their execution its result count: those held a slot from before the pod got them until after
    /// it answered.
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
            // An end and a begin at the same moment do not overlap: -1 sorts first.
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
