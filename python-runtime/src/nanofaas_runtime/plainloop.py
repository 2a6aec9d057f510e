"""The loop under plain functions: epoll, one thread, no asyncio.

asyncio would not help, because a plain function blocks its loop anyway. It would add an import of
25-30 ms to each start and several microseconds to each call, and the function could not call
`asyncio.run`. `Transport` has the methods of an asyncio transport that `Connection` uses. `worker`
runs the loop.
"""

from __future__ import annotations

import select
import socket
from time import monotonic

from .accept import PAUSE_S, accept_some
from .pod import DRAIN_QUIET_S, SWEEP_S
from .process import end_with_watchdog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .connection import Connection
    from .pod import PlainPod

# With a larger buffer, malloc maps and unmaps pages for each read, which costs 14 µs per call.
READ_BYTES = 64 * 1024

READS = select.EPOLLIN | select.EPOLLRDHUP
GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Transport:
    """The transport that `Connection` writes to. `write` returns None if the kernel took all bytes,
    else False."""

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
        self._out = memoryview(data)[sent:]
        self._watch()
        return False

    def flush(self) -> None:
        """Sends more of the buffered answer. The loop calls this when the kernel has space
        again."""
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
        self._connection.sent()

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
    """Serves `pod` until the pod is stopped and has then had no call for DRAIN_QUIET_S."""

    def __init__(self, pod: PlainPod, listener: socket.socket, link: socket.socket) -> None:
        self._pod = pod
        self._listener = listener
        self._link = link
        self.epoll = select.epoll()
        self._transports: dict[int, Transport] = {}
        self._accepts = False
        self._accept_again_at = 0.0
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
        sweep_at = monotonic() + SWEEP_S
        wait: float = SWEEP_S
        while True:
            events = poll(wait)
            for fd, event in events:
                transport = transports.get(fd)
                if transport is None:
                    self._other(fd)
                elif event == reads:
                    self._read(transport)
                elif event & GONE:
                    transport.abort()
                else:
                    if event & select.EPOLLOUT:
                        transport.flush()
                    if event & reads and transport.fd >= 0:
                        self._read(transport)
            now = monotonic()
            if now >= sweep_at:
                self._pod.sweep()
                sweep_at = now + SWEEP_S
            if self._pod.stopping or not self._accepts:
                if not self._accepts and now >= self._accept_again_at and not self._pod.full():
                    self._set_accepting(True)
                wait = SWEEP_S if self._accepts else PAUSE_S
                if self._pod.stopping:
                    left = self._pod.quiet_left_s()
                    if left <= 0:
                        return
                    wait = min(wait, left, DRAIN_QUIET_S)
            else:
                wait = SWEEP_S

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
                message = self._link.recv(64)
            except OSError:
                message = b""
            if not message:
                end_with_watchdog()
            if not self._pod.stopping:
                self._pod.begin_stop()

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
