//! The bridge's work queue handles the messages that the bridge receives, changes the registry, and sends the
//! bridge's own messages in the right order. Messages for a full ring stay in the queue until the ring has
//! room. The queue never waits, sleeps or starts anything; a `BridgeCommand` names what a backend has to do.
//! Each bridge owns one work queue and runs `controller_loop`; the management port reads the functions from
//! the queue.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::cold_start::ColdStarts;
use crate::event::{Event, Order};
use crate::function::Function;
use crate::limits::WORK_QUEUE_BACKLOG;
use crate::message::BridgeRequest;
use crate::message::{
    BridgeError, BridgeMessage, JobStart, Message, PodEnd, ReadyTimestamps, Reply, ReplyTo,
};
use crate::post::{BridgeInbox, IoPost, SchedulerPost};
use crate::queue_stats::QueueStats;
use crate::registry::{Change, FunctionUpdate, Registry, RegistryOut};
use crate::shard::ShardId;
use crate::spec::FunctionDraft;
use crate::ticket::{CallId, LaneId, PodId};
use crate::time::Uptime;

/// The largest number of messages that one `pump` handles. It is bounded, because the bridge's other tasks
/// run on the same thread and wait meanwhile.
const MESSAGES_PER_PUMP: usize = 256;

/// What a backend has to do.
pub enum BridgeCommand {
    /// A function is new or changed.
    Function(Arc<Function>),
    /// A function is no longer registered; its lane may still have calls and pods.
    Removed {
        lane: LaneId,
        name: Arc<str>,
    },
    /// Start a pod. The answer is `PodUp`, `StartFailed` or, if the pod is stopped during its start,
    /// `PodDown`.
    Start {
        function: Arc<Function>,
        pod: PodId,
        wanted_at: Uptime,
    },
    /// End a pod in which no call runs. The answer is `PodDown`.
    Stop {
        pod: PodId,
    },
    /// Probe a pod. The answer is `PodUp` or `PodDown`.
    Probe {
        pod: PodId,
    },
    /// The answer to `Event::Adopt`: the id that the scheduler gave to a pod of an earlier control plane, or
    /// none.
    Adopted {
        lane: LaneId,
        token: u64,
        pod: Option<PodId>,
    },
    Job(Box<JobStart>),
    /// The attempt is over; its Job may still run.
    JobStop {
        call: CallId,
        attempt: u32,
        timestamps: Option<ReadyTimestamps>,
    },
    PodReady(Box<PodReady>),
    /// The registry is a copy of the functions in the cluster, so the backend writes the change to the
    /// cluster and then calls `WorkQueue::apply`, or refuses the change.
    Change {
        change: Change,
        reply: ReplyTo,
    },
}

/// The report of a warm pod that it is ready.
pub struct PodReady {
    pub token: Box<str>,
    pub pod: Box<str>,
    /// The address at which the pod listens, if it reports one.
    pub address: Option<IpAddr>,
    pub timestamps: ReadyTimestamps,
    pub reply: ReplyTo,
}

/// Where a change of the registry is made first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// Changes are made in the registry, which is the only copy of the functions.
    Memory,
    /// Changes are made in the cluster; the registry is a copy of the functions there.
    Cluster,
}

/// How long the bridge's loop may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// A message or a command waits, so the loop must not sleep and pumps at once.
    No,
    /// A ring was full, so the loop pumps again after a millisecond, or as soon as the bell rings.
    Shortly,
    /// The loop sleeps until the bell rings.
    UntilBell,
}

/// Runs the loop of the bridge that owns a work queue; never returns. `take` receives the commands in order;
/// `pause` waits for as long as its `Rest` allows.
pub async fn controller_loop(
    work_queue: &RefCell<WorkQueue>,
    mut take: impl FnMut(BridgeCommand),
    pause: impl AsyncFn(Rest),
) {
    loop {
        let commands = work_queue.borrow_mut().pump();
        commands.into_iter().for_each(&mut take);
        let rest = work_queue.borrow_mut().rest();
        pause(rest).await;
    }
}

enum Delivery {
    Scheduler(Event),
    Io { shard: ShardId, message: Message },
}

pub struct WorkQueue {
    inbox: BridgeInbox,
    io: Vec<IoPost>,
    scheduler: SchedulerPost,
    registry: Registry,
    home: Home,
    pub starts: ColdStarts,
    /// The messages that wait for room, in one queue for all rings, because their order matters across rings.
    /// For example, an io thread has to receive a pod's address before the scheduler receives that the pod is
    /// up.
    backlog: VecDeque<Delivery>,
    /// The function of each lane. A removed function stays until its lane is gone or belongs to another
    /// registration.
    lanes: Vec<Option<Arc<Function>>>,
    commands: Vec<BridgeCommand>,
}

