//! Defines what threads send to each other in place of a call: its ticket to the scheduler, the grant back,
//! and the `Done` of an attempt. They contain no byte of a request, because requests stay on the io thread
//! that owns the sockets.

use std::fmt;

use crate::index::Index;
use crate::shard::ShardId;
use crate::time::{Nanos, Uptime};

/// The class of a call, which selects one of the lane's two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    Sync = 0,
    Async = 1,
}

/// The name of a lane: its index in the tables of lanes, and the epoch of the registration that owns it. The
/// index is used again for another function after the lane is gone. A function that is registered again while
/// its old calls run keeps its index. The epoch tells the registrations of an index apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId {
    pub index: u32,
    /// The number of the registration, which grows with every registration of any function.
    pub epoch: u32,
}

/// The name of a call: its entry in the table of `shard`, the io thread that owns the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId {
    pub index: u32,
    /// How often the entry was used again. Because of this number, the name of an earlier call finds nothing.
    pub generation: u32,
    pub shard: ShardId,
}

/// An index in the tables of pods. `Option<PodIndex>` needs no extra bytes, which keeps tickets and grants
/// small.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodIndex(Index);

impl PodIndex {
    pub const fn new(index: u32) -> Self {
        Self(Index::new(index))
    }

    pub const fn get(self) -> usize {
        self.0.get()
    }
}

impl fmt::Debug for PodIndex {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(out)
    }
}

/// The name of a pod: its index, and a number that tells the successive pods with this index apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId {
    pub index: PodIndex,
    pub generation: u32,
}

impl PodId {
    pub const fn new(index: u32, generation: u32) -> Self {
        let index = PodIndex::new(index);
        Self { index, generation }
    }
}

const _: () = assert!(size_of::<Option<PodIndex>>() == size_of::<u32>());
const _: () = assert!(size_of::<Option<PodId>>() == size_of::<u64>());

/// The ticket of a call that waits for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// When the call began to wait.
    pub queued_at: Uptime,
    pub index: u32,
    pub generation: u32,
    pub lane: LaneId,
    /// The pod of the last attempt. A retry avoids this pod if another pod has room.
    pub avoid: Option<PodIndex>,
    pub shard: ShardId,
    pub class: Class,
}

const _: () = assert!(size_of::<Ticket>() == 32);

impl Ticket {
    /// Returns the name of the call.
    pub const fn call(&self) -> CallId {
        CallId {
            index: self.index,
            generation: self.generation,
            shard: self.shard,
        }
    }
}

/// A grant: the call holds the slot from now on, and may run in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub call: CallId,
    pub lane: LaneId,
    /// None for a call of the modes LOCAL, POOL and JOB.
    pub pod: Option<PodId>,
    /// The slot that the call holds.
    pub slot: u16,
    pub granted_at: Uptime,
    /// The part of the call's wait in which the pod was starting.
    pub start: Nanos,
}

/// How the pod behaved in an attempt. The verdict decides whether the pod gets further calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodVerdict {
    Healthy,
    /// The connection failed or was refused. The pod gets no call until a probe succeeds.
    Lost,
    /// The call was cut off in the pod. The pod gets no call until a probe succeeds.
    CutOff,
}

/// The report of the end of an attempt. It frees the attempt's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    pub lane: LaneId,
    /// The pod of the grant.
    pub pod: Option<PodId>,
    /// The slot of the grant.
    pub slot: u16,
    pub verdict: PodVerdict,
    pub held: Held,
}

/// What the scheduler learns about service times from the time for which an attempt held its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The time is a service time, because the function answered.
    Whole,
    /// The time is a lower bound of the service time, because the attempt was cut off.
    CutOff,
    /// The time shows nothing, because the attempt never began or its worker died.
    Nothing,
}

const _: () = assert!(size_of::<Grant>() == 48 && size_of::<Done>() == 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_pods_are_numbers_from_zero() {
        for index in [0, 1, 16_383, u32::MAX - 1] {
            let place = PodIndex::new(index);
            assert_eq!(place.get(), index as usize);
            assert_eq!(format!("{place:?}"), index.to_string());
        }
        assert!(PodId::new(1, 9) < PodId::new(2, 0));
    }

    #[test]
    #[should_panic(expected = "a table has no such place")]
    fn a_place_past_the_largest_table_is_refused() {
        let _ = PodIndex::new(u32::MAX);
    }
}
