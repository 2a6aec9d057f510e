"""The pod of a WSGI application (PEP 3333): calls run one at a time, on the thread of the loop.

A call begins with the head of its request. While the application reads the body or sends its
answer, the loop turns, and other calls wait. `worker` makes the pod.
"""

from __future__ import annotations

import sys
from io import BufferedReader, RawIOBase
from time import monotonic_ns

from . import child, log
from .application import refuse_invoke
from .body import AHEAD_BYTES, Body, feed
from .call import Call
from .control_block import ASLEEP, CONN, DEADLINE, SEQ, WHY_DEADLINE
from .fields import Request, answer_lines, unquote
from .plainstream import END, Work
from .pod import PlainPod
from .stream import CLOSE_FAILED, Wrong, has_body

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .connection import Connection
    from .wire import Head

# The values of a repeated header are joined by a comma, except these.
JOINTS = {b"cookie": "; "}


class WsgiPod(PlainPod):
    """A pod whose function is a WSGI application."""

    is_application = True

    def begin(self, connection: Connection, head: Head, data: bytes) -> None:
        connection.incoming = body = Body(connection, head)
        work = WsgiWork(self, connection, Call(head, b""), body)
        connection.ahead += feed(connection, data)
        if self.later is None:
            self.later = []
        self.later.append(work)

    def feed(self, connection: Connection, data: bytes) -> bytes:
        return feed(connection, data)

    def invoke(self, connection: Connection, head: Head, body: bytes | bytearray,
               kind: type[Call] = Call) -> None:
        refuse_invoke(self, connection, head)

    def publish(self, work: WsgiWork) -> None:
        """Shows the watchdog that the call runs."""
        call, words = work.call, self.words
        self.seq += 1
        work.seq = self.seq
        work.connection.begin(call)
        words[DEADLINE] = call.deadline_ns
        words[CONN] = work.connection.number
        words[SEQ] = work.seq
        if words[ASLEEP]:
            self.ring()
        log.plain_call = call


