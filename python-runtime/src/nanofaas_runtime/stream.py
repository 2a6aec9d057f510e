"""The bytes of an answer that is sent in pieces: its head, its framing, what a generator yields.

It is imported with the first such answer, because a plain call does
not need it.
"""

from __future__ import annotations

from . import Event, Response, log
from .call import TEXT_TYPE
from .output import BadOutput, encode, encode_text
from .stopping import message_of
from .wire import BODY_BYTES_MAX, REASONS, Head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from .call import Call
    from .connection import Connection

EVENT_TYPE = "text/event-stream"
WITHOUT_BODY = (204, 304)
CLOSE_FAILED = "the generator raised when it was closed"


class Wrong(Exception):
    """An application's answer that cannot be sent. The message gives the reason."""


class Reply:
    """An answer that is sent in pieces. `begun` is true after the head. `keep` is false if the
    connection ends with the answer."""

    __slots__ = ("_call", "_chunked", "_connection", "_has_body", "_left", "begun", "keep")

    def __init__(self, connection: Connection, call: Call) -> None:
        self._connection = connection
        self._call = call
        self._chunked = False
        self._has_body = True
        self._left: int | None = None  # The missing bytes of a body whose length was given.
        self.begun = False
        self.keep = True

    def begin(self, status: int, lines: bytes, length: int | None, keep: bool = True) -> bytes:
        """Returns the head. `lines` has header lines, none of them about the framing. `length` is
        None if the body's length is not known."""
        head, pod = self._call.head, self._connection.pod
        keep = keep and pod.keeps(head) and self._connection.may_stay()
        if not has_body(head, status):
            self._has_body = False
            framing = b"" if length is None or status == 204 else _length(length)
        elif length is not None:
            self._left = length
            framing = _length(length)
        elif head.is_1_1():
            self._chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        else:
            keep = False
            framing = b""
        if not keep:
            framing += b"Connection: close\r\n"
        self.begun = True
        self.keep = keep
        reason = REASONS.get(status, "").encode()
        first = pod.first()
        pod.head_sent(self._call)
        return b"HTTP/1.1 %d %b\r\n%b%b%b%b\r\n" % (
            status, reason, lines, framing, self._call.echo, first)

    def piece(self, data: bytes) -> bytes:
        """Returns the bytes that send a piece of the body; none if the answer has no body. Raises
        Wrong for bytes beyond the body's length."""
        if not data or not self._has_body:
            return b""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise Wrong("the body is longer than its Content-Length")
        return data

    def end(self) -> bytes:
        """Returns the bytes that end the body. Raises Wrong if a part of the body is missing."""
        if self._left:
            raise Wrong(f"the body is {self._left} bytes shorter than its Content-Length")
        return b"0\r\n\r\n" if self._chunked else b""


def has_body(head: Head, status: int) -> bool:
    """Whether the answer to this request, with this status, has a body."""
    return head.method != b"HEAD" and status not in WITHOUT_BODY


def _length(length: int) -> bytes:
    return b"Content-Length: %d\r\n" % length


def begin_stream(reply: Reply, pieces: Pieces) -> bytes:
    """Returns the head of a generator's answer. `pieces` has encoded the first value."""
    kind = str(pieces.content_type).encode()
    return reply.begin(200, b"Content-Type: %b\r\n" % kind, None)


class Pieces:
    """Encodes the values of a generator: text as UTF-8, bytes unchanged, anything else as a line of
    JSON. `content_type` is that of the first value."""

    __slots__ = ("content_type",)

    def __init__(self) -> None:
        self.content_type: str | None = None

    def encode(self, value: object) -> bytes:
        """Returns the bytes of one value. Raises BadOutput."""
        if isinstance(value, str):
            self.content_type = self.content_type or TEXT_TYPE
            return encode_text(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            self.content_type = self.content_type or "application/octet-stream"
            return bytes(value)
        if isinstance(value, Event):
            self.content_type = self.content_type or EVENT_TYPE
            if self.content_type == EVENT_TYPE:
                return event_text(value)
        elif self.content_type == EVENT_TYPE:
            raise BadOutput("a stream of events has only Event, str and bytes, "
                            f"not {type(value).__name__}")
        self.content_type = self.content_type or "application/x-ndjson"
        return encode(value) + b"\n"


class Whole:
    """Collects the values of a generator, for a Job, whose result is posted whole."""

    def __init__(self) -> None:
        self._pieces = Pieces()
        self._body = bytearray()

    def add(self, value: object) -> None:
        """Adds a value. Raises BadOutput."""
        self._body += self._pieces.encode(value)
        if len(self._body) > BODY_BYTES_MAX:
            raise BadOutput(f"the output has more than {BODY_BYTES_MAX} bytes")

    def result(self) -> Response | None:
        """Returns the output, or None if the generator yielded nothing."""
        kind = self._pieces.content_type
        return None if kind is None else Response(self._body, kind)

    def gather(self, values: Iterable[object]) -> Response | None:
        """Runs a generator to its end."""
        for value in values:
            self.add(value)
        return self.result()

    async def gather_async(self, values: AsyncIterable[object]) -> Response | None:
        """Runs an async generator to its end."""
        async for value in values:
            self.add(value)
        return self.result()


def event_text(event: Event) -> bytes:
    """Returns an event as `text/event-stream` has it. Raises BadOutput."""
    # The attributes may have changed since the construction, so check them again.
    event = Event(event.data, event.event, event.id, event.retry)
    lines = b""
    for name, line in ((b"event", event.event), (b"id", event.id)):
        if line is not None:
            lines += b"%b: %b\n" % (name, encode_text(line))
    if event.retry is not None:
        lines += b"retry: %d\n" % event.retry
    if event.data is not None:
        data = event.data
        text = encode_text(data) if isinstance(data, str) else encode(data)
        for part in text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
            lines += b"data: %b\n" % part
    return lines + b"\n"


def cut_off(connection: Connection, call: Call, error: BaseException, why: int) -> None:
    """Ends an answer that has begun and cannot be completed. `why` is 0 or WHY_*."""
    if why:
        log.line("warn", f"call stopped: {message_of(why)}", call)
    else:
        log.failure("the function raised after its answer had begun", error, call)
    connection.cut()
