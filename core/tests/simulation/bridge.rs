//! The model of the bridge executes the scheduler's orders: it starts and stops pods, late and sometimes
//! without success, and sends the answers. Pods of this bridge may die. The model also has the real registry,
//! which clients change.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use nanofaas_core::event::{Event, Order, StartFailure};
use nanofaas_core::message::Reply;
use nanofaas_core::registry::{Change, Registry, RegistryOut};
use nanofaas_core::spec::{Defaults, Platform};
use nanofaas_core::ticket::{LaneId, PodId};
use nanofaas_core::time::Uptime;

use crate::environment::{SharedEnvironment, ToBridge, ToIo};
use crate::scenario::{MS, Nature, SECOND, StartBehaviour, draft};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BridgeAct {
    Ready(PodId),
    StartFails(PodId, bool),
    IsHeldUp(PodId),
    /// The process ends. The bridge notices the end a little later, with `SeenDead`.
    Dies(PodId),
    SeenDead(PodId),
    Answers(PodId),
    /// The pod has not answered its probe for five seconds, so the bridge ends it.
    NeverAnswered(PodId),
    Stopped(PodId),
    Drained(PodId),
}

struct SimulatedPod {
    /// True if `PodUp` was sent.
    answered: bool,
    nature: Nature,
}

pub(crate) struct SimulatedBridge {
    pub(crate) registry: Registry,
    pods: BTreeMap<PodId, SimulatedPod>,
    acts: BinaryHeap<Reverse<(Uptime, u64)>>,
    what: BTreeMap<u64, BridgeAct>,
    sequence: u64,
    lane_names: BTreeMap<LaneId, Arc<str>>,
    gone: BTreeSet<LaneId>,
    pub(crate) started: u64,
    pub(crate) deaths: u64,
    pub(crate) changes: u64,
    /// Pods that have died, but whose connections in the io threads are not broken yet.
    pub(crate) dead: Vec<PodId>,
    /// True at the end of a run: pods no longer die at random, and each living pod answers its probes.
    pub(crate) calm: bool,
}

impl SimulatedBridge {
    pub(crate) fn new(io_threads: usize) -> Self {
        Self {
            registry: Registry::new(io_threads, Defaults::DEFAULT, Platform::Local),
            pods: BTreeMap::new(),
            acts: BinaryHeap::new(),
            what: BTreeMap::new(),
            sequence: 0,
            lane_names: BTreeMap::new(),
            gone: BTreeSet::new(),
            started: 0,
            deaths: 0,
            changes: 0,
            dead: Vec::new(),
            calm: false,
        }
    }

    pub(crate) fn pods(&self) -> usize {
        self.pods.len()
    }

    pub(crate) fn next_at(&self) -> Option<Uptime> {
        self.acts.peek().map(|Reverse((at, _))| *at)
    }

    fn later(&mut self, at: Uptime, act: BridgeAct) {
        self.sequence += 1;
        self.acts.push(Reverse((at, self.sequence)));
        self.what.insert(self.sequence, act);
    }

    pub(crate) fn is_due(&self, shared: &SharedEnvironment) -> bool {
        shared.to_bridge.has_some() || self.next_at().is_some_and(|at| at <= shared.now)
    }

    pub(crate) fn pass(&mut self, shared: &mut SharedEnvironment) {
        let most = shared.rng.pick(&[1, 2, 10, usize::MAX]);
        for _ in 0..most {
            let Some(message) = shared.to_bridge.pop() else {
                break;
            };
            match message {
                ToBridge::Order(order) => self.order(order, shared),
                ToBridge::Ack(shard, version) => {
                    let mut out = RegistryOut::default();
                    self.registry.acknowledge(shard, version, &mut out);
                    self.deliver(out, shared);
                }
                ToBridge::Request(change) => {
                    self.changes += 1;
                    let mut out = RegistryOut::default();
                    self.registry.change(change, None, &mut out);
                    self.deliver(out, shared);
                }
            }
        }
        while let Some(Reverse((at, sequence))) = self.acts.peek().copied() {
            if at > shared.now {
                break;
            }
            self.acts.pop();
            let act = self.what.remove(&sequence).expect("each act once");
            self.act(act, shared);
        }
    }