class WsgiWork(Work):
    """One call of the application."""

    def __init__(self, pod: WsgiPod, connection: Connection, call: Call, body: Body) -> None:
        super().__init__(pod, connection, call, 0)
        self.body = body
        self._status = 0
        self._lines = b""
        self._length: int | None = None
        self._keep = True
        self._left: int | None = None  # The missing bytes of a body with a length.
        self._done = False

    def run(self) -> None:
        pod, connection, call = self.pod, self.connection, self.call
        if connection.gone:
            return
        if call.deadline_ns and monotonic_ns() >= call.deadline_ns:
            pod.stopped(connection, call, WHY_DEADLINE)
            return
        assert isinstance(pod, WsgiPod)
        pod.publish(self)
        super().run()

    def serve(self) -> None:
        run, seq = self.pod.run, self.seq
        result = run(seq, self.pod.function.entry, environ(self), self.start_response)
        child.leave_if_child()
        try:
            self._send_all(result)
        finally:
            self._close(result)

    def _send_all(self, result: Any) -> None:
        run, seq = self.pod.run, self.seq
        if isinstance(result, (list, tuple)) and not self.reply.begun:
            last = b"".join(result)
            if self._length is None and has_body(self.call.head, self._status):
                self._length = len(last)
        else:
            last = b""
            values = run(seq, iter, result)
            while True:
                value: Any = run(seq, next, values, END)
                child.leave_if_child()
                if value is END:
                    break
                if last:
                    self.send(last)
                last = self._piece(value)
                # The last piece of a body with a length is sent with the end of the answer.
                if last and (self._left is None or self._left > 0):
                    self.send(last)
                    last = b""
            if self.reply.begun:
                self._end(last)
                return
        self._end(self._piece(last, is_all=True))

    def _piece(self, data: bytes, is_all: bool = False) -> bytes:
        """Returns the bytes that send a piece of the body. If the head was not sent, it comes
        first."""
        if not isinstance(data, bytes):
            raise Wrong(f"the application's answer has {type(data).__name__} instead of bytes")
        head = b""
        if not self.reply.begun and (data or is_all):
            if not self._status:
                raise Wrong("the application did not call start_response")
            head = self.reply.begin(self._status, self._lines, self._length, self._keep)
            self._left = self._length
        if self._left is not None:
            self._left -= len(data)
        return head + self.reply.piece(data)

    def _end(self, last: bytes) -> None:
        last += self.reply.end()
        self._done = True
        # The client may leave after this without an effect on the application's `close`.
        self.pod.words[CONN] = 0
        self.finish(last)

    def _close(self, result: Any) -> None:
        run = self.pod.run
        close = getattr(result, "close", None)
        if close is None:
            return
        try:
            if run.stopped == self.seq:
                close()
            else:
                run(self.seq, close)
        except BaseException as error:
            child.leave_if_child_for(error, self.call)
            log.failure(CLOSE_FAILED, error, self.call)
        child.leave_if_child()

    def failed(self, error: BaseException) -> None:
        if self._done:
            log.failure("the application raised after its answer", error, self.call)
        else:
            super().failed(error)

    # --- what the application calls ---

    def start_response(self, status: str, headers: list[tuple[str, str]],
                       exc_info: Any = None) -> Callable[[bytes], None]:
        """Notes the head. It is sent with the first bytes of the body."""
        if exc_info is not None:
            try:
                if self.reply.begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._status:
            raise AssertionError("start_response was called twice")
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._lines, self._length, self._keep = answer_lines(fields)
        if not (status[:3].isdigit() and status[3:4] in ("", " ") and int(status[:3]) >= 200):
            raise Wrong(f"not the status of an answer: {status!r}")
        self._status = int(status[:3])
        return self._write

    def _write(self, data: bytes) -> None:
        child.leave_if_child()
        piece = self._piece(data)
        if piece:
            self.pod.run.shield(self.send, piece)

    def more(self, limit: int) -> bytes:
        """Waits for bytes of the request's body. Returns nothing at its end."""
        child.leave_if_child()
        return self.pod.run.shield(self._more, limit)

    def _more(self, limit: int) -> bytes:
        body = self.body
        while not body.has_news():
            if not self.reply.begun:
                body.ask()
            self.turn()
        return body.take(limit)


class Input(RawIOBase):
    """The request's body as a file."""

    def __init__(self, work: WsgiWork) -> None:
        self._work = work

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._work.more(len(buffer))
        buffer[:len(data)] = data
        return len(data)


def environ(work: WsgiWork) -> dict[str, Any]:
    """Returns the `environ` of PEP 3333."""
    head = work.call.head
    request = Request(head)
    found: dict[str, Any] = {
        "REQUEST_METHOD": head.method.decode(),
        "SCRIPT_NAME": unquote(request.prefix).decode("latin-1"),
        "PATH_INFO": unquote(request.path).decode("latin-1"),
        "QUERY_STRING": request.query.decode("latin-1"),
        "REQUEST_URI": (request.prefix + head.target).decode("latin-1"),
        "SERVER_NAME": request.host, "SERVER_PORT": str(request.port),
        "SERVER_PROTOCOL": "HTTP/1.1" if head.is_1_1() else "HTTP/1.0",
        "wsgi.version": (1, 0), "wsgi.url_scheme": request.scheme,
        "wsgi.input": BufferedReader(Input(work), AHEAD_BYTES), "wsgi.errors": sys.stderr,
        "wsgi.input_terminated": True, "wsgi.multithread": False, "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if request.peer:
        found["REMOTE_ADDR"] = request.peer
    for name, value in request.fields:
        if b"_" in name:
            continue  # It would look like the header with `-`.
        key = name.decode().upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        text = value.decode("latin-1")
        found[key] = found[key] + JOINTS.get(name, ",") + text if key in found else text
    return found
