//! Looks up the addresses of POOL functions. Each host name is looked up again every 30 s, or every 2 s while
//! no address is known, so that no call waits for a look-up. Functions with the same host and port share one
//! look-up. This module opens no connection. The bridge's loop passes every function to this module.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nanofaas_core::function::Function;
use nanofaas_core::message::{Message, PodAddress};
use nanofaas_core::spec::{Endpoint, ExecutionMode};
use nanofaas_core::ticket::LaneId;
use nanofaas_core::work_queue::WorkQueue;
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// The pause between two look-ups of a name whose address is known.
const AGAIN: Duration = Duration::from_secs(30);
/// The pause between two look-ups of a name whose address is not known.
const AGAIN_UNKNOWN: Duration = Duration::from_secs(2);
const LOOKUP: Duration = Duration::from_secs(5);
/// The largest number of look-ups at the same time. Each one occupies a thread of tokio's blocking pool.
const LOOKUPS_AT_ONCE: usize = 8;

type HostKey = (String, u16);

struct EndpointHost {
    lanes: RefCell<BTreeSet<LaneId>>,
    /// The address or the error that was sent last to the io threads.
    sent: RefCell<Option<Result<SocketAddr, Arc<str>>>>,
    is_failing: Cell<bool>,
}

pub(super) struct Endpoints {
    work_queue: Rc<RefCell<WorkQueue>>,
    hosts: RefCell<HashMap<HostKey, Rc<EndpointHost>>>,
    lanes: RefCell<HashMap<LaneId, HostKey>>,
    lookups: Semaphore,
}

impl Endpoints {
    pub(super) fn new(work_queue: Rc<RefCell<WorkQueue>>) -> Rc<Self> {
        Rc::new(Self {
            work_queue,
            hosts: RefCell::new(HashMap::new()),
            lanes: RefCell::new(HashMap::new()),
            lookups: Semaphore::new(LOOKUPS_AT_ONCE),
        })
    }

    /// Sends the address of a new or changed function to the io threads as soon as it is known.
    pub(super) fn follow(self: &Rc<Self>, function: &Function) {
        let lane = function.lane;
        self.forget(lane);
        if function.spec.execution_mode != ExecutionMode::Pool {
            return;
        }
        match &function.spec.endpoint_url {
            None => {}
            Some(Endpoint::Unix { socket, .. }) => {
                self.send_address(lane, &Ok(PodAddress::Unix(PathBuf::from(socket))));
            }
            Some(Endpoint::Http { host, port, .. }) => match host.parse::<IpAddr>() {
                Ok(ip) => {
                    let address = SocketAddr::new(ip, *port);
                    self.send_address(lane, &Ok(PodAddress::Tcp(address)));
                }
                Err(_) => self.join(lane, (host.clone(), *port)),
            },
        }
    }

    /// Handles a function that was removed or got another endpoint.
    pub(super) fn forget(&self, lane: LaneId) {
        let key = self.lanes.borrow_mut().remove(&lane);
        if let Some(host) = key.and_then(|key| self.hosts.borrow().get(&key).cloned()) {
            host.lanes.borrow_mut().remove(&lane);
        }
    }

    fn send_address(&self, lane: LaneId, address: &Result<PodAddress, Arc<str>>) {
        self.work_queue
            .borrow_mut()
            .broadcast(|| Message::Endpoint {
                lane,
                address: address.clone(),
            });
    }

    fn join(self: &Rc<Self>, lane: LaneId, key: HostKey) {
        self.lanes.borrow_mut().insert(lane, key.clone());
        let known = self.hosts.borrow().get(&key).cloned();
        if let Some(host) = known {
            host.lanes.borrow_mut().insert(lane);
            if let Some(sent) = &*host.sent.borrow() {
                self.send_address(lane, &sent.clone().map(PodAddress::Tcp));
            }
            return;
        }
        let host = Rc::new(EndpointHost {
            lanes: RefCell::new(BTreeSet::from([lane])),
            sent: RefCell::new(None),
            is_failing: Cell::new(false),
        });
        self.hosts.borrow_mut().insert(key.clone(), host.clone());
        let this = self.clone();
        spawn_local(async move { this.resolve(&key, &host).await });
    }

    /// Looks a name up regularly until no function has it as its host.
    async fn resolve(&self, key: &HostKey, host: &EndpointHost) {
        loop {
            let found = self.look_up(key).await;
            if host.lanes.borrow().is_empty() {
                self.hosts.borrow_mut().remove(key);
                return;
            }
            self.take(key, host, found);
            let is_known = matches!(&*host.sent.borrow(), Some(Ok(_)));
            sleep(if is_known { AGAIN } else { AGAIN_UNKNOWN }).await;
        }
    }

    async fn look_up(&self, (host, port): &HostKey) -> Result<Vec<SocketAddr>, Arc<str>> {
        let _permit = self.lookups.acquire().await;
        match timeout(LOOKUP, lookup_host((host.as_str(), *port))).await {
            Err(_) => Err(format!("looking up {host} took longer than 5 s").into()),
            Ok(Err(error)) => Err(format!("cannot look up {host}: {error}").into()),
            Ok(Ok(found)) => Ok(found.collect()),
        }
    }

    fn take(&self, key: &HostKey, host: &EndpointHost, found: Result<Vec<SocketAddr>, Arc<str>>) {
        let was = host.sent.borrow().clone();
        let now = choose(was.as_ref(), found);
        if let Err(why) = &now {
            // Log only the first of several failures in a row.
            if !host.is_failing.replace(true) {
                tracing::warn!(host = key.0, "{why}");
            }
            // Keep the last good address in use.
            if matches!(was, Some(Ok(_))) {
                return;
            }
        } else {
            host.is_failing.set(false);
        }
        if was.as_ref() == Some(&now) {
            return;
        }
        for lane in host.lanes.borrow().iter() {
            self.send_address(*lane, &now.clone().map(PodAddress::Tcp));
        }
        *host.sent.borrow_mut() = Some(now);
    }
}

/// Returns the previous address if the name still resolves to it, and the first found address if not.
fn choose(
    was: Option<&Result<SocketAddr, Arc<str>>>,
    found: Result<Vec<SocketAddr>, Arc<str>>,
) -> Result<SocketAddr, Arc<str>> {
    let found = found?;
    if let Some(Ok(was)) = was
        && found.contains(was)
    {
        return Ok(*was);
    }
    found
        .first()
        .copied()
        .ok_or_else(|| "its host name has no address".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lives_while_it_is_named() {
        let a: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        let b: SocketAddr = "127.0.0.2:80".parse().expect("an address");
        assert_eq!(choose(None, Ok(vec![a, b])), Ok(a));
        assert_eq!(choose(Some(&Ok(b)), Ok(vec![a, b])), Ok(b));
        assert_eq!(choose(Some(&Ok(b)), Ok(vec![a])), Ok(a));
        assert!(choose(Some(&Ok(b)), Ok(vec![])).is_err());
        assert_eq!(choose(Some(&Ok(b)), Err("down".into())), Err("down".into()));
    }
}
