"""The pod: it serves `/health` and `/invoke`, and stops after a quiet time.

`PlainPod` runs one call at a time, on the thread that parsed it. `AsyncPod` (in `asyncpod`) makes a
task of each call. The loops accept connections and poll them.
"""

from __future__ import annotations

import select
import sys
from socket import SCM_RIGHTS, SOL_SOCKET
from time import monotonic
from types import GeneratorType

from . import CallStopped, log, paths
from .control_block import (ANSWERED, ASLEEP, BELL, CONN, CONNECTION, DEADLINE, IDLE, SEQ, SLOTS,
                            SLOTS_MAX, STREAMING, WHY_DEADLINE, as_bytes)
from .call import BadInput, Call, Context, HttpCall, code_of, describe
from .connection import Connection
from .stopping import PlainRun, message_of
from .wire import OK_JSON, Head, answer, failure, for_method, health

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .function import Function

DRAIN_QUIET_S = 2.0
# A connection is closed after this number of sweeps without a byte: 90 to 120 s.
QUIET_SWEEPS_MAX = 4
SWEEP_S = 30.0
LINK_WAIT_S = 0.25
BAD_INPUT = "BAD_INPUT"


class Pod:
    """The state that all connections share. `link` is the socket to the watchdog."""

    is_application = False  # An application's call begins with its head.

    def __init__(self, function: Function, words: memoryview, link: Any, init_ms: float) -> None:
        self.function = function
        self.words = words
        self.control_block = as_bytes(words)
        self.link = link
        self.cold = b""
        if not words[ANSWERED]:
            self.cold = b"X-Cold-Start: true\r\nX-Init-Duration-Ms: %d\r\n" % max(0, init_ms)
        self.stopping = False
        self.quiet_since = 0.0
        self.running = 0
        self.connections: dict[int, Connection] = {}
        self._free = list(range(SLOTS + SLOTS_MAX - 1, SLOTS - 1, -1))
        self._number = 0

    # --- connections ---

    def full(self) -> bool:
        """Whether no slot is free. The next connection waits in the backlog."""
        return not self._free

    def admit(self, sock: Any) -> Connection:
        """Gives a connection its slot, and sends the watchdog a duplicate of its descriptor."""
        slot = self._free.pop()
        self._number += 1
        number = self._number
        self.words[slot] = number << 2 | IDLE
        connection = Connection(self, sock, slot, number)
        self.connections[number] = connection
        rights = [(SOL_SOCKET, SCM_RIGHTS, sock.fileno().to_bytes(4, sys.byteorder))]
        message = [CONNECTION + b"%d %d" % (slot, number)]
        try:
            try:
                self.link.sendmsg(message, rights)
            except BlockingIOError:  # Hundreds of connections came at once; the link is full.
                select.select([], [self.link], [], LINK_WAIT_S)
                self.link.sendmsg(message, rights)
        except OSError as error:
            log.line("warn", f"the watchdog cannot watch a connection: {error}")
        return connection

    def connection_gone(self, connection: Connection) -> None:
        """Frees the slot, and shuts the socket down after that. If the connection still had its
        slot, the watchdog would think that the caller had hung up."""
        call = connection.call
        if call is not None:
            self.caller_left(call)
        self.words[connection.slot] = 0
        self._free.append(connection.slot)
        self.connections.pop(connection.number, None)
        try:
            connection.sock.shutdown(2)  # The watchdog's duplicate would keep the connection open.
        except OSError:
            pass

    def caller_left(self, call: Call) -> None:
        """Does nothing: the watchdog stops a plain call, and `AsyncPod` cancels the task."""

    def sweep(self) -> None:
        """Closes connections that were idle in QUIET_SWEEPS_MAX sweeps in a row. The loop calls
        this every SWEEP_S."""
        for connection in list(self.connections.values()):
            if connection.call is None:
                connection.quiet += 1
                if connection.quiet >= QUIET_SWEEPS_MAX:
                    connection.transport.abort()

    # --- requests ---

    def request(self, connection: Connection, head: Head, body: bytes | bytearray) -> None:
        """Answers the request now, or starts a task that answers it later."""
        if head.http:
            self.http(connection, head, body)
            return
        if head.method == b"POST" and head.target == b"/invoke":
            self.invoke(connection, head, body)
            return
        path = head.target.partition(b"?")[0]
        if path == b"/health":
            if head.method in (b"GET", b"HEAD"):
                self._health(connection, head)
                return
            self._method_not_allowed(connection, head, b"Allow: GET, HEAD\r\n")
        elif path == b"/invoke":
            if head.method == b"POST":
                self.invoke(connection, head, body)
                return
            self._method_not_allowed(connection, head, b"Allow: POST\r\n")
        else:
            text = failure(head.echo(), 404, "NOT_FOUND",
                           "only POST /invoke and GET /health are here",
                           close=not self.keeps(head))
            self._send_headless(connection, head, text)

    def http(self, connection: Connection, head: Head, body: bytes | bytearray) -> None:
        """Runs the function for an HTTP call, whatever the call's path."""
        if self.allows(head):
            self.invoke(connection, head, body, HttpCall)
        else:
            connection.send(self.not_allowed(head, not self.keeps(head)), self.keeps(head))

    def allows(self, head: Head) -> bool:
        """Whether the function takes HTTP calls with this method."""
        return head.method in self.function.methods

    def not_allowed(self, head: Head, close: bool) -> bytes:
        """Returns the refusal of a call for which `allows` is false."""
        allow = b"Allow: %b\r\n" % b", ".join(self.function.methods)
        text = failure(head.echo(), 405, "METHOD_NOT_ALLOWED", "see Allow", allow, close)
        return for_method(head, text)

    def _method_not_allowed(self, connection: Connection, head: Head, allow: bytes) -> None:
        text = failure(head.echo(), 405, "METHOD_NOT_ALLOWED", "see Allow", allow,
                       not self.keeps(head))
        self._send_headless(connection, head, text)

    def _health(self, connection: Connection, head: Head) -> None:
        keep = self.keeps(head)
        connection.send(health(head, self.stopping, not keep), keep)

    def _send_headless(self, connection: Connection, head: Head, text: bytes) -> None:
        connection.send(for_method(head, text), self.keeps(head))

    def keeps(self, head: Head) -> bool:
        """Whether the connection stays open after the answer."""
        return head.keep and not self.stopping

    def invoke(self, connection: Connection, head: Head, body: bytes | bytearray,
               kind: type[Call] = Call) -> None:
        raise NotImplementedError

    def begin(self, connection: Connection, head: Head, data: bytes) -> None:
        """Begins a call of an application. `data` are the bytes after the head."""
        raise NotImplementedError

    def feed(self, connection: Connection, data: bytes) -> bytes:
        """Takes bytes of an application's request, and returns those after it."""
        raise NotImplementedError

    # --- answers ---

    def finish(self, connection: Connection, call: Call, value: object) -> None:
        """Answers with the function's result."""
        try:
            content_type, body = call.output(value)
        except BaseException as error:  # A container class of the function may raise anything.
            self.fail(connection, call, error)
            return
        keep = call.head.keep and not self.stopping
        if content_type is None and keep and not self.cold:
            connection.send(OK_JSON % (call.echo, len(body), body), True)
            return
        extra = self.first()
        text = answer(call.echo, 200, content_type or "application/json", body, extra, not keep)
        self._send_headless(connection, call.head, text)

    def fail(self, connection: Connection, call: Call, error: BaseException) -> None:
        """Answers with the function's exception; its traceback goes to the log."""
        log.failure("the function raised", error, call)
        self._refuse(connection, call, 500, code_of(error), describe(error))

    def stopped(self, connection: Connection, call: Call, why: int) -> None:
        """Answers a call that was stopped. Its caller may still be connected."""
        message = message_of(why)
        log.line("warn", f"call stopped: {message}", call)
        self._refuse(connection, call, 504, "TIMEOUT" if why == WHY_DEADLINE else "CANCELLED",
                     message)

    def bad_input(self, connection: Connection, call: Call, error: BadInput) -> None:
        self._refuse(connection, call, 400, BAD_INPUT, str(error))

    def _refuse(self, connection: Connection, call: Call, status: int, code: str,
                message: str) -> None:
        keep = self.keeps(call.head)
        text = failure(call.echo, status, code, message, self.first(), not keep)
        self._send_headless(connection, call.head, text)

    def first(self) -> bytes:
        """Returns the header lines that only the pod's first answer to a call has."""
        cold = self.cold
        if cold:
            self.cold = b""
            self.words[ANSWERED] = 1
            log.adopt_logging()
        return cold

    def head_sent(self, call: Call) -> None:
        """Lifts the deadline of an HTTP call, which limits only the time to the head of the
        answer."""
        if call.head.http:
            call.deadline_ns = 0

    # --- the end ---

    def begin_stop(self) -> None:
        """Begins the drain: `/health` is 503, and each answer closes its connection. Calls are
        still served."""
        self.stopping = True
        self.quiet_since = monotonic()

    def quiet_left_s(self) -> float:
        """Returns how many seconds without a call must pass before the pod may end."""
        if self.running:
            return DRAIN_QUIET_S
        return max(0.0, self.quiet_since + DRAIN_QUIET_S - monotonic())

    def ring(self) -> None:
        """Wakes the watchdog, which does not poll the control block while no calls come."""
        self.words[ASLEEP] = 0
        try:
            self.link.send(BELL)
        except OSError:
            pass  # If the link is full, the watchdog is awake.


