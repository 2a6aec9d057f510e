//! The registry is the table of functions. Only the bridge thread changes this table. A new or changed
//! function goes to the scheduler first and then to every io thread; a removal goes to the io threads first.
//! A change is answered when every io thread has acknowledged it. The registry sends nothing itself;
//! `RegistryOut` holds what has to be sent.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::event::{Event, LanePlan};
use crate::function::Function;
use crate::limits::FUNCTIONS_MAX;
use crate::message::{BridgeError, Reply, ReplyTo};
use crate::queue_stats::QueueStats;
use crate::shard::ShardId;
use crate::spec::{
    Defaults, ExecutionMode, FieldError, FunctionDraft, FunctionSpec, Json, Platform, check_account,
};
use crate::ticket::LaneId;

/// A change of the table.
pub enum Change {
    Register {
        draft: Box<FunctionDraft>,
        replace: bool,
    },
    Remove {
        name: Arc<str>,
    },
    Scale {
        name: Arc<str>,
        replicas: u32,
    },
}

/// A change that every io thread has to receive.
#[derive(Clone)]
pub enum FunctionUpdate {
    Function(Arc<Function>),
    Removed {
        lane: LaneId,
        name: Arc<str>,
        version: u64,
    },
}

/// What has to be sent after a change or an acknowledgement, in the order of the fields. The scheduler comes
/// first, because an io thread may send a ticket for a lane as soon as it has the function.
#[derive(Default)]
pub struct RegistryOut {
    pub scheduler: Vec<Event>,
    pub io_threads: Vec<FunctionUpdate>,
    pub replies: Vec<(Option<ReplyTo>, Reply)>,
}

enum Waiting {
    Registered {
        function: Arc<Function>,
        created: bool,
    },
    Scaled {
        function: Arc<str>,
        replicas: u32,
    },
    Removed {
        name: Arc<str>,
        lane: LaneId,
    },
}

struct Unacknowledged {
    left: usize,
    reply: Option<ReplyTo>,
    then: Waiting,
}

struct Leaving {
    lane: LaneId,
    stats: Arc<QueueStats>,
    /// Whether io threads still have to acknowledge the removal. During this time, further changes of the
    /// function wait in `put_off`.
    in_progress: bool,
}

pub struct Registry {
    io_threads: usize,
    /// The last version that each io thread has acknowledged.
    acknowledged: Vec<u64>,
    defaults: Defaults,
    platform: Platform,
    /// The control plane's own service account, if the pods of functions could use it.
    own_account: Option<String>,
    functions: BTreeMap<Arc<str>, Arc<Function>>,
    /// Removed functions whose lane the scheduler still has, by name.
    leaving: HashMap<Arc<str>, Leaving>,
    free_lanes: Vec<u32>,
    lanes: u32,
    version: u64,
    epoch: u32,
    unacknowledged: HashMap<u64, Unacknowledged>,
    put_off: VecDeque<(Change, Option<ReplyTo>)>,
}

impl Registry {
    pub fn new(io_threads: usize, defaults: Defaults, platform: Platform) -> Self {
        Self {
            io_threads,
            acknowledged: vec![0; io_threads],
            defaults,
            platform,
            own_account: None,
            functions: BTreeMap::new(),
            leaving: HashMap::new(),
            free_lanes: Vec::new(),
            lanes: 0,
            version: 0,
            epoch: 0,
            unacknowledged: HashMap::new(),
            put_off: VecDeque::new(),
        }
    }

    /// Makes the registry refuse each function that uses the service account `own_account`.
    #[must_use]
    pub fn guarding(mut self, own_account: Option<String>) -> Self {
        self.own_account = own_account;
        self
    }

    /// Returns the registered functions by name.
    pub const fn functions(&self) -> &BTreeMap<Arc<str>, Arc<Function>> {
        &self.functions
    }

    /// Returns the counters of removed functions whose lane the scheduler still has. They are needed because
    /// the ledger counts the calls of these functions, too.
    pub fn leaving_stats(&self) -> impl Iterator<Item = &Arc<QueueStats>> {
        self.leaving.values().map(|leaving| &leaving.stats)
    }

    /// Returns whether every change so far was made and every io thread has acknowledged it.
    pub fn is_settled(&self) -> bool {
        self.unacknowledged.is_empty() && self.put_off.is_empty()
    }

    /// Checks whether a change can be made now. This is for backends where the cluster holds the functions
    /// and the registry is a copy. A removal always passes, because only the cluster knows whether the
    /// function exists.
    pub fn check(&self, change: &Change) -> Result<(), BridgeError> {
        match change {
            Change::Register { draft, replace } => {
                self.resolve(draft)?;
                let is_there = draft
                    .name()
                    .is_some_and(|name| self.functions.contains_key(name));
                if is_there && !replace {
                    return Err(BridgeError::Exists);
                }
                let is_full = self.free_lanes.is_empty() && self.lanes as usize >= FUNCTIONS_MAX;
                if is_full && !is_there {
                    return Err(BridgeError::TooMany);
                }
                Ok(())
            }
            Change::Remove { .. } => Ok(()),
            Change::Scale { name, replicas } => {
                let old = self.functions.get(name).ok_or(BridgeError::NotFound)?;
                scaled(&old.spec, *replicas).map(drop)
            }
        }
    }

