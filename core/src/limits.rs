//! Every bound of the process, each with its reason, and the proofs that they fit each other.
//! It never reads a setting: what an operator may change is in the process's configuration.
//! Everybody who makes a queue or a table of fixed size reads it from here.

use crate::time::Nanos;

/// More io threads than any machine here has cores for one process.
pub const IO_THREADS_MAX: usize = 64;

/// Calls that one io thread may hold at once. The largest `queueSize` (10,000) and the largest
/// `concurrency` (1,024) of one function fit, and 64 MiB of `--inflight-bytes` at 1 KiB a call.
pub const CALLS_PER_IO_THREAD_MAX: usize = 16_384;

/// Functions registered at once: 10,000 and room to replace some of them.
pub const FUNCTIONS_MAX: usize = 16_384;

/// Pods at once, over all functions.
pub const PODS_MAX: usize = 16_384;

/// Tickets between two turns for one function; a full mailbox is a refusal like `depth`.
pub const LANE_RING_DEPTH: usize = 256;

/// Grants for one io thread: every call that it holds may be granted at once, so the scheduler
/// never has to wait for room.
pub const GRANTS_DEPTH: usize = CALLS_PER_IO_THREAD_MAX;

/// Messages to one io thread from the bridge, and as many from its peers. Where there is no room, a
/// peer's question is refused with 503, and what must arrive waits at its sender.
pub const MESSAGES_DEPTH: usize = 1024;

/// Questions of one io thread to its peers that have no answer yet, and as many to the bridge; more
/// are refused with 503.
pub const QUESTIONS_MAX: usize = 512;

/// Answers of peers on their way to one io thread: each question has a place for its answer, because
/// an answer that is lost would leave its client waiting, or its key held.
pub const ANSWERS_DEPTH: usize = QUESTIONS_MAX;

/// Places in the scheduler's event ring for each io thread: an entry may have the end of one
/// attempt and, reused at once, the end of the next in flight before a turn looks.
pub const EVENTS_PER_IO_THREAD: usize = CALLS_PER_IO_THREAD_MAX * 2;

/// Places in that ring for the bridge: each pod may come up and go down between two turns.
pub const EVENTS_FROM_BRIDGE: usize = PODS_MAX * 2;

/// Orders to the bridge: a start and a stop for each pod; requests of clients are refused first.
pub const ORDERS_DEPTH: usize = PODS_MAX * 2;

/// What the bridge holds for full rings before it takes no more requests in. What it has to say of
/// pods comes on top, and is bounded by `PODS_MAX`.
pub const DESK_BACKLOG: usize = 8192;

/// Grants of one turn; what is left comes back after the loop has looked at I/O.
pub const GRANTS_PER_TURN: usize = 256;

/// Grants in a row for one lane, so that a busy function delays no other for long.
pub const GRANTS_PER_LANE: usize = 8;

/// One grant in so many is kept for async calls while sync ones wait.
pub const ASYNC_SHARE: u32 = 8;

/// Starts that fail one after the other before it is called a crash loop.
pub const CRASH_LOOP_STARTS: u32 = 3;

/// The first wait after a failed start, doubling with each to the longest one.
pub const START_BACKOFF: Nanos = Nanos::from_ms(100);
pub const START_BACKOFF_MAX: Nanos = Nanos::from_s(60);

/// A call is charged its body and this much for everything else that it holds.
pub const CALL_OVERHEAD_BYTES: usize = 1024;

/// Finished plain sync calls that an io thread remembers, without their outputs.
pub const SYNC_RECORDS: u16 = 4096;

/// Levels of JSON in a body.
pub const JSON_DEPTH: usize = 128;

/// The largest head of a request or an answer, and its headers.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The longest `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_MAX: usize = 255;

/// The longest `?waitMs` of a status query.
pub const WAIT_MS_MAX: u64 = 60_000;

/// Cold starts that a function remembers.
pub const COLD_STARTS_KEPT: usize = 32;

const _: () = assert!(GRANTS_DEPTH >= CALLS_PER_IO_THREAD_MAX);
const _: () = assert!(ANSWERS_DEPTH >= QUESTIONS_MAX && ANSWERS_DEPTH.is_power_of_two());
const _: () = assert!(EVENTS_PER_IO_THREAD >= 2 * CALLS_PER_IO_THREAD_MAX);
const _: () = assert!(CALLS_PER_IO_THREAD_MAX >= 10_000 + 1_024);
const _: () = assert!(GRANTS_PER_TURN >= GRANTS_PER_LANE);
const _: () = assert!(LANE_RING_DEPTH.is_power_of_two() && GRANTS_DEPTH.is_power_of_two());
const _: () = assert!(ORDERS_DEPTH >= 2 * PODS_MAX);
const _: () = assert!(CALLS_PER_IO_THREAD_MAX <= u32::MAX as usize);
