"""Answers `/health` for a worker whose plain call streams, because the call may block the loop.

The platform probes a pod as soon as all of its calls have sent their heads. The watchdog then
accepts connections, too: it answers probes itself, and passes every other connection to the worker
unread.
"""

from __future__ import annotations

import select
import socket
import time

from .control_block import ADOPT, STREAMING
from .not_ready import CLIENTS_MAX, refuse
from .wire import HEAD_BYTES_MAX, Malformed, health, parse_head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .process import Worker

# A connection that is silent for this long is passed to the worker.
SILENCE_S = 0.2
PROBES = (b"GET /health ", b"HEAD /health ")


class BusyResponder:
    """Accepts from the watchdog's listener while the worker's STREAMING is set."""

    def __init__(self, epoll: select.epoll, listener: socket.socket, words: memoryview) -> None:
        self._epoll = epoll
        self._listener = listener
        self._words = words
        # The sockets by descriptor, each with the time until which it may be silent.
        self._clients: dict[int, tuple[socket.socket, float]] = {}
        self._listening = False

    def owns(self, fd: int) -> bool:
        """Whether `on_event` handles events of this descriptor."""
        return fd in self._clients or (self._listening and fd == self._listener.fileno())

    def turn(self, worker: Worker | None) -> None:
        """Starts or stops accepting, and passes silent connections on."""
        now = time.monotonic()
        for fd, (_, until) in list(self._clients.items()):
            if now >= until or worker is None:
                self._pass_on(fd, worker)
        on = (worker is not None and self._words[STREAMING] != 0
              and len(self._clients) < CLIENTS_MAX)
        if on != self._listening:
            self._listening = on
            if on:
                self._epoll.register(self._listener.fileno(), select.EPOLLIN)
            else:
                self._epoll.unregister(self._listener.fileno())

    def on_event(self, fd: int, worker: Worker | None, is_stopping: bool) -> None:
        """A client connected, or sent something."""
        if fd in self._clients:
            self._look(fd, worker, is_stopping)
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # The worker has accepted the connection.
        sock.setblocking(False)
        self._clients[sock.fileno()] = (sock, time.monotonic() + SILENCE_S)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _look(self, fd: int, worker: Worker | None, is_stopping: bool) -> None:
        sock = self._clients[fd][0]
        try:
            text = sock.recv(HEAD_BYTES_MAX, socket.MSG_PEEK)
        except OSError:
            text = b""
        end = text.find(b"\r\n\r\n") + 4
        if text and end < 4 and any(probe.startswith(text[:len(probe)]) for probe in PROBES):
            return  # The rest of a probe may follow.
        answer = probed(text, end, is_stopping)
        if answer is None:
            self._pass_on(fd, worker)
            return
        try:
            sock.recv(end)
            sock.send(answer, socket.MSG_NOSIGNAL)
        except OSError:
            pass  # The client has left.
        self._forget(fd).close()

    def _pass_on(self, fd: int, worker: Worker | None) -> None:
        sock = self._forget(fd)
        try:
            if worker is None or worker.sock is None:
                raise OSError("no worker is there")
            socket.send_fds(worker.sock, [ADOPT], [fd])
        except OSError:
            refuse(sock)
        sock.close()

    def _forget(self, fd: int) -> socket.socket:
        self._epoll.unregister(fd)
        return self._clients.pop(fd)[0]

    def close(self) -> None:
        """Closes a forked worker's copies of the client sockets, which the parent still serves."""
        for sock, _ in self._clients.values():
            sock.close()
        self._clients.clear()


def probed(text: bytes, end: int, is_stopping: bool) -> bytes | None:
    """Returns the answer if `text` begins with a probe whose head ends at `end`, else None."""
    if not text.startswith(PROBES):
        return None
    try:
        head = parse_head(text, end)
    except Malformed:
        return None
    if head.http or head.length or head.chunked:
        return None
    return health(head, is_stopping, close=True)
