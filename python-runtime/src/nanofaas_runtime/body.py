"""The body of a request to an application, which is read while the application runs.

`Connection` feeds the bytes as they come. The connection is not read while more than AHEAD_BYTES
wait for the application.
"""

from __future__ import annotations

from .wire import CONTINUE, Chunks, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .connection import Connection
    from .wire import Head

AHEAD_BYTES = 64 * 1024
CHUNK_BYTES_MAX = 1 << 40


class Body:
    """A request's body. `complete` is true when its last byte has come; the application may not
    have taken it. `news` is the asyncio.Event of tasks that wait for a change."""

    __slots__ = ("_chunks", "_connection", "_data", "_expects", "_left", "complete", "head",
                 "is_dropped", "news")

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._chunks = Chunks(CHUNK_BYTES_MAX) if head.chunked else None
        self.head = head
        self._left = head.length
        self._data = bytearray()
        self._expects = head.expects
        self.complete = not head.chunked and head.length == 0
        self.is_dropped = False
        self.news: Any = None

    def feed(self, data: bytes) -> bytes:
        """Takes bytes of the connection, and returns those after the body. Raises Malformed."""
        rest = data
        if self._chunks is not None and not self.complete:
            after = self._chunks.feed(data)
            self._data += self._chunks.body
            self._chunks.body.clear()
            self.complete = after is not None
            rest = after or b""
        elif self._left:
            self._data += data[:self._left]
            rest = data[self._left:]
            self._left -= min(len(data), self._left)
            self.complete = self._left == 0
        self._expects = self._expects and not data
        if self.is_dropped:
            self._data.clear()
        if len(self._data) > AHEAD_BYTES:
            self._connection.transport.pause_reading()
        self.wake()
        return rest

    def ends_soon(self) -> bool:
        """Whether the unneeded rest of the body can be read before the next request. If not, the
        connection has to close."""
        return self.complete or 0 < self._left <= AHEAD_BYTES and not self._expects

    def drop(self) -> None:
        """Drops all later bytes of the body."""
        self.is_dropped = True
        self._data.clear()
        self._connection.transport.resume_reading()

    def has_news(self) -> bool:
        """Whether `take` has bytes, or can say that none will follow."""
        return self.complete or bool(self._data)

    def take(self, limit: int = AHEAD_BYTES) -> bytes:
        """Returns at most `limit` bytes that have come."""
        data = bytes(self._data[:limit])
        del self._data[:limit]
        if len(self._data) <= AHEAD_BYTES and not self._connection.gone:
            self._connection.transport.resume_reading()
        return data

    def is_taken(self) -> bool:
        """Whether the application has the whole body."""
        return self.complete and not self._data

    def ask(self) -> None:
        """Asks the client for the body. Does nothing if the client does not wait for this."""
        if self._expects and not self._connection.gone:
            self._connection.transport.write(CONTINUE)
        self._expects = False

    def wake(self) -> None:
        """Resumes the tasks that wait."""
        if self.news is not None:
            self.news.set()


def feed(connection: Connection, data: bytes) -> bytes:
    """Feeds the body of the connection's call. Refuses the request if its body is malformed."""
    try:
        incoming: Body = connection.incoming
        return incoming.feed(data)
    except Malformed as error:
        connection.refuse_body(error)
        return b""