    fn deliver(&mut self, out: RegistryOut, shared: &mut SharedEnvironment) {
        for event in out.scheduler {
            shared.send_event(event);
        }
        for update in out.io_threads {
            let all = shared.to_io.iter();
            all.for_each(|ring| ring.push(ToIo::Update(update.clone())));
        }
        for (_, reply) in out.replies {
            match reply {
                Reply::Registered { function, created } => {
                    self.lane_names
                        .insert(function.lane, function.name().clone());
                    if created && shared.rng.chance(100) {
                        let (lane, stale) = (function.lane, shared.rng.chance(500));
                        let token = shared.rng.next();
                        shared.send_event(Event::Adopt { lane, token, stale });
                    }
                }
                Reply::Refused(refused) => shared.show(|| format!("refused: {refused:?}")),
                _ => {}
            }
        }
    }

    fn nature(&self, lane: LaneId, shared: &SharedEnvironment) -> Nature {
        let mut natures = shared.natures.values();
        let any = natures.next().expect("there is a function");
        let name = self.lane_names.get(&lane);
        *name
            .and_then(|name| shared.natures.get(name))
            .unwrap_or(any)
    }

    fn order(&mut self, order: Order, shared: &mut SharedEnvironment) {
        match order {
            Order::Start { lane, pod, .. } => self.start(lane, pod, shared),
            Order::Adopted {
                lane,
                pod: Some(pod),
                ..
            } => {
                let nature = self.nature(lane, shared);
                let new = SimulatedPod {
                    answered: false,
                    nature,
                };
                self.pods.insert(pod, new);
                let at = shared.now + shared.rng.span(SECOND);
                self.later(at, BridgeAct::Ready(pod));
            }
            Order::Adopted { pod: None, .. } => {}
            Order::Stop { pod } => {
                let running = shared.running_in.get(&pod).copied().unwrap_or(0);
                assert_eq!(running, 0, "a pod is stopped with calls in it");
                let at = shared.now + shared.rng.span(SECOND);
                self.later(at, BridgeAct::Stopped(pod));
            }
            Order::Probe { pod } => {
                if !self.pods.contains_key(&pod) {
                    return;
                }
                let deaf = !self.calm && shared.rng.chance(150);
                if shared.is_alive(pod) && !deaf {
                    let at = shared.now + shared.rng.span(SECOND);
                    self.later(at, BridgeAct::Answers(pod));
                } else {
                    self.later(shared.now + 5 * SECOND, BridgeAct::NeverAnswered(pod));
                }
            }
            Order::LaneGone { lane } => {
                assert!(self.gone.insert(lane), "a lane is gone twice");
                self.registry.lane_gone(lane);
            }
        }
    }

    fn start(&mut self, lane: LaneId, pod: PodId, shared: &mut SharedEnvironment) {
        self.started += 1;
        let nature = self.nature(lane, shared);
        let rng = &mut shared.rng;
        let at = shared.now + rng.span(nature.start_max);
        let fails = match nature.starts {
            StartBehaviour::Good | StartBehaviour::CrashLoop => None,
            StartBehaviour::Flaky => rng.chance(500).then(|| rng.chance(100)),
            StartBehaviour::Broken { permanent } => Some(permanent),
        };
        if self.started.is_multiple_of(8) {
            self.later(shared.now + nature.start_max / 2, BridgeAct::IsHeldUp(pod));
        }
        let answered = false;
        let new = SimulatedPod { answered, nature };
        assert!(self.pods.insert(pod, new).is_none());
        match fails {
            Some(permanent) => self.later(at, BridgeAct::StartFails(pod, permanent)),
            None => self.later(at, BridgeAct::Ready(pod)),
        }
    }

