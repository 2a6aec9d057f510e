"""Streams the answer of a plain call: the generator runs on the thread of the loop.

Between two values, and while the client does not read, the loop serves other connections.
`PlainPod.run_later` runs a `Work`.
"""

from __future__ import annotations

from time import monotonic_ns

from . import child, log
from .control_block import WHY_DEADLINE, WHY_LEFT
from .stream import CLOSE_FAILED, Pieces, Reply, begin_stream, cut_off

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from .call import Call
    from .connection import Connection
    from .pod import PlainPod

TURN_S = 1.0
END = object()


class Work:
    """A plain call that sends its answer in pieces. The loop turns while the call waits."""

    def __init__(self, pod: PlainPod, connection: Connection, call: Call, seq: int) -> None:
        self.pod = pod
        self.connection = connection
        self.call = call
        self.seq = seq
        self.reply = Reply(connection, call)

    def run(self) -> None:
        """Runs the call to its end. Never raises."""
        try:
            self.serve()
        except BaseException as error:  # Even SystemExit must not end the pod.
            child.leave_if_child_for(error, self.call)
            self.failed(error)
        self.pod.ended()

    def serve(self) -> None:
        """Runs the call, and ends its answer."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        """Answers for a call that raised, or cuts its answer."""
        pod, connection, call = self.pod, self.connection, self.call
        why = pod.run.why if pod.run.stopped == self.seq else 0
        if self.reply.begun:
            cut_off(connection, call, error, why)
        elif why:
            pod.stopped(connection, call, why)
        else:
            pod.fail(connection, call, error)

    def turn(self) -> None:
        """Lets the loop turn one time. Raises CallStopped if the call has to end."""
        wait = TURN_S
        if self.connection.gone:
            raise self.pod.run.stop(self.seq, WHY_LEFT)
        if self.call.deadline_ns:
            left = (self.call.deadline_ns - monotonic_ns()) / 1e9
            if left <= 0:
                raise self.pod.run.stop(self.seq, WHY_DEADLINE)
            wait = min(wait, left)
        self.pod.loop.turn(wait)

    def send(self, data: bytes) -> None:
        """Sends a part of the answer, and waits until the kernel has it. Raises CallStopped if the
        call has to end."""
        self.connection.stream(data)
        self.pod.loop.turn(0.0)
        while self.connection.paused or self.connection.gone:
            self.turn()

    def finish(self, data: bytes) -> None:
        """Sends the last part of the answer."""
        self.connection.send(data, self.reply.keep and not self.pod.stopping)


class GeneratorWork(Work):
    """A call whose function returned a generator."""

    def __init__(self, pod: PlainPod, connection: Connection, call: Call, seq: int,
                 values: Generator[Any]) -> None:
        super().__init__(pod, connection, call, seq)
        self._values = values

    def serve(self) -> None:
        try:
            self._serve()
        finally:
            self._close()

    def _serve(self) -> None:
        reply, pieces, run = self.reply, Pieces(), self.pod.run
        while True:
            value = run(self.seq, next, self._values, END)
            child.leave_if_child()
            if value is END:
                break
            data = pieces.encode(value)
            if not reply.begun:
                head = begin_stream(reply, pieces)
                if self.call.head.method == b"HEAD":
                    self.finish(head)
                    return
                self.send(head + reply.piece(data))
            elif data:
                self.send(reply.piece(data))
        self.finish(reply.end() if reply.begun else reply.begin(200, b"", 0))

    def _close(self) -> None:
        """Raises GeneratorExit in a generator that has not ended."""
        run = self.pod.run
        try:
            if run.stopped == self.seq:  # Only the watchdog's kill may stop it again.
                self._values.close()
            else:
                run(self.seq, self._values.close)
        except BaseException as error:
            child.leave_if_child_for(error, self.call)
            log.failure(CLOSE_FAILED, error, self.call)
        child.leave_if_child()