    /// Returns whether a draft differs from the registered function of its name. An unregistered function
    /// differs.
    pub fn differs(&self, draft: &FunctionDraft) -> Result<bool, BridgeError> {
        let spec = self.resolve(draft)?;
        let known = self.functions.get(&spec.name);
        Ok(known.is_none_or(|known| known.spec != spec))
    }

    fn resolve(&self, draft: &FunctionDraft) -> Result<FunctionSpec, BridgeError> {
        let resolved = FunctionSpec::resolve(draft, &self.defaults, self.platform);
        match (resolved, self.account_fault(draft)) {
            (Ok(spec), None) => Ok(spec),
            (Ok(_), Some(fault)) => Err(BridgeError::Invalid(vec![fault])),
            (Err(mut faults), fault) => {
                faults.extend(fault);
                Err(BridgeError::Invalid(faults))
            }
        }
    }

    fn account_fault(&self, draft: &FunctionDraft) -> Option<FieldError> {
        let own = self.own_account.as_deref()?;
        let template = draft.get("podTemplate").and_then(Json::as_object)?;
        let FieldError { field, message } = check_account(template, own).err()?;
        Some(FieldError::new(format!("podTemplate.{field}"), message))
    }

    /// Begins a change, or puts it off while a removal of the same name is in progress. A change that is
    /// impossible is refused at once.
    pub fn change(&mut self, change: Change, reply: Option<ReplyTo>, out: &mut RegistryOut) {
        let name = match &change {
            Change::Register { draft, .. } => draft.name(),
            Change::Remove { name } | Change::Scale { name, .. } => Some(&**name),
        };
        let in_progress = name
            .and_then(|name| self.leaving.get(name))
            .is_some_and(|gone| gone.in_progress);
        if in_progress {
            self.put_off.push_back((change, reply));
            return;
        }
        let done = match change {
            Change::Register { draft, replace } => self.register(&draft, replace, reply, out),
            Change::Remove { name } => self.remove(&name, reply, out),
            Change::Scale { name, replicas } => self.scale(&name, replicas, reply, out),
        };
        if let Err(refused) = done {
            out.replies.push((reply, Reply::Refused(refused)));
        }
    }

    fn register(
        &mut self,
        draft: &FunctionDraft,
        replace: bool,
        reply: Option<ReplyTo>,
        out: &mut RegistryOut,
    ) -> Result<(), BridgeError> {
        let spec = self.resolve(draft)?;
        if let Some(old) = self.functions.get(&spec.name) {
            if !replace {
                return Err(BridgeError::Exists);
            }
            let reshaped = old.spec.shape_hash(self.platform) != spec.shape_hash(self.platform);
            let function = self.replace(&old.clone(), spec, reshaped, out);
            self.send_to_io_threads(
                function.clone(),
                reply,
                Waiting::Registered {
                    function,
                    created: false,
                },
                out,
            );
            return Ok(());
        }
        let (lane, stats) = self.lane_for(&spec.name).ok_or(BridgeError::TooMany)?;
        self.version += 1;
        let plan = LanePlan::of(&spec);
        out.scheduler.push(Event::LaneOpened {
            lane,
            stats: stats.clone(),
            plan,
        });
        let function = Arc::new(Function {
            spec,
            lane,
            stats,
            version: self.version,
        });
        self.functions
            .insert(function.name().clone(), function.clone());
        self.send_to_io_threads(
            function.clone(),
            reply,
            Waiting::Registered {
                function,
                created: true,
            },
            out,
        );
        Ok(())
    }

    /// Returns the lane of the removed function of this name if the scheduler still has that lane, otherwise
    /// a free lane. Returns none if no lane is free.
    fn lane_for(&mut self, name: &str) -> Option<(LaneId, Arc<QueueStats>)> {
        let (index, stats) = if let Some(gone) = self.leaving.remove(name) {
            (gone.lane.index, gone.stats)
        } else {
            let index = match self.free_lanes.pop() {
                Some(index) => index,
                None if (self.lanes as usize) < FUNCTIONS_MAX => {
                    self.lanes += 1;
                    self.lanes - 1
                }
                None => return None,
            };
            (index, Arc::new(QueueStats::new(self.io_threads)))
        };
        self.epoch += 1;
        let epoch = self.epoch;
        Some((LaneId { index, epoch }, stats))
    }

    fn replace(
        &mut self,
        old: &Function,
        spec: FunctionSpec,
        reshaped: bool,
        out: &mut RegistryOut,
    ) -> Arc<Function> {
        self.version += 1;
        let plan = LanePlan::of(&spec);
        out.scheduler.push(Event::LaneChanged {
            lane: old.lane,
            plan,
            reshaped,
        });
        let (lane, stats) = (old.lane, old.stats.clone());
        let function = Arc::new(Function {
            spec,
            lane,
            stats,
            version: self.version,
        });
        self.functions
            .insert(function.name().clone(), function.clone());
        function
    }

