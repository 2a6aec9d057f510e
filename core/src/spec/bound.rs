//! The ranges of a function's settings, each stated once. The resolver, the flags for defaults and the API
//! description all use these. There is no code here, and nothing can be configured.

use std::ops::RangeInclusive;

/// Longest function name on any platform.
pub const NAME_LEN_MAX: usize = 63;
/// Longest function name on Kubernetes: with `fn-` and `-` + 5 random characters it still fits a pod name.
pub const KUBERNETES_NAME_LEN_MAX: usize = 50;

pub const TIMEOUT_MS: RangeInclusive<u32> = 1..=300_000;
pub const CONCURRENCY: RangeInclusive<u32> = 1..=1024;
pub const QUEUE_SIZE: RangeInclusive<u32> = 1..=10_000;
pub const MAX_RETRIES: RangeInclusive<u32> = 0..=10;

/// Most pods that one function may have.
pub const REPLICAS_MAX: u32 = 256;
pub const MIN_REPLICAS: RangeInclusive<u32> = 0..=REPLICAS_MAX;
pub const MAX_REPLICAS: RangeInclusive<u32> = 1..=REPLICAS_MAX;
/// At most the largest `concurrency`, because one pod never runs more calls than the whole function.
pub const TARGET_IN_FLIGHT_PER_POD: RangeInclusive<u32> = 1..=*CONCURRENCY.end();
/// A day. `minReplicas` is for pods that shall stay longer.
pub const IDLE_TIMEOUT_MS: RangeInclusive<u32> = 1..=86_400_000;

/// Most levels of nesting in a function description, `podTemplate` included.
pub const DEPTH_MAX: usize = 64;
/// Linux limits `sun_path` to 108 bytes, including the final zero.
pub const SOCKET_PATH_LEN_MAX: usize = 107;
/// Longest `endpointUrl`, path and query included.
pub const ENDPOINT_LEN_MAX: usize = 2048;

/// Longest `healthPath`, query included.
pub const HEALTH_PATH_LEN_MAX: usize = 1024;

/// Seconds that a pod has to end by itself, in addition to the function's timeout.
pub const GRACE_EXTRA_S: u32 = 10;

const _: () = assert!(KUBERNETES_NAME_LEN_MAX + "fn-".len() + "-12345".len() <= NAME_LEN_MAX);
