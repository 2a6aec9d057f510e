"""The pod of an `async def` function: it runs each call as a task, many calls side by side.

`asyncio.all_tasks()` does not list these tasks, so the function's code cannot find the tasks of
other calls. `worker` makes the pod.
"""

from __future__ import annotations

import signal
from asyncio import CancelledError, tasks
from time import monotonic, monotonic_ns
from types import AsyncGeneratorType, GeneratorType

from . import log, paths
from .control_block import ASLEEP, BEAT, DEADLINE, SEQ, STREAMS, WHY_DEADLINE, WHY_LEFT
from .call import BadInput, Call, Context
from .pod import Pod
from .stopsignal import STOP_SIGNAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from .connection import Connection
    from .function import Function
    from .wire import Head

# While calls run, the pod checks their deadlines and updates BEAT at this interval.
BEAT_S = 0.02


# Takes a task out of `asyncio.all_tasks()`. A function that cancels all tasks must not cancel the
# calls of other clients.
hide = tasks._unregister_task


class AsyncPod(Pod):
    """A pod whose calls run as tasks, side by side, at most one for each connection."""

    def __init__(self, function: Function, words: memoryview, link: Any, init_ms: float,
                 loop: Any) -> None:
        super().__init__(function, words, link, init_ms)
        self.loop = loop
        self._beats = False
        self._seq = 0
        self._serve_stream: Any = None  # `asyncstream.serve`, once it is needed.
        if function.generates:
            self._load_stream()
        signal.signal(STOP_SIGNAL, lambda *_: None)  # This signal stops plain calls only.

    def invoke(self, connection: Connection, head: Head, body: bytes | bytearray,
               kind: type[Call] = Call) -> None:
        call = kind(head, body)
        connection.begin(call)
        try:
            argument = call.input()
        except BadInput as error:
            self.bad_input(connection, call, error)
            return
        self.launch(connection, call, self._serve(connection, call, argument))

    def launch(self, connection: Connection, call: Call, work: Coroutine[Any, Any, None]) -> None:
        """Runs the call as a task."""
        self.running += 1
        words = self.words
        if not self._beats:
            self._beats = True
            self._seq += 1
            words[BEAT] = monotonic_ns()
            words[DEADLINE] = call.deadline_ns
            words[SEQ] = self._seq
            self.loop.call_later(BEAT_S, self._beat)
        elif call.deadline_ns and not 0 < words[DEADLINE] <= call.deadline_ns:
            words[DEADLINE] = call.deadline_ns
        if words[ASLEEP]:
            self.ring()
        log.CURRENT.set(call)
        call.task = task = self.loop.create_task(work)
        hide(task)
        log.CURRENT.set(None)
        task.add_done_callback(lambda _task: self._ended(connection, call))

    def _ended(self, connection: Connection, call: Call) -> None:
        """Completes a call whose task is done. A task that is cancelled before its first step does
        not run `_serve`."""
        self.running -= 1
        call.task = None
        if connection.call is call:
            if self.words[connection.slot] & 3 == STREAMS:
                connection.cut()
            else:
                self.stopped(connection, call, call.stopped)
        if self.stopping:
            self.quiet_since = monotonic()

    async def _serve(self, connection: Connection, call: Call, argument: object) -> None:
        try:
            function = self.function
            if function.takes_context:
                value = function.entry(argument, Context(call))
            else:
                value = function.entry(argument)
            if not function.streams:
                value = await value
        except CancelledError as error:
            if call.stopped:
                self.stopped(connection, call, call.stopped)
            else:
                self.fail(connection, call, error)
        except BaseException as error:  # Even SystemExit must not end the pod.
            self.fail(connection, call, error)
        else:
            if type(value) is GeneratorType or type(value) is AsyncGeneratorType:
                await self._stream(connection, call, value)
            else:
                self.finish(connection, call, value)

    async def _stream(self, connection: Connection, call: Call, values: Any) -> None:
        try:
            if self._serve_stream is None:
                self._load_stream()
        except BaseException as error:  # The function replaced a part of the import.
            self.fail(connection, call, error)
        else:
            await self._serve_stream(self, connection, call, values)

    def _load_stream(self) -> None:
        with paths.Standard():
            from .asyncstream import serve
        self._serve_stream = serve

    def caller_left(self, call: Call) -> None:
        if call.task is not None:
            call.stopped = call.stopped or WHY_LEFT
            call.task.cancel()

    def _beat(self) -> None:
        """Cancels overdue calls, and shows the watchdog that the loop runs."""
        now = monotonic_ns()
        soonest = 0
        for connection in self.connections.values():
            call = connection.call
            if call is None or call.task is None or not call.deadline_ns:
                continue
            if call.deadline_ns <= now:
                if not call.stopped:
                    call.stopped = WHY_DEADLINE
                    call.task.cancel()
            elif not soonest or call.deadline_ns < soonest:
                soonest = call.deadline_ns
        words = self.words
        words[BEAT] = now
        words[DEADLINE] = soonest
        if self.running:
            self.loop.call_later(BEAT_S, self._beat)
        else:
            self._beats = False
            words[SEQ] = 0
