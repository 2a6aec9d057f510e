"""The loop under `async def` functions: asyncio, on uvloop if that is installed.

This module accepts connections itself, so that it can report each of them to the watchdog. A
function cannot end the loop: `keep_running` starts a stopped loop again, and `asyncio.all_tasks()`
does not list the tasks of this module, so the function cannot cancel them. `worker` uses this
module, and `job` uses it for its one call.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from . import faults, log, paths
from .accept import PAUSE_S, accept_some
from .asyncpod import AsyncPod, hide
from .pod import SWEEP_S
from .process import end_with_watchdog

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    from .connection import Connection

    T = TypeVar("T")


def new_loop() -> asyncio.AbstractEventLoop:
    """Returns a loop of uvloop if that is installed or in the handler's folder, else of asyncio."""
    try:
        try:
            with paths.Standard():
                import uvloop
        except ImportError:
            import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
        # The loop reads the clock in each step. With its own method, a function that replaces
        # `time.monotonic` would stop the loop.
        loop.time = monotonic  # type: ignore[method-assign]
        return loop
    return uvloop.new_event_loop()


def keep_running(loop: asyncio.AbstractEventLoop, is_done: Callable[[], bool]) -> None:
    """Runs the loop until `is_done`. If the function stops the loop earlier, this is logged and the
    loop goes on."""
    while not is_done():
        try:
            loop.run_forever()
        except BaseException as error:  # A background task may raise SystemExit.
            if is_done():
                return
            if loop.is_closed():
                raise
            log.failure("a task of the function would have ended the event loop, which goes on: "
                        f"{faults.describe(error)}", error)
        else:
            if not is_done():
                log.line("warn", "the function stopped the event loop, which goes on")


def run_to_end(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` and returns its result. Neither `loop.stop()` nor another task can interrupt
    it."""
    task = loop.create_task(work)
    hide(task)
    task.add_done_callback(lambda _: loop.stop())
    keep_running(loop, task.done)
    return task.result()


class Server:
    """Serves `pod` until the pod is stopped and has then had no call for DRAIN_QUIET_S."""

    def __init__(self, pod: AsyncPod, listener: socket.socket, link: socket.socket) -> None:
        self._pod = pod
        self._loop = pod.loop
        self._listener = listener
        self._link = link
        self._done = False
        self._looks = False
        self._accepting: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Returns when the pod may end. Ends the process when the watchdog has ended."""
        loop = self._loop
        loop.add_reader(self._listener.fileno(), self._accept)
        loop.add_reader(self._link.fileno(), self._stopped)
        loop.call_later(SWEEP_S, self._sweep)
        keep_running(loop, lambda: self._done)

    def _end(self) -> None:
        self._done = True
        self._loop.stop()

    def _accept(self) -> None:
        if not accept_some(self._listener, self._pod, self._take):
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(PAUSE_S, self._resume)

    def _take(self, connection: Connection, sock: socket.socket) -> None:
        task = self._loop.create_task(self._connect(connection, sock))
        hide(task)
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _connect(self, connection: Connection, sock: socket.socket) -> None:
        try:
            # `connection` has the methods of a Protocol. Deriving from asyncio's class would import
            # asyncio for plain functions, too.
            shape: Any = connection
            await self._loop.connect_accepted_socket(lambda: shape, sock)
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

    def _stopped(self) -> None:
        try:
            message = self._link.recv(64)
        except OSError:
            message = b""
        if not message:
            end_with_watchdog()
        elif not self._looks:
            self._looks = True
            self._pod.begin_stop()
            self._look_quiet()

    def _look_quiet(self) -> None:
        left = self._pod.quiet_left_s()
        if left > 0:
            self._loop.call_later(left, self._look_quiet)
        elif not self._done:
            self._end()
