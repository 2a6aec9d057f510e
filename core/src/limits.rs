//! Lists fixed bounds with their reasons, for example the sizes of tables and rings. Assertions check that
//! these bounds fit each other. The ranges of a spec's fields are in `spec::bound`, and most other bounds are
//! in the modules that use them. Bounds that an operator can change are settings of the process.

use crate::spec::bound::{CONCURRENCY, QUEUE_SIZE};
use crate::time::Nanos;

/// The largest number of io threads. No expected machine has more cores for this process.
pub const IO_THREADS_MAX: usize = 64;

/// The largest number of calls that one io thread holds at once. It suffices for a function with the largest
/// `queueSize` and the largest `concurrency`, if calls of only one class wait. `queueSize` holds for each
/// class. If both queues of such a function are full, the table is full, and further calls are refused.
pub const CALLS_PER_IO_THREAD_MAX: usize = 16_384;

/// The largest number of lanes. It suffices for 10,000 functions, and for removed functions whose calls or
/// pods are not gone yet.
pub const FUNCTIONS_MAX: usize = 16_384;

/// The largest number of pods of all functions together.
pub const PODS_MAX: usize = 16_384;

/// The number of places in a lane's ring, for the tickets of one function between two turns. If the ring is
/// full, the call is refused with the reason `depth`.
pub const LANE_RING_DEPTH: usize = 256;

/// The number of places in an io thread's ring of grants. The ring has room even if all calls of the thread
/// are granted at once, so the scheduler never waits for room.
pub const GRANTS_DEPTH: usize = CALLS_PER_IO_THREAD_MAX;

/// The number of places in each of an io thread's two rings of messages: one for the other io threads, and
/// one for the bridge and the scheduler. If the ring is full, a question is refused with 503, and a message
/// that must arrive waits at its sender.
pub const MESSAGES_DEPTH: usize = 1024;

/// The largest number of unanswered questions of one io thread to the other io threads. The same number
/// limits the thread's unanswered requests to the bridge, which are counted apart. A further question or
/// request is refused with 503.
pub const QUESTIONS_MAX: usize = 512;

/// The number of places in an io thread's ring of answers from the other io threads. Each question has a
/// place for its answer, because a lost answer would leave a client waiting or a key claimed.
pub const ANSWERS_DEPTH: usize = QUESTIONS_MAX;

/// The number of places in the scheduler's event ring for each io thread: two for each call, for the end of
/// an attempt and the ticket of a retry. If the ring is full, the sender keeps the event and sends it later.
pub const EVENTS_PER_IO_THREAD: usize = CALLS_PER_IO_THREAD_MAX * 2;

/// The number of places in the scheduler's event ring for the bridge: two for each pod, because a pod comes
/// up and goes down.
pub const EVENTS_FROM_BRIDGE: usize = PODS_MAX * 2;

/// The number of places in the bridge's ring, enough for a start and a stop of each pod. Clients' requests
/// use the same ring, and are refused if the ring is full.
pub const ORDERS_DEPTH: usize = PODS_MAX * 2;

/// The limit of the bridge's messages that wait for room in full rings. At this limit the bridge takes no
/// message from its own ring. The bridge's reports about pods are added even beyond the limit.
pub const WORK_QUEUE_BACKLOG: usize = 8192;

/// The largest number of grants in one turn. Further tickets wait for the next turn, so that an io thread
/// handles I/O between two turns.
pub const GRANTS_PER_TURN: usize = 256;

/// The largest number of grants in a row for one lane, so that a busy function does not delay other functions
/// for long.
pub const GRANTS_PER_LANE: usize = 8;

/// The share of the grants that is kept for async calls while calls of both classes wait: one grant in 8.
pub const ASYNC_SHARE: u32 = 8;

/// The number of failed starts in a row after which calls no longer wait for the next start.
pub const CRASH_LOOP_STARTS: u32 = 3;

/// The wait after the first failed start. The wait doubles with each further failure, up to
/// `START_BACKOFF_MAX`.
pub const START_BACKOFF: Nanos = Nanos::from_ms(100);
pub const START_BACKOFF_MAX: Nanos = Nanos::from_s(60);

/// The bytes that a call is charged in addition to its body, for everything else that the call holds.
pub const CALL_OVERHEAD_BYTES: usize = 1024;

/// The number of plain sync calls that an io thread remembers, without their outputs. The record of a new
/// call replaces the oldest record.
pub const SYNC_RECORDS: u16 = 4096;

/// The largest nesting depth of the JSON of a function or of a function's output.
pub const JSON_DEPTH: usize = 128;

/// The longest `?waitMs` of a status query, in milliseconds.
pub const WAIT_MS_MAX: u64 = 60_000;

/// The number of cold starts that are kept for each function.
pub const COLD_STARTS_KEPT: usize = 32;

const _: () = assert!(GRANTS_DEPTH >= CALLS_PER_IO_THREAD_MAX);
const _: () = assert!(ANSWERS_DEPTH >= QUESTIONS_MAX && ANSWERS_DEPTH.is_power_of_two());
const _: () = assert!(CALLS_PER_IO_THREAD_MAX >= (*QUEUE_SIZE.end() + *CONCURRENCY.end()) as usize);
const _: () = assert!(GRANTS_PER_TURN >= GRANTS_PER_LANE);
const _: () = assert!(LANE_RING_DEPTH.is_power_of_two() && GRANTS_DEPTH.is_power_of_two());
const _: () = assert!(ORDERS_DEPTH >= 2 * PODS_MAX);
const _: () = assert!(CALLS_PER_IO_THREAD_MAX <= u32::MAX as usize);
