//! Finds out whether a pod's own server listens on a port. It reads from /proc which sockets listen there,
//! and which sockets the pod's processes hold. Without this check, another process that has taken the port
//! could get the pod's calls.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::unistd::Pid;

use crate::guard::descent;

const LISTEN: &str = "0A";

/// Returns whether `pid` and its descendants hold every socket that could answer at a loopback address and
/// port. Returns false if there is no such socket, or if its holder cannot be read.
pub(crate) fn is_of(pid: Pid, ip: IpAddr, port: u16) -> bool {
    let mut inodes = listeners(ip, port);
    if inodes.is_empty() {
        return false;
    }
    for pid in descent::family_of(pid) {
        for held in sockets(pid) {
            inodes.remove(&held);
        }
        if inodes.is_empty() {
            return true;
        }
    }
    false
}

/// Returns the inodes of the sockets that listen on the port, at this address or at all addresses.
fn listeners(ip: IpAddr, port: u16) -> HashSet<u64> {
    let any = [v4(Ipv4Addr::UNSPECIFIED), v6(Ipv6Addr::UNSPECIFIED)];
    let own = match ip {
        IpAddr::V4(ip) => vec![v4(ip), v6(ip.to_ipv6_mapped())],
        IpAddr::V6(ip) => vec![v6(ip)],
    };
    let is_there = |address: &str| {
        let Some((ip, number)) = address.split_once(':') else {
            return false;
        };
        let is_ip = any.iter().chain(&own).any(|known| known == ip);
        is_ip && u16::from_str_radix(number, 16) == Ok(port)
    };
    let mut found = HashSet::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let mut fields = line.split_ascii_whitespace();
            let (address, state) = (fields.nth(1), fields.nth(1));
            if state == Some(LISTEN) && address.is_some_and(is_there) {
                // Skip the fields between the state and the inode: queues, timer, retries, uid and timeout.
                let inode = fields.nth(5).and_then(|inode| inode.parse().ok());
                // If the inode cannot be parsed, insert zero. No socket has this inode, so `is_of` returns
                // false.
                found.insert(inode.unwrap_or(0));
            }
        }
    }
    found
}

/// The tables have hexadecimal words in this machine's byte order.
fn v4(ip: Ipv4Addr) -> String {
    format!("{:08X}", u32::from_ne_bytes(ip.octets()))
}

fn v6(ip: Ipv6Addr) -> String {
    let octets = ip.octets();
    let (words, _) = octets.as_chunks::<4>();
    let words = words.iter().map(|word| u32::from_ne_bytes(*word));
    words.map(|word| format!("{word:08X}")).collect()
}

fn sockets(pid: Pid) -> Vec<u64> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"));
    let open = open.into_iter().flatten().flatten();
    let socket = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?;
        inode.strip_suffix(']')?.parse().ok()
    };
    open.filter_map(socket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::getpid;
    use std::net::TcpListener;
    use std::process::{Child, Command, Stdio};

    fn at(listener: &TcpListener) -> (IpAddr, u16) {
        let address = listener.local_addr().expect("bound");
        (address.ip(), address.port())
    }

    fn bystander() -> Child {
        let mut command = Command::new("sleep");
        command.arg("1000").stdout(Stdio::null());
        command.spawn().expect("sleep")
    }

    #[test]
    fn a_listener_belongs_to_its_process_alone() {
        let mut other = bystander();
        let other_pid = Pid::from_raw(other.id().try_into().expect("a pid"));
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let listener = TcpListener::bind(bound).expect("a port");
            let (_, port) = at(&listener);
            let ip = Ipv4Addr::LOCALHOST.into();
            assert!(is_of(getpid(), ip, port), "{bound}");
            assert!(!is_of(other_pid, ip, port), "{bound}");
            drop(listener);
            assert!(!is_of(getpid(), ip, port), "nothing listens at {bound}");
        }
        let _ = other.kill();
        let _ = other.wait();
    }

    #[test]
    fn another_address_is_another_listener() {
        let listener = TcpListener::bind("127.0.0.2:0").expect("a port");
        let (_, port) = at(&listener);
        assert!(!is_of(getpid(), Ipv4Addr::LOCALHOST.into(), port));
        assert!(is_of(getpid(), Ipv4Addr::new(127, 0, 0, 2).into(), port));
        assert!(!is_of(getpid(), Ipv6Addr::LOCALHOST.into(), port));
    }

    #[test]
    fn addresses_are_written_as_the_tables_have_them() {
        let v4 = v4(Ipv4Addr::LOCALHOST);
        let mapped = v6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        if cfg!(target_endian = "little") {
            assert_eq!(v4, "0100007F");
            assert_eq!(mapped, "0000000000000000FFFF00000100007F");
        }
        assert_eq!(v6(Ipv6Addr::UNSPECIFIED), "0".repeat(32));
    }
}
