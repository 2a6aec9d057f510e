//! Finds free loopback ports for pods that run their own HTTP server. Each port is reserved for one pod of
//! this control plane until that pod is gone. This module does not listen on the port.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::rc::Rc;

use nanofaas_backend::random::random;
use tokio::net::TcpSocket;

/// The range of ports for pods. Ephemeral ports are left out, unless the whole range is ephemeral.
const PORTS: RangeInclusive<u16> = 20_000..=65_535;

pub(crate) struct Ports {
    /// The ports that the kernel gives to connections, and to listeners that name no port. Another process
    /// could get such a port before the pod binds it.
    ephemeral: RangeInclusive<u16>,
    taken: RefCell<HashSet<u16>>,
}

/// A pod's port, which is reserved until this value is dropped.
pub(crate) struct PodPort {
    pub(crate) number: u16,
    ports: Rc<Ports>,
}

impl Drop for PodPort {
    fn drop(&mut self) {
        self.ports.taken.borrow_mut().remove(&self.number);
    }
}

impl Ports {
    pub(crate) fn new() -> Rc<Self> {
        let range =
            fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        Rc::new(Self::outside(ephemeral(&range)))
    }

    fn outside(ephemeral: RangeInclusive<u16>) -> Self {
        Self {
            ephemeral,
            taken: RefCell::default(),
        }
    }

    /// Reserves a port that is free now. The search begins at a random port, so that two control planes
    /// seldom try the same ports.
    pub(crate) fn take(self: &Rc<Self>) -> io::Result<PodPort> {
        let count = self.candidates().count();
        let first = usize::from_ne_bytes(random()) % count;
        for number in self.candidates().cycle().skip(first).take(count) {
            let is_taken = self.taken.borrow().contains(&number);
            if !is_taken && is_free(number)? {
                self.taken.borrow_mut().insert(number);
                let ports = self.clone();
                return Ok(PodPort { number, ports });
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    fn candidates(&self) -> impl Iterator<Item = u16> + Clone {
        let ephemeral = self.ephemeral.clone();
        let has_all = ephemeral.contains(PORTS.start()) && ephemeral.contains(PORTS.end());
        PORTS.filter(move |port| has_all || !ephemeral.contains(port))
    }
}

/// Returns whether a server could bind the port at all addresses of IPv4 and of IPv6.
fn is_free(port: u16) -> io::Result<bool> {
    let v4 = (TcpSocket::new_v4()?, IpAddr::from(Ipv4Addr::UNSPECIFIED));
    // A machine without IPv6 has only the IPv4 check.
    let v6 = TcpSocket::new_v6().map(|socket| (socket, IpAddr::from(Ipv6Addr::UNSPECIFIED)));
    // Check the addresses one after the other, because our own IPv4 socket would conflict with the IPv6
    // socket.
    for (socket, address) in std::iter::once(v4).chain(v6) {
        if let Err(error) = socket.bind(SocketAddr::new(address, port))
            && error.kind() == io::ErrorKind::AddrInUse
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Parses the kernel's setting. If this fails, returns the kernel's default range.
fn ephemeral(setting: &str) -> RangeInclusive<u16> {
    let mut bounds = setting.split_ascii_whitespace().map(str::parse);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => 32_768..=60_999,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_free_port_belongs_to_no_other() {
        let ports = Ports::new();
        let taken: Vec<PodPort> = (0..200).map(|_| ports.take().expect("free")).collect();
        let numbers: HashSet<u16> = taken.iter().map(|port| port.number).collect();
        assert_eq!(numbers.len(), taken.len());
        for port in &taken {
            assert!(!ports.ephemeral.contains(&port.number));
            TcpListener::bind(("127.0.0.1", port.number)).expect("free");
        }
        drop(taken);
        assert!(ports.taken.borrow().is_empty());
    }

    #[test]
    fn two_planes_seldom_take_the_same_ports() {
        let planes = [Ports::new(), Ports::new()];
        let [one, other] = planes.each_ref().map(|ports| {
            let taken: Vec<PodPort> = (0..50).map(|_| ports.take().expect("free")).collect();
            taken
                .iter()
                .map(|port| port.number)
                .collect::<HashSet<u16>>()
        });
        let same = one.intersection(&other).count();
        assert!(same < 10, "{same} of 50");
    }

    #[test]
    fn a_servers_port_is_not_free() {
        let port = Ports::new().take().expect("free").number;
        for address in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
            let Ok(server) = TcpListener::bind((address, port)) else {
                assert!(address.contains(':'), "a machine without IPv6");
                continue;
            };
            assert!(!is_free(port).expect("asked"), "{address}");
            drop(server);
        }
        assert!(is_free(port).expect("asked"));
    }

    #[test]
    fn one_kernel_port_is_taken_if_all_are() {
        let may_be = |ports: &Ports, number| ports.candidates().any(|port| port == number);
        let all = Ports::outside(1024..=65_535);
        assert!(may_be(&all, 20_000) && may_be(&all, 40_000));
        let some = Ports::outside(ephemeral("32768\t60999\n"));
        assert!(may_be(&some, 20_000) && !may_be(&some, 40_000) && may_be(&some, 61_000));
        assert_eq!(ephemeral(""), 32_768..=60_999);
    }
}
