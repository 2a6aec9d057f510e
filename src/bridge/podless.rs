//! The backend that runs no pods (`--backend none`): functions can be registered, and those that
//! need no pod of ours (LOCAL, POOL) called; a start fails with what to do about it.
//! It never starts a process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nanofaas_core::desk::{Desk, Rest, Work};
use nanofaas_core::event::{Event, StartFailure};
use nanofaas_core::function::Function;
use nanofaas_core::message::{Message, PodAddress, PodEnd, Refused, Reply};
use nanofaas_core::outcome::Failure;
use nanofaas_core::spec::{Endpoint, ExecutionMode};
use nanofaas_core::ticket::PodRef;
use tokio::net::lookup_host;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::first_of;

const NO_PODS: &str = "this control plane runs no pods; start it with another --backend, \
                       or give the function executionMode POOL or LOCAL";
/// When a ring was full, it is tried again after this.
const RING_PAUSE: Duration = Duration::from_millis(1);
/// Between two look-ups of a name, and after one that failed.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_FAILED: Duration = Duration::from_secs(2);
/// How long a look-up may take.
const LOOK_UP_MAX: Duration = Duration::from_secs(5);
/// Each has a thread while it lasts.
const LOOK_UPS_AT_ONCE: usize = 8;

/// Runs until `shutdown`.
pub(super) async fn run(
    desk: Rc<RefCell<Desk>>,
    wake: Arc<Notify>,
    shutdown: impl Future<Output = ()>,
) {
    let podless = Podless {
        desk,
        wake,
        look_ups: Rc::new(Semaphore::new(LOOK_UPS_AT_ONCE)),
        names: HashMap::new(),
    };
    first_of(podless.serve(), shutdown).await;
}

struct Podless {
    desk: Rc<RefCell<Desk>>,
    wake: Arc<Notify>,
    look_ups: Rc<Semaphore>,
    /// Who looks the name of a lane's endpoint up.
    names: HashMap<u32, AbortOnDrop>,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Podless {
    async fn serve(mut self) {
        loop {
            let work = self.desk.borrow_mut().pump();
            for work in work {
                self.take(work);
            }
            let rest = self.desk.borrow_mut().rest();
            match rest {
                Rest::No => tokio::task::yield_now().await,
                Rest::Shortly => {
                    let _ = timeout(RING_PAUSE, self.wake.notified()).await;
                }
                Rest::UntilBell => self.wake.notified().await,
            }
        }
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Function(function) => self.follow(&function),
            Work::Removed { lane, .. } => {
                self.names.remove(&lane);
            }
            Work::Start { pod, .. } => {
                let failure = StartFailure {
                    permanent: true,
                    message: NO_PODS.into(),
                };
                let event = Event::StartFailed { pod, failure };
                self.desk.borrow_mut().event(event);
            }
            Work::Stop { pod } | Work::Probe { pod } | Work::Adopted { pod, .. } => self.gone(pod),
            Work::Job(job) => {
                let message = Message::JobEnded {
                    call: job.call,
                    attempt: job.attempt,
                    failure: Failure::ColdStart(NO_PODS.into()),
                    oom: false,
                };
                self.desk.borrow_mut().tell(job.call.thread, message);
            }
            Work::JobStop { .. } => {}
            Work::ColdStarts { name, reply } => {
                let mut desk = self.desk.borrow_mut();
                let answer = if desk.functions().contains_key(&name) {
                    Reply::ColdStarts(Vec::new())
                } else {
                    Reply::Refused(Refused::NotFound)
                };
                desk.reply(reply, answer);
            }
            Work::PodReady { reply, .. } => {
                let refused = Reply::Refused(Refused::NotFound);
                self.desk.borrow_mut().reply(reply, refused);
            }
        }
    }

    fn gone(&self, pod: PodRef) {
        let mut desk = self.desk.borrow_mut();
        let end = PodEnd {
            oom: false,
            message: NO_PODS.into(),
        };
        desk.broadcast(|| Message::PodGone {
            pod,
            end: end.clone(),
        });
        desk.event(Event::PodDown(pod));
    }

    /// Says where a POOL function's calls go.
    fn follow(&mut self, function: &Function) {
        let lane = function.lane;
        self.names.remove(&lane);
        if function.spec.execution_mode != ExecutionMode::Pool {
            return;
        }
        let to = Told {
            desk: self.desk.clone(),
            wake: self.wake.clone(),
            lane,
        };
        match &function.spec.endpoint_url {
            None => {}
            Some(Endpoint::Unix { socket, .. }) => {
                to.tell(&Ok(PodAddress::Unix(PathBuf::from(socket))));
            }
            Some(Endpoint::Http { host, port, .. }) => match host.parse::<IpAddr>() {
                Ok(ip) => to.tell(&Ok(PodAddress::Tcp(SocketAddr::new(ip, *port)))),
                Err(_) => {
                    let name = (host.clone(), *port);
                    let resolving = resolve(name, self.look_ups.clone(), to);
                    self.names.insert(lane, AbortOnDrop(spawn_local(resolving)));
                }
            },
        }
    }
}

/// The io threads, as far as one lane's endpoint is concerned.
struct Told {
    desk: Rc<RefCell<Desk>>,
    wake: Arc<Notify>,
    lane: u32,
}

impl Told {
    fn tell(&self, address: &Result<PodAddress, Arc<str>>) {
        let lane = self.lane;
        self.desk.borrow_mut().broadcast(|| Message::Endpoint {
            lane,
            address: address.clone(),
        });
        // What found a ring full is tried again by the loop, which may sleep.
        self.wake.notify_one();
    }
}

/// Looks a name up again and again; once there is an address, a failure keeps the last one.
async fn resolve(name: (String, u16), look_ups: Rc<Semaphore>, to: Told) {
    let mut last = None;
    loop {
        let found = {
            let _place = look_ups.acquire().await;
            look_up(&name).await
        };
        let failed = found.is_err();
        let keeps = matches!(&found, Ok(all) if last.is_some_and(|last| all.contains(&last)));
        match found {
            Ok(all) if !keeps => {
                last = all.first().copied();
                if let Some(address) = last {
                    to.tell(&Ok(PodAddress::Tcp(address)));
                }
            }
            Err(why) if last.is_none() => to.tell(&Err(why)),
            _ => {}
        }
        sleep(if failed { AGAIN_FAILED } else { AGAIN }).await;
    }
}

/// At least one address.
async fn look_up((host, port): &(String, u16)) -> Result<Vec<SocketAddr>, Arc<str>> {
    let found = match timeout(LOOK_UP_MAX, lookup_host((host.as_str(), *port))).await {
        Err(_) => return Err(format!("the look-up of {host} takes too long").into()),
        Ok(Err(error)) => return Err(format!("{host} has no address: {error}").into()),
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
    };
    if found.is_empty() {
        return Err(format!("{host} has no address").into());
    }
    Ok(found)
}
