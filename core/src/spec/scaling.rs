//! Reads how many pods a WARM function keeps. The module computes the default of `maxReplicas` and checks
//! that `minReplicas` ≤ `maxReplicas`. The scheduler decides when pods start and stop.

use serde::Serialize;

use super::bound::{
    IDLE_TIMEOUT_MS, MAX_REPLICAS, MIN_REPLICAS, REPLICAS_MAX, TARGET_IN_FLIGHT_PER_POD,
};
use super::reader::Reader;

/// The number of pods that a WARM function keeps. Other modes ignore this object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ScalingConfig {
    /// The number of pods that stay even without calls; 1 by default. With 0 the function scales to zero.
    /// `kubectl scale` sets this number.
    pub min_replicas: u32,
    /// The largest number of pods, which is at least `minReplicas`. The default is as many pods as
    /// `concurrency` calls can fill, which is `concurrency` divided by `targetInFlightPerPod`.
    pub max_replicas: u32,
    /// The largest number of calls that run at once in one pod; 1 by default.
    pub target_in_flight_per_pod: u32,
    /// How long a pod above `minReplicas` stays without a call, in milliseconds; 600000 by default.
    pub idle_timeout_ms: u32,
}

impl ScalingConfig {
    pub const MIN_REPLICAS_DEFAULT: u32 = 1;
    pub const TARGET_IN_FLIGHT_PER_POD_DEFAULT: u32 = 1;
    pub const IDLE_TIMEOUT_MS_DEFAULT: u32 = 600_000;

    /// Returns the default of `maxReplicas`: as many pods as `concurrency` calls can fill, but at most
    /// `REPLICAS_MAX` and at least `minReplicas`.
    pub fn max_replicas_default(concurrency: u32, per_pod: u32, min_replicas: u32) -> u32 {
        let filled = concurrency.div_ceil(per_pod.max(1));
        filled.clamp(1, REPLICAS_MAX).max(min_replicas)
    }

    pub(super) fn read(top: &mut Reader<'_>, concurrency: u32) -> Self {
        let mut read = top.object("scalingConfig");
        let per_pod = read
            .number("targetInFlightPerPod", &TARGET_IN_FLIGHT_PER_POD)
            .unwrap_or(Self::TARGET_IN_FLIGHT_PER_POD_DEFAULT);
        let idle_timeout_ms = read
            .number("idleTimeoutMs", &IDLE_TIMEOUT_MS)
            .unwrap_or(Self::IDLE_TIMEOUT_MS_DEFAULT);
        let min = read.number("minReplicas", &MIN_REPLICAS);
        let max = read.number("maxReplicas", &MAX_REPLICAS);
        let min_replicas = min.unwrap_or(Self::MIN_REPLICAS_DEFAULT);
        let fallback = Self::max_replicas_default(concurrency, per_pod, min_replicas);
        let max_replicas = max.unwrap_or(fallback);
        if min_replicas > max_replicas {
            let message =
                format!("must be at most maxReplicas, which is {max_replicas}, is {min_replicas}");
            read.fault("minReplicas", message);
        }
        Self {
            min_replicas,
            max_replicas,
            target_in_flight_per_pod: per_pod,
            idle_timeout_ms,
        }
    }
}