    /// Returns the events by which the scheduler replaces every pod of WARM functions, one at a time for each
    /// function.
    pub fn reshape_pods(&self) -> Vec<Event> {
        let keeps_pods =
            |function: &&Arc<Function>| function.spec.execution_mode == ExecutionMode::Warm;
        let all = self.functions.values().filter(keeps_pods);
        all.map(|function| Event::LaneChanged {
            lane: function.lane,
            plan: LanePlan::of(&function.spec),
            reshaped: true,
        })
        .collect()
    }

    fn send_to_io_threads(
        &mut self,
        function: Arc<Function>,
        reply: Option<ReplyTo>,
        then: Waiting,
        out: &mut RegistryOut,
    ) {
        let version = function.version;
        out.io_threads.push(FunctionUpdate::Function(function));
        self.await_acks(version, reply, then);
    }

    fn await_acks(&mut self, version: u64, reply: Option<ReplyTo>, then: Waiting) {
        let left = self.io_threads;
        self.unacknowledged
            .insert(version, Unacknowledged { left, reply, then });
    }

    fn remove(
        &mut self,
        name: &str,
        reply: Option<ReplyTo>,
        out: &mut RegistryOut,
    ) -> Result<(), BridgeError> {
        let function = self.functions.remove(name).ok_or(BridgeError::NotFound)?;
        self.version += 1;
        let lane = function.lane;
        let name = function.name().clone();
        let stats = function.stats.clone();
        self.leaving.insert(
            name.clone(),
            Leaving {
                lane,
                stats,
                in_progress: true,
            },
        );
        // The scheduler gets the removal later, from `acknowledge`, because an io thread may admit a call for
        // the lane until it has acknowledged the removal.
        let version = self.version;
        out.io_threads.push(FunctionUpdate::Removed {
            lane,
            name: name.clone(),
            version,
        });
        self.await_acks(version, reply, Waiting::Removed { name, lane });
        Ok(())
    }

    fn scale(
        &mut self,
        name: &str,
        replicas: u32,
        reply: Option<ReplyTo>,
        out: &mut RegistryOut,
    ) -> Result<(), BridgeError> {
        let old = self
            .functions
            .get(name)
            .ok_or(BridgeError::NotFound)?
            .clone();
        let spec = scaled(&old.spec, replicas)?;
        let function = self.replace(&old, spec, false, out);
        let then = Waiting::Scaled {
            function: function.name().clone(),
            replicas,
        };
        self.send_to_io_threads(function, reply, then, out);
        Ok(())
    }

    /// Notes that an io thread has taken over all changes up to a version. A change is complete when the last
    /// io thread has taken it over.
    pub fn acknowledge(&mut self, shard: ShardId, version: u64, out: &mut RegistryOut) {
        let last = &mut self.acknowledged[shard.index()];
        let first = *last + 1;
        *last = version.max(*last);
        for version in first..=version {
            self.acknowledge_one(version, out);
        }
    }

    fn acknowledge_one(&mut self, version: u64, out: &mut RegistryOut) {
        let Some(change) = self.unacknowledged.get_mut(&version) else {
            return;
        };
        change.left -= 1;
        if change.left > 0 {
            return;
        }
        let Some(change) = self.unacknowledged.remove(&version) else {
            return;
        };
        let reply = match change.then {
            Waiting::Registered { function, created } => Reply::Registered { function, created },
            Waiting::Scaled { function, replicas } => Reply::Scaled { function, replicas },
            Waiting::Removed { name, lane } => {
                if let Some(gone) = self.leaving.get_mut(&name) {
                    gone.in_progress = false;
                }
                out.scheduler.push(Event::LaneRemoved { lane });
                for (change, reply) in std::mem::take(&mut self.put_off) {
                    self.change(change, reply, out);
                }
                Reply::Removed
            }
        };
        out.replies.push((change.reply, reply));
    }

    /// Frees the lane of a removed function, because the scheduler has neither a call nor a pod of the
    /// function any more.
    pub fn lane_gone(&mut self, lane: LaneId) {
        let name = self
            .leaving
            .iter()
            .find(|(_, leaving)| leaving.lane == lane)
            .map(|(name, _)| name.clone());
        if let Some(name) = name {
            self.leaving.remove(&name);
            self.free_lanes.push(lane.index);
        }
    }
}

/// Returns the same function with another `minReplicas`. Fails if the function is not WARM.
fn scaled(spec: &FunctionSpec, replicas: u32) -> Result<FunctionSpec, BridgeError> {
    if spec.execution_mode != ExecutionMode::Warm {
        return Err(BridgeError::NotWarm(spec.execution_mode));
    }
    spec.with_min_replicas(replicas)
        .map_err(|fault| BridgeError::Invalid(vec![fault]))
}
