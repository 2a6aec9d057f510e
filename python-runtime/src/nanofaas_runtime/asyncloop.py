"""The loop under `async def` functions: asyncio, on uvloop where that is installed.

Accepts by hand, so that each connection can be shown to the watchdog. Called by `worker`.
"""

from __future__ import annotations

import asyncio
from typing import cast

from .accept import PAUSE_S, accept_some
from .pod import SWEEP_S, AsyncPod

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from .connection import Connection


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Server:
    """Serves `pod` until it was told to stop and has been quiet."""

    def __init__(self, pod: AsyncPod, listener: socket.socket, link: socket.socket) -> None:
        self._pod = pod
        self._loop = pod.loop
        self._listener = listener
        self._link = link
        self._done = self._loop.create_future()
        self._looks = False
        self._accepting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Returns when the pod may go; raises SystemExit when the watchdog is no more."""
        loop = self._loop
        loop.add_reader(self._listener.fileno(), self._accept)
        loop.add_reader(self._link.fileno(), self._told)
        loop.call_later(SWEEP_S, self._sweep)
        await self._done

    def _accept(self) -> None:
        if not accept_some(self._listener, self._pod, self._take):
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(PAUSE_S, self._resume)

    def _take(self, connection: Connection, sock: socket.socket) -> None:
        task = self._loop.create_task(self._connect(connection, sock))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _connect(self, connection: Connection, sock: socket.socket) -> None:
        try:
            # A Protocol by shape: deriving from asyncio's would import it for plain functions.
            await self._loop.connect_accepted_socket(
                cast("Callable[[], asyncio.Protocol]", lambda: connection), sock)
        except OSError:
            connection.connection_lost(None)
            sock.close()

    def _resume(self) -> None:
        if self._pod.full():
            self._loop.call_later(PAUSE_S, self._resume)
        else:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _sweep(self) -> None:
        self._pod.sweep()
        self._loop.call_later(SWEEP_S, self._sweep)

    def _told(self) -> None:
        try:
            told = self._link.recv(64)
        except OSError:
            told = b""
        if not told:
            self._loop.remove_reader(self._link.fileno())
            self._done.set_exception(SystemExit(1))
        elif not self._looks:
            self._looks = True
            self._pod.begin_stop()
            self._look_quiet()

    def _look_quiet(self) -> None:
        left = self._pod.quiet_left_s()
        if left > 0:
            self._loop.call_later(left, self._look_quiet)
        elif not self._done.done():
            self._done.set_result(None)
