//! What travels between threads in place of a call: its ticket to the scheduler, and the grant back. No byte
//! of a request travels with them; requests stay on the io thread that owns the sockets.

use std::fmt;

use crate::index::Index;
use crate::shard::ShardId;
use crate::time::{Nanos, Uptime};

/// Which of a lane's two queues a call waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    Sync = 0,
    Async = 1,
}

/// A function's lane: a place in the tables of lanes, and the registration that owns it. The place is used
/// again when its function is gone. A function that is removed and registered again while old calls run keeps
/// its place. The epoch tells the registrations of a place apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId {
    pub index: u32,
    /// Grows with every registration of any function.
    pub epoch: u32,
}

/// A call's entry in the table of `shard`, the io thread that owns the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId {
    pub index: u32,
    /// Grows each time the entry is reused, so that an old reference finds nothing.
    pub generation: u32,
    pub shard: ShardId,
}

/// A place in the tables of pods. An absent place needs no extra bytes, which keeps tickets and grants small.
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

/// A pod: its place, and a number that tells the successive pods of that place apart.
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

/// A call that waits for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// When the call began to wait.
    pub queued_at: Uptime,
    pub index: u32,
    pub generation: u32,
    pub lane: LaneId,
    /// The pod of the last attempt, which a retry avoids if another pod has room.
    pub avoid: Option<PodIndex>,
    pub shard: ShardId,
    pub class: Class,
}

const _: () = assert!(size_of::<Ticket>() == 32);

impl Ticket {
    /// The entry of the call.
    pub const fn call(&self) -> CallId {
        CallId {
            index: self.index,
            generation: self.generation,
            shard: self.shard,
        }
    }
}

/// A slot granted to a call, which may now run in that pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub call: CallId,
    pub lane: LaneId,
    /// None for a call of the modes LOCAL, POOL and JOB.
    pub pod: Option<PodId>,
    /// The slot that the call holds.
    pub slot: u16,
    pub granted_at: Uptime,
    /// How much of the wait was spent on the start of a pod.
    pub start: Nanos,
}

/// How the pod behaved in an attempt, as far as it matters for its next calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodVerdict {
    Healthy,
    /// The connection failed or was refused: the pod gets no call until a probe succeeds.
    Lost,
    /// A call was cut off in it: it gets no call until a probe succeeds.
    CutOff,
}

/// The end of an attempt; it frees the slot.
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

/// What the time for which an attempt held its slot shows about later calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The time that a call takes: the function answered.
    Whole,
    /// A lower bound of that time: the attempt was cut off.
    CutOff,
    /// Nothing: the attempt never began, or its worker died.
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
