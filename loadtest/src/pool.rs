//! Holds the connections of a run, one for each client and address, and the epoll set that watches them. This
//! module sends no request and reads no clock. The load client owns the pool.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::address::{ParsedUrl, ServerAddress};
use crate::connection::{ConnectionState, LoadConnection};

pub(crate) struct Pool {
    pub(crate) epoll: Epoll,
    /// The distinct addresses; each client has one connection to each of them.
    addresses: Vec<ServerAddress>,
    /// The index of each target's address.
    address_of: Vec<usize>,
    /// The connections. The connection of a client to an address has the index `client * addresses +
    /// address`.
    pub(crate) connections: Vec<LoadConnection>,
}

impl Pool {
    /// Connects every client to every address.
    pub(crate) fn open(urls: &[ParsedUrl], clients: usize) -> Result<Self, String> {
        let mut addresses: Vec<ServerAddress> = Vec::new();
        let mut address_of = Vec::new();
        for parsed in urls {
            let known = addresses
                .iter()
                .position(|address| *address == parsed.address);
            address_of.push(known.unwrap_or_else(|| {
                addresses.push(parsed.address.clone());
                addresses.len() - 1
            }));
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(refused)?;
        let count = clients * addresses.len();
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            let connection = LoadConnection::open(&addresses[index % addresses.len()])?;
            if let Some(socket) = connection.socket() {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
                epoll.add(socket, event).map_err(refused)?;
            }
            connections.push(connection);
        }
        Ok(Self {
            epoll,
            addresses,
            address_of,
            connections,
        })
    }

    pub(crate) fn addresses(&self) -> usize {
        self.addresses.len()
    }

    pub(crate) fn address_of(&self, target: u32) -> usize {
        self.address_of[target as usize]
    }

    /// Returns the index of the address to which a connection leads.
    pub(crate) fn address_at(&self, index: usize) -> usize {
        index % self.addresses.len()
    }

    /// Returns the client to which a connection belongs.
    pub(crate) fn client_at(&self, index: usize) -> usize {
        index / self.addresses.len()
    }

    /// Returns the index of a client's connection to the address of a target.
    pub(crate) fn index(&self, client: usize, target: u32) -> usize {
        client * self.addresses.len() + self.address_of(target)
    }

    pub(crate) fn is_idle(&self, index: usize) -> bool {
        self.connections[index].state == ConnectionState::Idle
    }

    /// Closes a connection. The client opens it again at `until_ns`.
    pub(crate) fn rest(&mut self, index: usize, until_ns: u64) {
        self.connections[index].close();
        self.connections[index].state = ConnectionState::Resting { until_ns };
    }

    /// Starts a new connect. Returns false if that failed at once.
    pub(crate) fn reopen(&mut self, index: usize) -> bool {
        let address = &self.addresses[index % self.addresses.len()];
        let connection = &mut self.connections[index];
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, index as u64);
        connection.reopen(address).is_ok()
            && connection
                .socket()
                .is_some_and(|socket| self.epoll.add(socket, event).is_ok())
    }

    /// Changes the events that epoll reports for a connection. Returns false if the kernel refuses.
    pub(crate) fn watch(&self, index: usize, flags: EpollFlags) -> bool {
        let mut event = EpollEvent::new(flags, index as u64);
        let socket = self.connections[index].socket();
        socket.is_none_or(|socket| self.epoll.modify(socket, &mut event).is_ok())
    }
}

pub(crate) fn refused(error: Errno) -> String {
    format!("the kernel refuses a descriptor: {error}")
}