    fn act(&mut self, act: BridgeAct, shared: &mut SharedEnvironment) {
        match act {
            BridgeAct::Ready(pod) => self.ready(pod, shared),
            BridgeAct::StartFails(pod, permanent) => {
                // If the pod was stopped before this act, its `PodDown` was sent already, and no
                // `StartFailed` may follow.
                if self.pods.remove(&pod).is_some() {
                    let message = "it does not start".into();
                    let failure = StartFailure { permanent, message };
                    shared.send_event(Event::StartFailed { pod, failure });
                }
            }
            // The event is sent even if the pod is up or gone, because a real report may be late, too.
            BridgeAct::IsHeldUp(pod) => {
                let why = Some("it waits".into());
                shared.send_event(Event::StartHeldUp { pod, why });
            }
            BridgeAct::Dies(pod) => {
                if shared.alive.remove(&pod) {
                    self.deaths += 1;
                    self.dead.push(pod);
                    let seen = shared.now + shared.rng.span(SECOND);
                    self.later(seen, BridgeAct::SeenDead(pod));
                }
            }
            BridgeAct::SeenDead(pod) | BridgeAct::Stopped(pod) => self.down(pod, shared),
            BridgeAct::Answers(pod) => {
                if self.pods.contains_key(&pod) {
                    if shared.is_alive(pod) {
                        shared.send_event(Event::PodUp(pod));
                    } else {
                        self.later(shared.now + 4 * SECOND, BridgeAct::NeverAnswered(pod));
                    }
                }
            }
            BridgeAct::NeverAnswered(pod) => self.down(pod, shared),
            BridgeAct::Drained(pod) => {
                if self.pods.contains_key(&pod) {
                    shared.send_event(Event::PodLeaving(pod));
                }
            }
        }
    }

    fn ready(&mut self, pod: PodId, shared: &mut SharedEnvironment) {
        let Some(found) = self.pods.get_mut(&pod) else {
            return;
        };
        found.answered = true;
        let nature = found.nature;
        shared.alive.insert(pod);
        shared.send_event(Event::PodUp(pod));
        let rng = &mut shared.rng;
        if nature.starts == StartBehaviour::CrashLoop {
            let at = shared.now + rng.span(MS);
            self.later(at, BridgeAct::Dies(pod));
        } else if !self.calm && rng.chance(nature.mortality) {
            let at = shared.now + rng.span(5 * SECOND);
            let drained = rng.chance(300);
            self.later(
                at,
                if drained {
                    BridgeAct::Drained(pod)
                } else {
                    BridgeAct::Dies(pod)
                },
            );
        }
    }

    fn down(&mut self, pod: PodId, shared: &mut SharedEnvironment) {
        if self.pods.remove(&pod).is_none() {
            return;
        }
        if shared.alive.remove(&pod) {
            self.dead.push(pod);
        }
        shared.send_event(Event::PodDown(pod));
    }

    pub(crate) fn random_change(&mut self, names: &[Arc<str>], shared: &mut SharedEnvironment) {
        let name = names[shared.rng.below(names.len() as u64) as usize].clone();
        let register = |shared: &mut SharedEnvironment, name: &str| Change::Register {
            draft: draft(&mut shared.rng, name),
            replace: true,
        };
        let change = match shared.rng.below(10) {
            0..3 => Change::Remove { name },
            3..5 => {
                // The function is removed and registered again at once, so that the events of both changes
                // are in flight together.
                shared
                    .to_bridge
                    .push(ToBridge::Request(Change::Remove { name: name.clone() }));
                register(shared, &name)
            }
            5..6 => Change::Scale {
                name,
                replicas: shared.rng.within(0, 4) as u32,
            },
            _ => register(shared, &name),
        };
        shared.to_bridge.push(ToBridge::Request(change));
    }
}
