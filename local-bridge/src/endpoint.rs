//! Where POOL functions' calls go: names are resolved here, every 30 s, off the calls' path.
//! It never connects anywhere. One look-up serves all functions of a host.

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
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::bridge::Plane;

/// Between look-ups of a name that has an address, and of one that has none yet.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_UNKNOWN: Duration = Duration::from_secs(2);
/// How long one look-up may take.
const LOOKUP: Duration = Duration::from_secs(5);
/// Each has a thread while it lasts.
const LOOKUPS_AT_ONCE: usize = 8;

type HostKey = (String, u16);

struct Host {
    lanes: RefCell<BTreeSet<u32>>,
    /// What the io threads were told.
    told: RefCell<Option<Result<SocketAddr, Arc<str>>>>,
    is_failing: Cell<bool>,
}

/// The endpoints of all POOL functions.
pub(crate) struct Endpoints {
    hosts: RefCell<HashMap<HostKey, Rc<Host>>>,
    lanes: RefCell<HashMap<u32, HostKey>>,
    lookups: Semaphore,
}

impl Endpoints {
    pub(crate) fn new() -> Self {
        Self {
            hosts: RefCell::new(HashMap::new()),
            lanes: RefCell::new(HashMap::new()),
            lookups: Semaphore::new(LOOKUPS_AT_ONCE),
        }
    }

    /// A function is no more, or goes elsewhere.
    pub(crate) fn forget(&self, lane: u32) {
        let key = self.lanes.borrow_mut().remove(&lane);
        if let Some(host) = key.and_then(|key| self.hosts.borrow().get(&key).cloned()) {
            host.lanes.borrow_mut().remove(&lane);
        }
    }
}

/// Takes a new or changed function in, and says where its calls go as soon as that is known.
pub(crate) fn follow(plane: &Rc<Plane>, function: &Function) {
    let lane = function.lane;
    plane.endpoints.forget(lane);
    if function.spec.execution_mode != ExecutionMode::Pool {
        return;
    }
    match &function.spec.endpoint_url {
        None => {}
        Some(Endpoint::Unix { socket, .. }) => {
            tell(plane, lane, &Ok(PodAddress::Unix(PathBuf::from(socket))));
        }
        Some(Endpoint::Http { host, port, .. }) => match host.parse::<IpAddr>() {
            Ok(ip) => {
                let address = SocketAddr::new(ip, *port);
                tell(plane, lane, &Ok(PodAddress::Tcp(address)));
            }
            Err(_) => join(plane, lane, (host.clone(), *port)),
        },
    }
}

fn tell(plane: &Plane, lane: u32, address: &Result<PodAddress, Arc<str>>) {
    plane.say(|desk| {
        desk.broadcast(|| Message::Endpoint {
            lane,
            address: address.clone(),
        });
    });
}

fn join(plane: &Rc<Plane>, lane: u32, key: HostKey) {
    let endpoints = &plane.endpoints;
    endpoints.lanes.borrow_mut().insert(lane, key.clone());
    let known = endpoints.hosts.borrow().get(&key).cloned();
    if let Some(host) = known {
        host.lanes.borrow_mut().insert(lane);
        if let Some(told) = &*host.told.borrow() {
            tell(plane, lane, &told.clone().map(PodAddress::Tcp));
        }
        return;
    }
    let host = Rc::new(Host {
        lanes: RefCell::new(BTreeSet::from([lane])),
        told: RefCell::new(None),
        is_failing: Cell::new(false),
    });
    endpoints
        .hosts
        .borrow_mut()
        .insert(key.clone(), host.clone());
    let plane = plane.clone();
    spawn_local(async move { resolve(&plane, &key, &host).await });
}

/// Looks a name up again and again, until no function needs it.
async fn resolve(plane: &Plane, key: &HostKey, host: &Host) {
    loop {
        let found = look_up(plane, key).await;
        if host.lanes.borrow().is_empty() {
            plane.endpoints.hosts.borrow_mut().remove(key);
            return;
        }
        take(plane, key, host, found);
        let is_known = matches!(&*host.told.borrow(), Some(Ok(_)));
        sleep(if is_known { AGAIN } else { AGAIN_UNKNOWN }).await;
    }
}

async fn look_up(plane: &Plane, (host, port): &HostKey) -> Result<Vec<SocketAddr>, Arc<str>> {
    let _permit = plane.endpoints.lookups.acquire().await;
    match timeout(LOOKUP, lookup_host((host.as_str(), *port))).await {
        Err(_) => Err(format!("looking up {host} took longer than 5 s").into()),
        Ok(Err(error)) => Err(format!("cannot look up {host}: {error}").into()),
        Ok(Ok(found)) => Ok(found.collect()),
    }
}

fn take(plane: &Plane, key: &HostKey, host: &Host, found: Result<Vec<SocketAddr>, Arc<str>>) {
    let was = host.told.borrow().clone();
    let now = choose(was.as_ref(), found);
    if let Err(why) = &now {
        // Said once: the last good address stays in use.
        if !host.is_failing.replace(true) {
            tracing::warn!(host = key.0, "{why}");
        }
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
        tell(plane, *lane, &now.clone().map(PodAddress::Tcp));
    }
    *host.told.borrow_mut() = Some(now);
}

/// An address that is still among those found stays.
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
    fn an_address_stays_as_long_as_it_is_named() {
        let a: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        let b: SocketAddr = "127.0.0.2:80".parse().expect("an address");
        assert_eq!(choose(None, Ok(vec![a, b])), Ok(a));
        assert_eq!(choose(Some(&Ok(b)), Ok(vec![a, b])), Ok(b));
        assert_eq!(choose(Some(&Ok(b)), Ok(vec![a])), Ok(a));
        assert!(choose(Some(&Ok(b)), Ok(vec![])).is_err());
        assert_eq!(choose(Some(&Ok(b)), Err("down".into())), Err("down".into()));
    }
}
