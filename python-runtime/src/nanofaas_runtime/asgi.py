"""The pod of an ASGI 3 application: each HTTP call is a task that runs the application.

A call begins with the head of its request. The application reads the body while it comes, and its
answer is sent piece by piece. When the client leaves, the application gets `http.disconnect`, and
its task is cancelled soon after. `worker` makes the pod.
"""

from __future__ import annotations

from asyncio import CancelledError, Event, get_running_loop, sleep

from . import child, log, paths
from .application import refuse_invoke
from .asyncpod import AsyncPod
from .asyncstream import drained
from .body import Body, feed
from .call import Call
from .control_block import WHY_LEFT
from .fields import Request, answer_lines, unquote
from .stopping import message_of
from .stream import Reply, Wrong, cut_off, has_body
from .wire import failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .connection import Connection
    from .wire import Head

# How long after its client has left the application's task is cancelled.
LEAVE_GRACE_S = 0.1
ASGI = {"version": "3.0", "spec_version": "2.3"}


class AsgiPod(AsyncPod):
    """A pod whose function is an ASGI application."""

    is_application = True
    state: dict[str, Any] | None = None  # The state that the lifespan's startup has set.

    def begin(self, connection: Connection, head: Head, data: bytes) -> None:
        call: AsgiCall | None = None
        if head.lower.find(b"\r\nupgrade:") >= 0:
            with paths.Standard():
                from .websocket import bad_handshake, upgraded
            why = bad_handshake(head)
            if why:
                connection.send(failure(head.echo(), 400, "BAD_REQUEST", why, close=True), False)
                return
            call = upgraded(connection, head)
        if call is None:
            connection.incoming = body = Body(connection, head)
            call = AsgiCall(connection, head, body)
        connection.begin(call)
        connection.ahead += feed(connection, data)
        if not connection.gone:
            self.launch(connection, call, self._serve_call(connection, call))

    def feed(self, connection: Connection, data: bytes) -> bytes:
        return feed(connection, data)

    def invoke(self, connection: Connection, head: Head, body: bytes | bytearray,
               kind: type[Call] = Call) -> None:
        refuse_invoke(self, connection, head)

    async def _serve_call(self, connection: Connection, call: AsgiCall) -> None:
        try:
            await self.function.entry(call.scope(self.state), call.receive, call.send)
            child.leave_if_child()
            call.ended()
        except BaseException as error:  # Even SystemExit must not end the pod.
            child.leave_if_child_for(error, call)
            call.failed(error)

    def caller_left(self, call: Call) -> None:
        assert isinstance(call, AsgiCall)
        call.body.wake()
        self.loop.call_later(LEAVE_GRACE_S, self._cancel, call)

    def _cancel(self, call: Call) -> None:
        if call.task is not None:
            call.stopped = call.stopped or WHY_LEFT
            call.task.cancel()


class AsgiCall(Call):
    """A call, and the `receive` and `send` of the application. `done` is true when the whole answer
    was sent."""

    __slots__ = ("_connection", "_keep", "_length", "_lines", "_later", "_status", "_told", "done",
                 "reply")

    body: Body  # type: ignore[assignment]

    def __init__(self, connection: Connection, head: Head, body: Body) -> None:
        super().__init__(head, b"")
        self.body = body
        self.reply = Reply(connection, self)
        self.done = False
        self._connection = connection
        self._later: Any = None  # Sends the head, unless a piece of the body follows at once.
        self._told = False  # Whether the application has the end of the body.
        self._status = 0
        self._lines = b""
        self._length: int | None = None
        self._keep = True

    def scope(self, state: dict[str, Any] | None) -> dict[str, Any]:
        """Returns the connection scope. By the specification, `path` includes `root_path`."""
        head = self.head
        request = Request(head)
        raw_path = request.prefix + request.path
        scope = {
            "type": "http", "asgi": dict(ASGI), "http_version": "1.1" if head.is_1_1() else "1.0",
            "method": head.method.decode(), "scheme": request.scheme,
            "path": unquote(raw_path).decode("utf-8", "replace"), "raw_path": raw_path,
            "query_string": request.query,
            "root_path": unquote(request.prefix).decode("utf-8", "replace"),
            "headers": request.fields, "server": (request.host, request.port),
            "client": (request.peer, 0) if request.peer else None, "extensions": {},
        }
        if state is not None:
            scope["state"] = dict(state)
        return scope

    async def receive(self) -> dict[str, Any]:
        """Returns the next part of the request's body, or `http.disconnect` when the client has left or
        the answer is sent."""
        child.leave_if_child()
        body, connection = self.body, self._connection
        while True:
            if self.done or connection.gone or connection.closed:
                return {"type": "http.disconnect"}
            if body.has_news() and not self._told:
                data = body.take()
                self._told = body.is_taken()
                return {"type": "http.request", "body": data, "more_body": not self._told}
            if not self.reply.begun:
                body.ask()
            if body.news is None:
                body.news = Event()
            body.news.clear()
            await body.news.wait()

    async def send(self, message: dict[str, Any]) -> None:
        """Sends a part of the answer, and waits while the client does not read."""
        child.leave_if_child()
        kind = message["type"]
        if kind == "http.response.start" and not self._status:
            self._lines, self._length, self._keep = answer_lines(message.get("headers") or ())
            self._status = status_of(message["status"])
            self._later = get_running_loop().call_soon(self._send_head)
        elif kind == "http.response.body" and self._status and not self.done:
            await self._send_body(message.get("body") or b"", bool(message.get("more_body")))
        else:
            raise RuntimeError(f"the message {kind!r} is not expected here")

    def _send_head(self) -> None:
        if not self.reply.begun and not self._connection.gone:
            self._connection.stream(self._head(self._length))

    def _head(self, length: int | None) -> bytes:
        self._later.cancel()
        return self.reply.begin(self._status, self._lines, length, self._keep)

    async def _send_body(self, data: bytes, more: bool) -> None:
        connection, reply = self._connection, self.reply
        if connection.gone or connection.closed:
            await sleep(LEAVE_GRACE_S)  # An application that only sends must not hold the loop.
            return
        out = b""
        if not reply.begun:
            length = self._length
            if length is None and not more and has_body(self.head, self._status):
                length = len(data)
            out = self._head(length)
        out += reply.piece(bytes(data))
        if more:
            if out:
                connection.stream(out)
            await drained(connection)
            return
        out += reply.end()
        self.done = True
        connection.send(out, reply.keep and not connection.pod.stopping)
        self.body.wake()

    def ended(self) -> None:
        """Called when the application has returned. Raises Wrong if its answer is not whole."""
        if not (self.done or self._connection.gone or self._connection.closed):
            raise Wrong("the application returned before it had answered")

    def failed(self, error: BaseException) -> None:
        """Answers for an application that raised. If the answer has begun, cuts it."""
        connection, pod = self._connection, self._connection.pod
        if self._later is not None:
            self._later.cancel()
        if self.done:
            log.failure("the application raised after its answer", error, self)
        elif connection.gone or connection.closed:
            log.line("warn", f"call stopped: {message_of(WHY_LEFT)}", self)
        elif self.reply.begun:
            cut_off(connection, self, error, self.stopped)
        elif self.stopped and isinstance(error, CancelledError):
            pod.stopped(connection, self, self.stopped)
        else:
            pod.fail(connection, self, error)


def status_of(status: object) -> int:
    """Returns the status of an answer. Raises Wrong."""
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise Wrong(f"not the status of an answer: {status!r}")
    return int(status)
