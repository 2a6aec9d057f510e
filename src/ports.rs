//! Claims listen addresses. The io threads share a port with SO_REUSEPORT. A second control plane could share
//! that port, too, and the kernel would distribute connections to both processes. Each process therefore
//! claims an address before it listens there. `serve` claims its addresses before it starts a thread for
//! calls.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};

use nanofaas_io::start::listener;
use nix::errno::Errno;
use procfs::net::{TcpState, tcp, tcp6};
use procfs::process::{FDTarget, all_processes};

/// How many free ports are tried for port 0.
const TRIES: usize = 16;

/// An address that belongs to this process while this value exists.
#[derive(Debug)]
pub(crate) struct AddressClaim {
    /// The address, with the actual port if port 0 was requested.
    pub(crate) address: SocketAddr,
    /// A socket name that only one process of this network namespace can have. The kernel frees the name
    /// however the process ends.
    _name: UnixDatagram,
}

/// Why an address cannot be claimed. The message says what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {why}, or choose another address with {flag}")]
pub(crate) struct ClaimError {
    flag: &'static str,
    address: SocketAddr,
    why: String,
}

/// Replaces `[::]` (all addresses of both families) by `0.0.0.0` if the kernel has no IPv6.
fn any(wanted: SocketAddr) -> SocketAddr {
    let is_missing = || {
        let tried = listener((Ipv6Addr::UNSPECIFIED, 0).into());
        tried.is_err_and(|error| error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32))
    };
    if wanted.ip() == Ipv6Addr::UNSPECIFIED && is_missing() {
        tracing::info!(%wanted, "this machine has no IPv6; listening on 0.0.0.0");
        return (Ipv4Addr::UNSPECIFIED, wanted.port()).into();
    }
    wanted
}

/// Claims an address and returns a listener on it, without SO_REUSEPORT.
pub(crate) fn listen(
    flag: &'static str,
    wanted: SocketAddr,
) -> Result<(AddressClaim, TcpListener), ClaimError> {
    let wanted = any(wanted);
    let taken = |why| ClaimError {
        flag,
        address: wanted,
        why,
    };
    for _ in 0..TRIES {
        // This bind has no SO_REUSEPORT, so it fails if a process of any program listens there.
        let listener = listener(wanted).map_err(|error| taken(why(wanted, &error)))?;
        let address = listener
            .local_addr()
            .map_err(|error| taken(error.to_string()))?;
        match name(address) {
            Ok(name) => {
                let claim = AddressClaim {
                    address,
                    _name: name,
                };
                return Ok((claim, listener));
            }
            // Another control plane has claimed this port but does not listen yet. Try another port.
            Err(_) if wanted.port() == 0 => {}
            Err(_) => return Err(taken(format!("{}; stop it", holder(wanted)))),
        }
    }
    Err(taken(
        "every free port was taken meanwhile; try again".to_owned(),
    ))
}

/// Claims an address on which other threads of this process will listen.
pub(crate) fn claim(flag: &'static str, wanted: SocketAddr) -> Result<AddressClaim, ClaimError> {
    listen(flag, wanted).map(|(claim, _)| claim)
}

fn name(address: SocketAddr) -> io::Result<UnixDatagram> {
    let name = UnixAddress::from_abstract_name(format!("nanofaas/{address}"))?;
    UnixDatagram::bind_addr(&name)
}

fn why(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => format!("{}; stop it", holder(address)),
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address; use one of its own".into()
        }
        ErrorKind::PermissionDenied => "the port is a privileged one; run as root".into(),
        _ => error.to_string(),
    }
}

fn holder(address: SocketAddr) -> String {
    match listener_on(address.port()) {
        Some((pid, program)) => format!("process {pid} ({program}) listens there already"),
        None => "another process listens there already".to_owned(),
    }
}

/// Returns the process that listens on a port, if this process may read its descriptors.
fn listener_on(port: u16) -> Option<(i32, String)> {
    let tables = [tcp(), tcp6()].into_iter().flatten().flatten();
    let listening = tables
        .filter(|socket| socket.state == TcpState::Listen && socket.local_address.port() == port);
    let inodes: Vec<u64> = listening.map(|socket| socket.inode).collect();
    let is_one =
        |target: FDTarget| matches!(target, FDTarget::Socket(inode) if inodes.contains(&inode));
    let mut processes = all_processes().ok()?.flatten();
    let holder = processes.find(|process| {
        let mut open = process.fd().into_iter().flatten().flatten();
        open.any(|descriptor| is_one(descriptor.target))
    })?;
    let program = holder.stat().map(|stat| stat.comm).unwrap_or_default();
    Some((holder.pid, program))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn a_port_that_somebody_listens_on_names_him() {
        let other = TcpListener::bind(ANY).expect("a port");
        let address = other.local_addr().expect("an address");
        let message = claim("--listen", address)
            .expect_err("it is taken")
            .to_string();
        let pid = std::process::id().to_string();
        for part in ["--listen", &address.to_string(), &pid] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn a_claimed_address_is_refused_before_anybody_listens() {
        let first = claim("--listen", ANY).expect("a free port");
        assert_ne!(first.address.port(), 0);
        let message = claim("--management", first.address).expect_err("it is claimed");
        assert!(message.to_string().contains("--management"), "{message}");
        let address = first.address;
        drop(first);
        assert_eq!(
            claim("--listen", address).expect("given back").address,
            address
        );
    }

    #[test]
    fn free_ports_are_different_ones() {
        let claims: Vec<_> = (0..32)
            .map(|_| claim("--listen", ANY).expect("a free port").address)
            .collect();
        assert!(claims.iter().all(|address| address.port() != 0));
        let (claim, listener) = listen("--management", ANY).expect("a free port");
        assert_eq!(listener.local_addr().expect("an address"), claim.address);
    }

    #[test]
    fn an_address_of_another_machine_is_named_so() {
        let foreign = "192.0.2.1:8080".parse().expect("an address");
        let message = claim("--listen", foreign)
            .expect_err("not ours")
            .to_string();
        assert!(message.contains("no such address"), "{message}");
    }
}