class PlainPod(Pod):
    """A pod whose calls run one at a time, on the thread that parsed them."""

    def __init__(self, function: Function, words: memoryview, link: Any, init_ms: float) -> None:
        super().__init__(function, words, link, init_ms)
        self.run = PlainRun(words)
        self.seq = 0
        self.loop: Any = None  # `PlainLoop` sets it.
        # The work that waits while a call streams or waits to do so. None if no call does.
        self.later: list[Any] | None = None
        self._work: Any = None  # `GeneratorWork`, once it is needed.
        if function.generates:
            self._load_work()

    def invoke(self, connection: Connection, head: Head, body: bytes | bytearray,
               kind: type[Call] = Call) -> None:
        if self.later is not None:
            connection.busy = True
            self.later.append((connection, head, body, kind))
            return
        call = kind(head, body)
        words = self.words
        self.seq = seq = self.seq + 1
        connection.begin(call)
        words[DEADLINE] = call.deadline_ns
        words[CONN] = connection.number
        words[SEQ] = seq
        if words[ASLEEP]:
            self.ring()
        log.plain_call = call
        try:
            argument = call.input()
            if self.function.takes_context:
                value = self.run(seq, self.function.entry, argument, Context(call))
            else:
                value = self.run(seq, self.function.entry, argument)
        except CallStopped as error:
            if self.run.stopped == seq:
                self.ended()
                self.stopped(connection, call, self.run.why)
            else:  # The function raised CallStopped itself.
                self.fail(connection, call, error)
                self.ended()
        except BadInput as error:
            self.ended()
            self.bad_input(connection, call, error)
        except BaseException as error:  # Even SystemExit must not end the pod.
            # `fail` may run a `__str__` of the function, so it precedes `ended`.
            self.fail(connection, call, error)
            self.ended()
        else:
            if type(value) is GeneratorType:
                self._stream(connection, call, seq, value)
                return
            self.finish(connection, call, value)
            self.ended()

    def _stream(self, connection: Connection, call: Call, seq: int, values: Any) -> None:
        """Leaves the generator to `run_later`: only the loop itself may let calls wait."""
        try:
            if self._work is None:
                self._load_work()
        except BaseException as error:  # The function replaced a part of the import.
            self.fail(connection, call, error)
            self.ended()
        else:
            self.later = [self._work(self, connection, call, seq, values)]

    def _load_work(self) -> None:
        with paths.Standard():
            from .plainstream import GeneratorWork
        self._work = GeneratorWork

    def run_later(self) -> None:
        """Runs the calls in `later`, in their order. The loop calls this between two turns."""
        queue = self.later or []
        while queue:
            work = queue.pop(0)
            if type(work) is tuple:
                self.later = None
                if not work[0].gone:
                    self.invoke(*work)
                if self.later is not None:  # The call returned a generator, which comes first.
                    queue[:0] = self.later
            else:
                self.later = queue
                work.run()
                self.words[STREAMING] = 0
        self.later = None

    def head_sent(self, call: Call) -> None:
        super().head_sent(call)
        self.words[DEADLINE] = call.deadline_ns
        self.words[STREAMING] = 1  # The watchdog answers `/health` while the call blocks the loop.

    def ended(self) -> None:
        """Marks that no call runs."""
        self.words[SEQ] = 0
        log.plain_call = None
        if self.stopping:
            self.quiet_since = monotonic()
