//! Every bound of the process with its reason, and assertions that the bounds fit each other. Every queue or
//! table of fixed size takes its size from here. What an operator can change is in the process's
//! configuration instead.

use crate::time::Nanos;

/// Most io threads: more than the cores that one process has on any expected machine.
pub const IO_THREADS_MAX: usize = 64;

/// Calls that one io thread may hold at once. This is enough for the largest `queueSize` (10,000) and
/// `concurrency` (1,024) of one function, and for 64 MiB of `--inflight-bytes` at 1 KiB a call.
pub const CALLS_PER_IO_THREAD_MAX: usize = 16_384;

/// Functions registered at once: 10,000, and space to replace some of them.
pub const FUNCTIONS_MAX: usize = 16_384;

/// Pods at once, over all functions.
pub const PODS_MAX: usize = 16_384;

/// Tickets of one function between two turns. A full mailbox refuses the call with the reason `depth`.
pub const LANE_RING_DEPTH: usize = 256;

/// Grants for one io thread. All calls that it holds may be granted at once, so the scheduler never waits for
/// room.
pub const GRANTS_DEPTH: usize = CALLS_PER_IO_THREAD_MAX;

/// Places in an io thread's ring of messages from the bridge; its ring of messages from the other io threads
/// has the same number. If there is no room, a question of an io thread is refused with 503; a message that
/// must arrive waits at its sender.
pub const MESSAGES_DEPTH: usize = 1024;

/// Most unanswered questions of one io thread to the other io threads; a second limit of the same number
/// applies to its questions to the bridge. Further questions are refused with 503.
pub const QUESTIONS_MAX: usize = 512;

/// Answers of other io threads on their way to one io thread. Each question has a place for its answer,
/// because a lost answer would leave its client waiting, or its key claimed.
pub const ANSWERS_DEPTH: usize = QUESTIONS_MAX;

/// Places in the scheduler's event ring for each io thread. Before a turn reads the ring, each call's entry
/// may send the end of one attempt and, when the entry is reused at once, the end of the next attempt.
pub const EVENTS_PER_IO_THREAD: usize = CALLS_PER_IO_THREAD_MAX * 2;

/// Places in the same event ring for the bridge: each pod may come up and go down between two turns.
pub const EVENTS_FROM_BRIDGE: usize = PODS_MAX * 2;

/// Orders to the bridge: a start and a stop for each pod. Clients' requests use the same ring; a request is
/// refused when the ring is full.
pub const ORDERS_DEPTH: usize = PODS_MAX * 2;

/// Messages that the bridge keeps for full rings before it accepts no more requests. The bridge's reports
/// about pods are kept in addition; `PODS_MAX` bounds them.
pub const WORK_QUEUE_BACKLOG: usize = 8192;

/// Grants of one turn. The remaining tickets are granted after the loop has handled I/O.
pub const GRANTS_PER_TURN: usize = 256;

/// Grants in a row for one lane, so that a busy function does not delay other functions for long.
pub const GRANTS_PER_LANE: usize = 8;

/// One grant in this many is kept for async calls while sync calls wait.
pub const ASYNC_SHARE: u32 = 8;

/// Failed starts in a row that count as a crash loop.
pub const CRASH_LOOP_STARTS: u32 = 3;

/// The wait after the first failed start. It doubles with each failure up to `START_BACKOFF_MAX`.
pub const START_BACKOFF: Nanos = Nanos::from_ms(100);
pub const START_BACKOFF_MAX: Nanos = Nanos::from_s(60);

/// The charge of a call besides its body, for everything else that it holds.
pub const CALL_OVERHEAD_BYTES: usize = 1024;

/// Finished plain sync calls that an io thread remembers, without their outputs.
pub const SYNC_RECORDS: u16 = 4096;

/// Most levels of nesting in the JSON of a body.
pub const JSON_DEPTH: usize = 128;

/// The largest head of a request or an answer: the first line and the headers.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The longest `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_MAX: usize = 255;

/// The longest `?waitMs` of a status query.
pub const WAIT_MS_MAX: u64 = 60_000;

/// Cold starts remembered for each function.
pub const COLD_STARTS_KEPT: usize = 32;

const _: () = assert!(GRANTS_DEPTH >= CALLS_PER_IO_THREAD_MAX);
const _: () = assert!(ANSWERS_DEPTH >= QUESTIONS_MAX && ANSWERS_DEPTH.is_power_of_two());
const _: () = assert!(EVENTS_PER_IO_THREAD >= 2 * CALLS_PER_IO_THREAD_MAX);
const _: () = assert!(CALLS_PER_IO_THREAD_MAX >= 10_000 + 1_024);
const _: () = assert!(GRANTS_PER_TURN >= GRANTS_PER_LANE);
const _: () = assert!(LANE_RING_DEPTH.is_power_of_two() && GRANTS_DEPTH.is_power_of_two());
const _: () = assert!(ORDERS_DEPTH >= 2 * PODS_MAX);
const _: () = assert!(CALLS_PER_IO_THREAD_MAX <= u32::MAX as usize);
