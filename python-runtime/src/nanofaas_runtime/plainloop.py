"""The loop under plain functions: epoll, one thread, no asyncio.

A plain function blocks its loop, so asyncio would not help. Its import would add 25-30 ms to each
start and several microseconds to each call, and the function could not call `asyncio.run`.
`Transport` has the methods of an asyncio transport that `Connection` uses. `worker` runs the loop.
"""

from __future__ import annotations

import select
import socket
import sys
from socket import socket as Socket
from time import monotonic

from .accept import PAUSE_S, accept_some, prepare
from .control_block import ADOPT
from .pod import DRAIN_QUIET_S, SWEEP_S
from .process import end_with_watchdog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .connection import Connection
    from .pod import PlainPod

# With a larger buffer, malloc maps and unmaps pages for each read, which costs 14 µs for each call.
READ_BYTES = 64 * 1024

READS = select.EPOLLIN | select.EPOLLRDHUP
GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Transport:
    """The transport of a `Connection`. `write` returns None if the kernel took all bytes, else
    False."""

    __slots__ = ("_connection", "_loop", "_out", "_reads", "_then_close", "_then_eof", "fd",
                 "recv", "send", "sock")

    def __init__(self, loop: PlainLoop, sock: socket.socket, connection: Connection) -> None:
        self._loop = loop
        self._connection = connection
        self._out = memoryview(b"")
        self._reads = True
        self._then_close = False
        self._then_eof = False
        self.sock = sock
        self.send = sock.send
        self.recv = sock.recv
        self.fd = sock.fileno()

    def write(self, data: bytes) -> bool | None:
        if self.fd < 0:
            return False
        if self._out:
            self._out = memoryview(bytes(self._out) + data)
            return False
        try:
            sent = self.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return False
        if sent == len(data):
            return None
        self._connection.pause_writing()
        self._out = memoryview(data)[sent:]
        self._watch()
        return False

    def flush(self) -> None:
        """Sends more of the buffered answer. The loop calls this when the kernel has space."""
        try:
            self._out = self._out[self.send(self._out):]
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        if self._out:
            self._connection.quiet = 0
            return
        self._watch()
        if self._then_close:
            self.abort()
            return
        if self._then_eof:
            self.write_eof()
        self._connection.resume_writing()

    def write_eof(self) -> None:
        if self._out:
            self._then_eof = True
        elif self.fd >= 0:
            self.sock.shutdown(socket.SHUT_WR)

    def pause_reading(self) -> None:
        self._reads = False
        self._watch()

    def resume_reading(self) -> None:
        if not self._reads:
            self._reads = True
            self._watch()

    def _watch(self) -> None:
        if self.fd >= 0:
            events = select.EPOLLRDHUP | (select.EPOLLIN if self._reads else 0)
            self._loop.watch(self.fd, events | (select.EPOLLOUT if self._out else 0))

    def close(self) -> None:
        """Closes the connection after all buffered bytes are sent."""
        if self._out:
            self._then_close = True
        else:
            self.abort()

    def abort(self) -> None:
        """Closes the connection at once."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self._loop.forget(fd)
            self._connection.connection_lost(None)
            self.sock.close()


class PlainLoop:
    """Serves `pod` until the pod is stopped and has had no call for DRAIN_QUIET_S after that."""

    def __init__(self, pod: PlainPod, listener: socket.socket, link: socket.socket) -> None:
        self._pod = pod
        self._listener = listener
        self._link = link
        self.epoll = select.epoll()
        self._transports: dict[int, Transport] = {}
        self._accepts = False
        self._accept_again_at = 0.0
        self._sweep_at = monotonic() + SWEEP_S
        pod.loop = self
        self._set_accepting(True)
        self.epoll.register(link.fileno(), select.EPOLLIN)

    def watch(self, fd: int, events: int) -> None:
        self.epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        self.epoll.unregister(fd)
        del self._transports[fd]

    def run(self) -> None:
        """Returns when the pod may end. Ends the process when the watchdog has ended."""
        poll = self.epoll.poll
        transports = self._transports
        reads = select.EPOLLIN
        pod = self._pod
        wait: float = SWEEP_S
        while True:
            events = poll(wait)
            for fd, event in events:
                transport = transports.get(fd)
                if event == reads and transport is not None:
                    self._read(transport)
                else:
                    self._on_event(fd, transport, event)
            if pod.later is not None:
                pod.run_later()
            now = monotonic()
            wait = SWEEP_S
            if now >= self._sweep_at or not self._accepts:
                wait = self._upkeep(now)
            if pod.stopping:
                left = pod.quiet_left_s()
                if left <= 0:
                    return
                wait = min(wait, left, DRAIN_QUIET_S)

    def turn(self, wait: float) -> None:
        """Serves the connections while a call waits for its own one. Waits for an event `wait`
        seconds at most. New calls wait in `pod.later`. New connections wait in the backlog or for
        `busy`, because the call may block this loop before their requests come."""
        self._set_accepting(False)
        for fd, event in self.epoll.poll(wait):
            self._on_event(fd, self._transports.get(fd), event)
        self._sweep(monotonic())

    def _on_event(self, fd: int, transport: Transport | None, event: int) -> None:
        if transport is None:
            self._other(fd)
        elif event & GONE:
            transport.abort()
        else:
            if event & select.EPOLLOUT:
                transport.flush()
            if event & select.EPOLLIN and transport.fd >= 0:
                self._read(transport)

    def _upkeep(self, now: float) -> float:
        """Sweeps, and accepts again after a pause. Returns the seconds until the next upkeep."""
        self._sweep(now)
        if not self._accepts and now >= self._accept_again_at and not self._pod.full():
            self._set_accepting(True)
        return SWEEP_S if self._accepts else PAUSE_S

    def _sweep(self, now: float) -> None:
        if now >= self._sweep_at:
            self._pod.sweep()
            self._sweep_at = now + SWEEP_S

    def _read(self, transport: Transport) -> None:
        try:
            data = transport.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            transport._connection.data_received(data)
        else:
            transport.abort()

    def _other(self, fd: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
        elif fd == self._link.fileno():
            try:
                message, rights, _, _ = self._link.recvmsg(64, 64)
            except OSError:
                message, rights = b"", []
            if not message:
                end_with_watchdog()
            if message == ADOPT:
                self._adopt(rights)
            elif not self._pod.stopping:
                self._pod.begin_stop()

    def _adopt(self, rights: list[tuple[int, int, bytes]]) -> None:
        """Serves a connection that the watchdog accepted."""
        for _, _, descriptor in rights:
            sock = Socket(fileno=int.from_bytes(descriptor[:4], sys.byteorder))
            if self._pod.full():
                sock.close()
            else:
                prepare(sock)
                self._take(self._pod.admit(sock), sock)

    def _accept(self) -> None:
        if not accept_some(self._listener, self._pod, self._take):
            self._accept_again_at = monotonic() + PAUSE_S
            self._set_accepting(False)

    def _take(self, connection: Connection, sock: socket.socket) -> None:
        transport = Transport(self, sock, connection)
        self._transports[transport.fd] = transport
        self.epoll.register(transport.fd, READS)
        connection.connection_made(transport)

    def _set_accepting(self, on: bool) -> None:
        if on != self._accepts:
            self._accepts = on
            if on:
                self.epoll.register(self._listener.fileno(), select.EPOLLIN)
            else:
                self.epoll.unregister(self._listener.fileno())
