"""Streams the answer of a call of an async pod: the generator runs in the call's task.

`AsyncPod` calls `serve` for a function that returned a generator of either kind.
"""

from __future__ import annotations

from asyncio import Event, sleep

from . import child, log
from .stream import CLOSE_FAILED, Pieces, Reply, begin_stream, cut_off

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from typing import Any

    from .asyncpod import AsyncPod
    from .call import Call
    from .connection import Connection

END = object()


async def serve(pod: AsyncPod, connection: Connection, call: Call,
                values: AsyncGenerator[Any] | Generator[Any]) -> None:
    """Sends the values of the generator, and ends the answer. Raises nothing but a second
    CancelledError."""
    reply = Reply(connection, call)
    try:
        last = await _run(connection, call, reply, values)
    except BaseException as error:  # Even SystemExit must not end the pod.
        child.leave_if_child_for(error, call)
        if reply.begun:
            cut_off(connection, call, error, call.stopped)
        elif call.stopped:
            pod.stopped(connection, call, call.stopped)
        else:
            pod.fail(connection, call, error)
    else:
        connection.send(last, reply.keep and not pod.stopping)
    await _close(call, values)


async def _run(connection: Connection, call: Call, reply: Reply, values: Any) -> bytes:
    """Sends the answer except its last bytes, and returns these."""
    pieces = Pieces()
    is_async = hasattr(values, "__anext__")
    while True:
        value = await anext(values, END) if is_async else next(values, END)
        child.leave_if_child()
        if value is END:
            return reply.end() if reply.begun else reply.begin(200, b"", 0)
        data = pieces.encode(value)
        if reply.begun:
            data = reply.piece(data)
        else:
            head = begin_stream(reply, pieces)
            if call.head.method == b"HEAD":
                return head
            data = head + reply.piece(data)
        if data:
            connection.stream(data)
        await drained(connection)


async def drained(connection: Connection) -> None:
    """Waits until the kernel has all sent bytes, and lets other tasks run."""
    await sleep(0)
    while connection.paused and not connection.gone:
        if connection.drained is None:
            connection.drained = Event()
        connection.drained.clear()
        await connection.drained.wait()


async def _close(call: Call, values: Any) -> None:
    """Raises GeneratorExit in a generator that has not ended."""
    try:
        if hasattr(values, "aclose"):
            await values.aclose()
        else:
            values.close()
    except BaseException as error:
        child.leave_if_child_for(error, call)
        log.failure(CLOSE_FAILED, error, call)
    child.leave_if_child()
