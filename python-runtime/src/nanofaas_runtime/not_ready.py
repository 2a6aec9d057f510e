"""The not-ready responder: answers 503 and `X-Not-Started` while no worker is ready.

Without it, clients would wait for a worker that loads for long or crashes repeatedly. `watchdog`
calls this module.
"""

from __future__ import annotations

import select
import socket
import time

from .control_block import SERVES
from .wire import HEAD_BYTES_MAX, NOT_STARTED, echo_of, failure

# The time that a client has to send its request and to close after the answer.
PATIENCE_S = 2.0
# The limit of clients that are served at the same time. Others wait in the backlog.
CLIENTS_MAX = 64


def refusal(request: bytes) -> bytes:
    """Returns the 503 answer. `request` may be only a part of the request."""
    return failure(echo_of(request), 503, "NOT_READY",
                   "the function is not ready: nothing was run, try again", NOT_STARTED,
                   close=True)


class Client:
    """A connection that was accepted here. It is closed at `until` or earlier."""

    __slots__ = ("answered", "request", "sock", "until")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.until = time.monotonic() + PATIENCE_S
        self.request = b""
        self.answered = False

    def is_whole(self) -> bool:
        """Whether the whole head was received. The answer repeats an id of the head, so it waits
        for the head. A head of HEAD_BYTES_MAX bytes counts as whole, so that it is answered."""
        return b"\r\n\r\n" in self.request or len(self.request) >= HEAD_BYTES_MAX

    def answer(self) -> None:
        """Sends the 503. Raises OSError if the client has closed the connection."""
        self.answered = True
        self.sock.send(refusal(self.request))
        # Closing with unread bytes would reset the connection, so shut down only the write side and
        # read on.
        self.sock.shutdown(socket.SHUT_WR)


class NotReadyResponder:
    """Accepts from the watchdog's listener as soon as `turn` finds that `begin_at` has passed."""

    def __init__(self, epoll: select.epoll, listener: socket.socket, words: memoryview) -> None:
        self._epoll = epoll
        self._words = words
        self._listener = listener
        self._clients: dict[int, Client] = {}
        self._listening = False

    def owns(self, fd: int) -> bool:
        """Whether `on_event` handles events of this descriptor."""
        return fd in self._clients or (self._listening and fd == self._listener.fileno())

    def next_at(self, begin_at: float | None) -> float | None:
        """Returns when `turn` has to be called next. `begin_at` is None while a worker is ready."""
        ends = [client.until for client in self._clients.values()]
        if begin_at is not None and not self._listening and len(ends) < CLIENTS_MAX:
            ends.append(begin_at)
        return min(ends) if ends else None

    def turn(self, begin_at: float | None, now: float) -> None:
        """Starts to accept if `begin_at` has passed, and closes clients whose time is over."""
        for fd, client in list(self._clients.items()):
            if now >= client.until:
                if client.request and not client.answered:  # The request's head is incomplete.
                    try:
                        client.answer()
                    except OSError:
                        pass
                self._drop(fd)
        full = len(self._clients) >= CLIENTS_MAX
        if begin_at is not None and not self._listening and not full and now >= begin_at:
            self._listening = True
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        elif self._listening and full:
            self._unlisten()

    def on_event(self, fd: int) -> None:
        """Handles an event of a descriptor: a client has connected, sent bytes or closed."""
        if fd in self._clients:
            self._answer(fd)
            return
        if self._words[SERVES]:
            self._unlisten()  # The worker accepts the client, though its READY is still unread.
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        self._clients[sock.fileno()] = Client(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)

    def _answer(self, fd: int) -> None:
        client = self._clients[fd]
        try:
            data = client.sock.recv(HEAD_BYTES_MAX)
            if data:
                if not client.answered:
                    client.request += data
                    if client.is_whole():
                        client.answer()
                return
        except OSError:
            pass
        self._drop(fd)

    def _drop(self, fd: int) -> None:
        client = self._clients.pop(fd)
        self._epoll.unregister(fd)
        client.sock.close()

    def _unlisten(self) -> None:
        if self._listening:
            self._listening = False
            self._epoll.unregister(self._listener.fileno())

    def end(self) -> None:
        """Stops accepting, because a worker is ready. Accepted clients still get their answers."""
        self._unlisten()

    def refuse_all(self) -> None:
        """Answers the clients in the backlog. The watchdog calls this before it closes the
        listener."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            refuse(sock)
            sock.close()

    def close(self) -> None:
        """Closes a forked worker's copies of the client sockets, which the parent still serves."""
        for client in self._clients.values():
            client.sock.close()
        self._clients.clear()


def refuse(sock: socket.socket) -> None:
    """Reads the request that no worker has read, if one has arrived, and answers 503."""
    try:
        sock.setblocking(False)
        request = sock.recv(HEAD_BYTES_MAX)
        if request:
            sock.send(refusal(request), socket.MSG_NOSIGNAL)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(HEAD_BYTES_MAX):
                pass
    except OSError:
        pass
