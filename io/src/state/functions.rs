//! The functions that an io thread knows: its copy of the registry's table. The bridge's messages keep the
//! copy up to date.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;
use nanofaas_core::function::Function;
use nanofaas_core::message::PodAddress;
use nanofaas_core::metrics::FunctionMetrics;
use nanofaas_core::spec::{Endpoint, ExecutionMode, FunctionSpec};
use nanofaas_core::ticket::LaneId;

use crate::runtime::Runtime;

/// The port of an endpoint URL that names no port.
const HTTP_PORT: u16 = 80;
/// A registered function, as this thread knows it.
pub(crate) struct FunctionEntry {
    pub(crate) function: Arc<Function>,
    /// The `Host` header of requests to the function's pods.
    pub(crate) host: Box<[u8]>,
    /// The address of a POOL function's endpoint, or why the address is not known.
    pub(crate) endpoint: RefCell<Result<Rc<PodAddress>, Arc<str>>>,
}

impl FunctionEntry {
    /// Makes the entry of a registration. If the function's earlier entry `old` has the same URL, the address
    /// that was resolved for that URL is kept.
    pub(crate) fn new(function: Arc<Function>, old: Option<&Self>) -> Self {
        let endpoint = match old {
            Some(old) if old.function.spec.endpoint_url == function.spec.endpoint_url => {
                old.endpoint.borrow().clone()
            }
            _ => literal(&function),
        };
        Self {
            host: host_of(&function.spec),
            function,
            endpoint: RefCell::new(endpoint),
        }
    }

    pub(crate) fn metrics(&self, thread: &Runtime) -> &FunctionMetrics {
        self.function.stats.metrics(thread.id.index())
    }
}

#[derive(Default)]
pub(crate) struct FunctionTable {
    by_name: HashMap<Arc<str>, Rc<FunctionEntry>>,
    by_lane: Vec<Option<Rc<FunctionEntry>>>,
}

impl FunctionTable {
    pub(crate) fn get(&self, name: &str) -> Option<&Rc<FunctionEntry>> {
        self.by_name.get(name)
    }

    /// Returns the function that has the lane; none if that function was removed. Another function may have
    /// the lane's number now.
    pub(crate) fn at(&self, lane: LaneId) -> Option<&Rc<FunctionEntry>> {
        let entry = self.by_lane.get(lane.index as usize)?.as_ref();
        entry.filter(|entry| entry.function.lane == lane)
    }

    pub(crate) fn put(&mut self, entry: Rc<FunctionEntry>) {
        let lane = entry.function.lane.index as usize;
        if self.by_lane.len() <= lane {
            self.by_lane.resize(lane + 1, None);
        }
        self.by_lane[lane] = Some(entry.clone());
        self.by_name.insert(entry.function.name().clone(), entry);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(entry) = self.by_name.remove(name) {
            self.by_lane[entry.function.lane.index as usize] = None;
        }
    }

    /// Returns all functions, sorted by name.
    pub(crate) fn sorted(&self) -> Vec<Rc<FunctionEntry>> {
        let mut all: Vec<_> = self.by_name.values().cloned().collect();
        all.sort_by(|a, b| a.function.name().cmp(b.function.name()));
        all
    }
}

/// Returns the address of a POOL function's endpoint, if its URL contains an IP address or a socket path. The
/// first call then does not have to wait until the bridge has resolved a name.
fn literal(function: &Function) -> Result<Rc<PodAddress>, Arc<str>> {
    match &function.spec.endpoint_url {
        Some(Endpoint::Unix { socket, .. }) => Ok(Rc::new(PodAddress::Unix(socket.into()))),
        Some(Endpoint::Http { host, port, .. }) => match host.parse() {
            Ok(ip) => Ok(Rc::new(PodAddress::Tcp(SocketAddr::new(ip, *port)))),
            Err(_) => Err("the name of its endpoint was not resolved yet; call again".into()),
        },
        None => Err("it has no endpoint".into()),
    }
}

/// Returns the `Host` of requests to a function's pods: the host of a POOL function's `http` endpoint,
/// without the default port. For all other functions it is the function's name.
fn host_of(spec: &FunctionSpec) -> Box<[u8]> {
    let host = match &spec.endpoint_url {
        Some(Endpoint::Http { host, port, .. }) if spec.execution_mode == ExecutionMode::Pool => {
            let is_v6 = host.contains(':');
            let (open, close) = if is_v6 { ("[", "]") } else { ("", "") };
            if *port == HTTP_PORT {
                format!("{open}{host}{close}")
            } else {
                format!("{open}{host}{close}:{port}")
            }
        }
        _ => spec.name.to_string(),
    };
    host.into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanofaas_core::spec::{Defaults, Platform};

    #[test]
    fn the_host_is_the_endpoints_or_the_name() {
        for (url, expected) in [
            (Some("http://Example.com/a"), "Example.com"),
            (Some("http://example.com:80/"), "example.com"),
            (Some("http://example.com:8080?q"), "example.com:8080"),
            (Some("http://127.0.0.1:1"), "127.0.0.1:1"),
            (Some("http://[::1]:9000/"), "[::1]:9000"),
            (Some("http://[::1]/"), "[::1]"),
            (Some("http+unix:///run/a.sock:/b"), "name"),
            (None, "name"),
        ] {
            let draft = match url {
                Some(url) => {
                    format!(r#"{{"name":"name","executionMode":"POOL","endpointUrl":"{url}"}}"#)
                }
                None => r#"{"name":"name","executionMode":"LOCAL"}"#.to_owned(),
            };
            let draft = serde_json::from_str(&draft).expect("a draft");
            let spec = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, Platform::Local);
            let host = host_of(&spec.expect("a spec"));
            assert_eq!(str::from_utf8(&host), Ok(expected), "{url:?}");
        }
    }
}