impl WorkQueue {
    pub fn new(
        inbox: BridgeInbox,
        io: Vec<IoPost>,
        scheduler: SchedulerPost,
        (registry, home): (Registry, Home),
        starts: ColdStarts,
    ) -> Self {
        Self {
            inbox,
            io,
            scheduler,
            registry,
            home,
            starts,
            backlog: VecDeque::new(),
            lanes: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Delivers as many waiting messages as the rings have room for, handles new messages, and returns the
    /// backend's commands in order.
    pub fn pump(&mut self) -> Vec<BridgeCommand> {
        self.inbox.bell.awake();
        self.flush();
        for _ in 0..MESSAGES_PER_PUMP {
            // While the backlog is full, no message is taken, not even an acknowledgement. The backlog still
            // drains, because the other threads empty their rings.
            if self.backlog.len() >= WORK_QUEUE_BACKLOG {
                break;
            }
            let Some(message) = self.inbox.messages.pop() else {
                break;
            };
            self.take(message);
        }
        std::mem::take(&mut self.commands)
    }

    /// Returns how long the bridge may sleep. Announces sleep to the bell, unless the bridge must not sleep.
    #[must_use]
    pub fn rest(&mut self) -> Rest {
        if !self.commands.is_empty() {
            return Rest::No;
        }
        let messages = &self.inbox.messages;
        let takes_messages = self.backlog.len() < WORK_QUEUE_BACKLOG;
        let has_work = || takes_messages && messages.is_published();
        if !self.inbox.bell.sleep(has_work) {
            Rest::No
        } else if self.backlog.is_empty() {
            Rest::UntilBell
        } else {
            Rest::Shortly
        }
    }

    fn take(&mut self, message: BridgeMessage) {
        match message {
            BridgeMessage::Order(order) => self.order(order),
            BridgeMessage::Request { request, reply } => self.request(request, reply),
            BridgeMessage::Ack { shard, version } => {
                let mut out = RegistryOut::default();
                self.registry.acknowledge(shard, version, &mut out);
                self.deliver(out);
            }
            BridgeMessage::Job(job) => self.commands.push(BridgeCommand::Job(job)),
            BridgeMessage::JobStop {
                call,
                attempt,
                timestamps,
            } => {
                self.commands.push(BridgeCommand::JobStop {
                    call,
                    attempt,
                    timestamps,
                });
            }
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Start {
                lane,
                pod,
                wanted_at,
            } => match self.function_at(lane) {
                Some(function) => self.commands.push(BridgeCommand::Start {
                    function: function.clone(),
                    pod,
                    wanted_at,
                }),
                // The lane no longer has this function, so no pod is started and the pod is reported as down.
                None => self.event(Event::PodDown(pod)),
            },
            Order::Stop { pod } => self.commands.push(BridgeCommand::Stop { pod }),
            Order::Probe { pod } => self.commands.push(BridgeCommand::Probe { pod }),
            Order::Adopted { lane, token, pod } => {
                self.commands
                    .push(BridgeCommand::Adopted { lane, token, pod });
            }
            Order::LaneGone { lane } => self.lane_gone(lane),
        }
    }

    fn lane_gone(&mut self, lane: LaneId) {
        self.registry.lane_gone(lane);
        // A new registration may have taken the lane over. The function of that registration stays.
        if let Some(place) = self.lanes.get_mut(lane.index as usize) {
            place.take_if(|function| function.lane == lane);
        }
    }

    fn request(&mut self, request: BridgeRequest, reply: ReplyTo) {
        let change = match request {
            BridgeRequest::Register { draft, replace } => Change::Register { draft, replace },
            BridgeRequest::Remove { name } => Change::Remove { name },
            BridgeRequest::Scale { name, replicas } => Change::Scale { name, replicas },
            BridgeRequest::ColdStarts { name } => return self.reply_cold_starts(&name, reply),
            BridgeRequest::PodReady {
                token,
                pod,
                address,
                timestamps,
            } => {
                let ready = PodReady {
                    token,
                    pod,
                    address,
                    timestamps,
                    reply,
                };
                return self.commands.push(BridgeCommand::PodReady(Box::new(ready)));
            }
        };
        if self.home == Home::Memory {
            return self.apply(change, Some(reply));
        }
        match self.registry.check(&change) {
            Ok(()) => self.commands.push(BridgeCommand::Change { change, reply }),
            Err(refused) => self.reply(reply, Reply::Refused(refused)),
        }
    }

    /// Applies a change to the registry.
    pub fn apply(&mut self, change: Change, reply: Option<ReplyTo>) {
        let mut out = RegistryOut::default();
        self.registry.change(change, reply, &mut out);
        self.deliver(out);
    }

    fn reply_cold_starts(&mut self, name: &str, to: ReplyTo) {
        let reply = if self.functions().contains_key(name) {
            Reply::ColdStarts(self.starts.of(name))
        } else {
            Reply::Refused(BridgeError::NotFound)
        };
        self.reply(to, reply);
    }

    /// Lets the scheduler replace every pod of WARM functions. This is needed after a change of a setting
    /// that affects pods and is in no spec.
    pub fn reshape_pods(&mut self) {
        for event in self.registry.reshape_pods() {
            self.event(event);
        }
    }

    /// Returns whether a draft differs from the registered function, or the draft's faults.
    pub fn differs(&self, draft: &FunctionDraft) -> Result<bool, BridgeError> {
        self.registry.differs(draft)
    }

    /// Registers a function for which no client waits, for instance a function from a file at the start.
    pub fn register(
        &mut self,
        draft: Box<FunctionDraft>,
        replace: bool,
    ) -> Result<(), BridgeError> {
        let mut out = RegistryOut::default();
        let change = Change::Register { draft, replace };
        self.registry.change(change, None, &mut out);
        let refused = out.replies.iter().find_map(|(_, reply)| match reply {
            Reply::Refused(refused) => Some(refused.clone()),
            _ => None,
        });
        self.deliver(out);
        refused.map_or(Ok(()), Err)
    }

    fn deliver(&mut self, out: RegistryOut) {
        for event in out.scheduler {
            self.event(event);
        }
        for update in out.io_threads {
            self.broadcast(|| message_of(&update));
            match update {
                FunctionUpdate::Function(function) => {
                    self.keep(&function);
                    self.commands.push(BridgeCommand::Function(function));
                }
                FunctionUpdate::Removed { lane, name, .. } => {
                    self.starts.forget(&name);
                    self.commands.push(BridgeCommand::Removed { lane, name });
                }
            }
        }
        for (to, reply) in out.replies {
            if let Some(to) = to {
                self.reply(to, reply);
            }
        }
    }

    fn keep(&mut self, function: &Arc<Function>) {
        let place = function.lane.index as usize;
        if self.lanes.len() <= place {
            self.lanes.resize(place + 1, None);
        }
        self.lanes[place] = Some(function.clone());
    }

    /// Sends an event to the scheduler.
    pub fn event(&mut self, event: Event) {
        self.send(Delivery::Scheduler(event));
    }

    pub fn broadcast(&mut self, mut message: impl FnMut() -> Message) {
        for number in 0..u16::try_from(self.io.len()).expect("few io threads") {
            self.send_to(ShardId::new(number), message());
        }
    }

    pub fn send_to(&mut self, shard: ShardId, message: Message) {
        self.send(Delivery::Io { shard, message });
    }

    /// Reports that a pod is gone. The io threads get the report before the scheduler, because they may have
    /// calls in the pod.
    pub fn gone(&mut self, pod: PodId, end: &PodEnd) {
        self.broadcast(|| Message::PodGone {
            pod,
            end: end.clone(),
        });
        self.event(Event::PodDown(pod));
    }

    pub fn reply(&mut self, to: ReplyTo, reply: Reply) {
        let token = to.token;
        self.send_to(to.shard, Message::Reply { token, reply });
    }

    /// Returns the registered functions by name.
    pub const fn functions(&self) -> &BTreeMap<Arc<str>, Arc<Function>> {
        self.registry.functions()
    }

    /// Returns the counters of removed functions whose lane the scheduler still has.
    pub fn leaving_stats(&self) -> impl Iterator<Item = &Arc<QueueStats>> {
        self.registry.leaving_stats()
    }

    /// Returns the function of a lane. A removed function is found until its lane is gone or belongs to
    /// another registration.
    pub fn function_at(&self, lane: LaneId) -> Option<&Arc<Function>> {
        let function = self.lanes.get(lane.index as usize)?.as_ref();
        function.filter(|function| function.lane == lane)
    }

    /// Returns whether every io thread has acknowledged every change and the backlog is empty.
    pub fn is_settled(&self) -> bool {
        self.backlog.is_empty() && self.registry.is_settled()
    }

    /// Returns how many messages wait for room.
    pub fn waiting(&self) -> usize {
        self.backlog.len()
    }

    fn flush(&mut self) {
        while let Some(delivery) = self.backlog.pop_front() {
            if let Err(back) = self.try_send(delivery) {
                return self.backlog.push_front(back);
            }
        }
    }

    fn send(&mut self, delivery: Delivery) {
        // A message goes behind the backlog, because messages must stay in order.
        let undelivered = if self.backlog.is_empty() {
            self.try_send(delivery).err()
        } else {
            Some(delivery)
        };
        if let Some(delivery) = undelivered {
            self.backlog.push_back(delivery);
            // The bell is rung, because the task in `controller_loop` may sleep, and has to deliver this
            // message later.
            self.inbox.bell.ring();
        }
    }

    fn try_send(&self, delivery: Delivery) -> Result<(), Delivery> {
        match delivery {
            Delivery::Scheduler(event) => self.scheduler.send(event).map_err(Delivery::Scheduler),
            Delivery::Io { shard, message } => match self.io.get(shard.index()) {
                Some(post) => post
                    .send(message)
                    .map_err(|message| Delivery::Io { shard, message }),
                None => Ok(()),
            },
        }
    }
}

fn message_of(update: &FunctionUpdate) -> Message {
    match update {
        FunctionUpdate::Function(function) => Message::Function(function.clone()),
        FunctionUpdate::Removed {
            lane,
            name,
            version,
        } => Message::FunctionRemoved {
            lane: *lane,
            name: name.clone(),
            version: *version,
        },
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
