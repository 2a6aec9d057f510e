"""One client connection: parses requests and sends answers, in order.

`Connection` has the methods of an `asyncio.Protocol`. A transport of asyncio, uvloop or `plainloop`
reads and writes the socket. Requests of one connection are served one after the other. `Pod`
decides how a call runs.
"""

from __future__ import annotations

from .control_block import ECHO_BYTES, IDLE, NO_ECHO, RUNS, STREAMS, TALKS, echo_at
from .call import Call
from .wire import (BODY_BYTES_MAX, CONTINUE, Chunks, Head, Malformed, check_partial_head, echo_of,
                   failure, parse_head, too_large)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .pod import Pod

# The number of bytes that a client may send ahead while its call runs. After more bytes, the
# connection is read only when the call has ended.
AHEAD_BYTES_MAX = 256 * 1024


class Connection:
    """`busy` is true while a call runs or an answer is being sent. Bytes that come in this time
    wait in `ahead`."""

    __slots__ = ("ahead", "body", "busy", "call", "chunks", "closed", "control_block", "drained",
                 "echo_at", "gone", "head", "incoming", "number", "paused", "pending", "pod",
                 "quiet", "slot", "sock", "transport")

    def __init__(self, pod: Pod, sock: Any, slot: int, number: int) -> None:
        self.pod = pod
        self.sock = sock
        self.slot = slot
        self.control_block = pod.control_block
        self.echo_at = echo_at(slot)
        self.number = number
        self.transport: Any = None
        self.pending = b""
        self.ahead = bytearray()
        self.head: Head | None = None
        self.body: bytearray | None = None
        self.chunks: Chunks | None = None
        self.call: Call | None = None
        self.drained: Any = None  # The asyncio.Event of tasks that wait for `resume_writing`.
        self.incoming: Any = None  # The `Body` of an application's call.
        self.busy = False
        self.closed = False
        self.gone = False
        self.paused = False
        self.quiet = 0

    # --- asyncio.Protocol ---

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        limit = getattr(transport, "set_write_buffer_limits", None)
        if limit is not None:
            limit(0)  # With 0, writing is paused exactly while an answer is being sent.

    def data_received(self, data: bytes) -> None:
        self.quiet = 0
        if self.busy or self.closed:
            if not self.closed:
                if self.incoming is not None:
                    data = self.pod.feed(self, data)
                self.ahead += data
                if self.incoming is not None and self.incoming.is_dropped:
                    self.sent()
                if len(self.ahead) > AHEAD_BYTES_MAX:
                    self.transport.pause_reading()
            return
        self._read(data)

    def eof_received(self) -> None:
        """Returns None, so that the transport closes the connection: a FIN counts as its end."""

    def connection_lost(self, _error: BaseException | None) -> None:
        if not self.gone:
            self.gone = self.closed = True
            if self.drained is not None:
                self.drained.set()
            self.pod.connection_gone(self)

    def pause_writing(self) -> None:
        """The transport calls this when it buffers a part of the answer."""
        self.paused = True

    def resume_writing(self) -> None:
        """The transport calls this when the kernel has everything that was written."""
        self.paused = False
        if self.call is None:
            if self.busy:
                self.sent()
        if self.drained is not None:
            self.drained.set()

    # --- requests ---

    def _read(self, data: bytes) -> None:
        try:
            while data and not self.closed:
                if self.busy:
                    self.ahead += data
                    return
                if self.head is not None:
                    rest = self._read_body(data)
                    if rest is None:
                        return
                    data = rest
                    continue
                if self.pending:
                    data = self.pending + data
                    self.pending = b""
                end = data.find(b"\r\n\r\n")
                if end < 0:
                    check_partial_head(data)
                    self.pending = data
                    return
                end += 4
                head = parse_head(data, end)
                if head.http and self.pod.is_application:
                    self.busy = True
                    self.pod.begin(self, head, data[end:])
                    return
                if head.chunked:
                    self.chunks = Chunks()
                elif len(data) - end < head.length:
                    if head.length > BODY_BYTES_MAX:
                        raise too_large()
                    self.body = bytearray()
                else:
                    stop = end + head.length
                    body = data[end:stop]
                    data = data[stop:]
                    self.pod.request(self, head, body)
                    continue
                self.head = head
                data = data[end:]
                if head.http and not self.pod.allows(head):
                    self._refuse(self.pod.not_allowed(head, True))  # The body is not awaited.
                    return
                if head.expects and not data:
                    self.transport.write(CONTINUE)
        except Malformed as error:
            echo = echo_of(data) if self.head is None else self.head.echo()
            self._refuse(failure(echo, error.status, "BAD_REQUEST", str(error), close=True))

    def _read_body(self, data: bytes) -> bytes | None:
        """Returns the bytes after the body, or None while the body is incomplete."""
        head = self.head
        assert head is not None
        if self.chunks is not None:
            rest = self.chunks.feed(data)
            if rest is None:
                return None
            body = self.chunks.body
            self.chunks = None
        else:
            assert self.body is not None
            body = self.body
            need = head.length - len(body)
            body += data[:need]
            if len(data) < need:
                return None
            rest = data[need:]
            self.body = None
        self.head = None
        self.pod.request(self, head, body)
        return rest

    def _refuse(self, text: bytes) -> None:
        """Answers and shuts down the write side, but reads on: closing with unread bytes would
        reset the connection before the client reads the answer. `sweep` closes it later."""
        self.closed = True
        self.transport.write(text)
        self._linger()

    def _linger(self) -> None:
        self.transport.resume_reading()
        try:
            self.transport.write_eof()
        except (OSError, NotImplementedError, RuntimeError):
            self.transport.close()

    def refuse_body(self, error: Malformed) -> None:
        """Ends a call whose body is malformed. Its answer may have begun."""
        if self.pod.words[self.slot] & 3 != STREAMS:
            echo = self.incoming.head.echo()
            self.transport.write(failure(echo, error.status, "BAD_REQUEST", str(error), close=True))
        self.closed = True
        self.transport.close()

    def may_stay(self) -> bool:
        """Whether another request can follow the present one."""
        return self.incoming is None or self.incoming.ends_soon()

    # --- answers ---

    def begin(self, call: Call) -> None:
        """Marks that a call runs. If the worker dies after this, the call fails."""
        self.busy = True
        self.call = call
        # The watchdog may send the line when it reads RUNS, so write the line first.
        line = call.echo
        if not 0 < len(line) <= ECHO_BYTES:
            line = NO_ECHO
        at = self.echo_at
        self.control_block[at:at + len(line)] = line
        self.pod.words[self.slot] = self.number << 2 | RUNS

    def stream(self, data: bytes) -> None:
        """Sends a part of an answer. After this, only a cut answer shows the client that the call
        failed."""
        if not self.gone:
            self.pod.words[self.slot] = self.number << 2 | STREAMS
            self.transport.write(data)

    def cut(self) -> None:
        """Closes the connection before the end of an answer."""
        self.call = None
        self.closed = True
        if not self.gone:
            self.transport.abort()

    def send(self, data: bytes, keep: bool) -> None:
        """Sends an answer. After it, the connection closes, or the bytes that the client sent ahead
        are read."""
        self.call = None
        if self.gone:
            return
        words = self.pod.words
        words[self.slot] = self.number << 2 | TALKS
        self.busy = True
        if not keep:
            self.closed = True
        if self.transport.write(data) is None and not self.paused:
            self.sent()

    def sent(self) -> None:
        """Makes the connection free for the next request."""
        if self.gone:
            return
        self.pod.words[self.slot] = self.number << 2 | IDLE
        incoming = self.incoming
        if incoming is not None and not incoming.complete:
            if self.closed:
                self._linger()
            else:
                incoming.drop()
            return
        self.busy = False
        if incoming is not None:
            self.incoming = None
            self.transport.resume_reading()  # The body may be read to its end, and not taken.
        if self.closed:
            self.transport.close()
        elif self.ahead:
            ahead = bytes(self.ahead)
            self.ahead.clear()
            self.transport.resume_reading()
            self._read(ahead)
