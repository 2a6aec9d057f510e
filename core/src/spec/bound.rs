//! Defines the ranges and bounds of a function's fields. The resolver, the options for default values and the
//! JSON Schema all use these constants. An operator cannot change them.

use std::ops::RangeInclusive;

/// The longest function name on any platform, in bytes.
pub const NAME_LEN_MAX: usize = 63;
/// The longest function name on Kubernetes, in bytes. The name of a warm pod also has `fn-`, a hyphen and 5
/// random characters; the name of a Job has 9 random characters. So both names have at most 63 bytes, the
/// limit of Kubernetes for labels and host names.
pub const KUBERNETES_NAME_LEN_MAX: usize = 50;

pub const TIMEOUT_MS: RangeInclusive<u32> = 1..=300_000;
pub const CONCURRENCY: RangeInclusive<u32> = 1..=1024;
pub const QUEUE_SIZE: RangeInclusive<u32> = 1..=10_000;
pub const MAX_RETRIES: RangeInclusive<u32> = 0..=10;

/// The largest number of pods of one function.
pub const REPLICAS_MAX: u32 = 256;
pub const MIN_REPLICAS: RangeInclusive<u32> = 0..=REPLICAS_MAX;
pub const MAX_REPLICAS: RangeInclusive<u32> = 1..=REPLICAS_MAX;
/// The range of `targetInFlightPerPod`. It ends at the largest `concurrency`, because one pod never runs more
/// calls than the whole function.
pub const TARGET_IN_FLIGHT_PER_POD: RangeInclusive<u32> = 1..=*CONCURRENCY.end();
/// The range of `idleTimeoutMs`. It ends at one day, because `minReplicas` keeps pods for longer times.
pub const IDLE_TIMEOUT_MS: RangeInclusive<u32> = 1..=86_400_000;

/// The largest nesting depth of a function description, `podTemplate` included.
pub const DEPTH_MAX: usize = 64;
/// The longest path of a Unix socket, in bytes. Linux limits `sun_path` to 108 bytes, including the final
/// zero.
pub const SOCKET_PATH_LEN_MAX: usize = 107;
/// The longest `endpointUrl` in bytes, path and query included.
pub const ENDPOINT_LEN_MAX: usize = 2048;

/// The longest `healthPath` in bytes, query included.
pub const HEALTH_PATH_LEN_MAX: usize = 1024;

pub const STREAM_IDLE_MS: RangeInclusive<u32> = 1..=3_600_000;
/// The range of `streamMaxMs`, the time limit of a call of `/fn/` in milliseconds. The time is counted from
/// the grant; 0 means no limit.
pub const STREAM_MAX_MS: RangeInclusive<u32> = 0..=86_400_000;
/// The largest number of origins in `allowedOrigins`.
pub const ORIGINS_MAX: usize = 64;
/// The longest origin in `allowedOrigins`, in bytes.
pub const ORIGIN_LEN_MAX: usize = 256;

/// The seconds that a pod may take to end, in addition to the function's timeout.
pub const GRACE_EXTRA_S: u32 = 10;

const _: () = assert!(KUBERNETES_NAME_LEN_MAX + "fn-".len() + "-12345".len() <= NAME_LEN_MAX);
