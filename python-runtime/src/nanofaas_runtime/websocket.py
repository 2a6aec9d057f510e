"""WebSockets of an ASGI application: the handshake, and the frames of RFC 6455.

`AsgiPod` makes a WebSocketCall of a request that asks for one. From the 101 on, the connection has
frames in place of a body.
"""

from __future__ import annotations

from asyncio import Event, sleep
from base64 import b64decode, b64encode
from hashlib import sha1
from struct import pack

from . import child, log
from .asgi import LEAVE_GRACE_S, AsgiCall
from .asyncstream import drained
from .fields import answer_lines
from .stream import Wrong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .connection import Connection
    from .wire import Head

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
# The connection is not read while this many bytes of messages wait for the application.
WAITING_BYTES_MAX = 64 * 1024

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL, GOING_AWAY, PROTOCOL, NO_STATUS, LOST, BAD_TEXT, TOO_BIG, FAULT = (
    1000, 1001, 1002, 1005, 1006, 1007, 1009, 1011)


class Broken(Exception):
    """Frames that break the protocol. The connection is closed with `code`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def wants(head: Head) -> bool:
    """Whether the request asks for a WebSocket."""
    upgrade = (head.header(b"upgrade") or b"").lower()
    options = (head.header(b"connection") or b"").lower().replace(b" ", b"").split(b",")
    return (upgrade == b"websocket" and b"upgrade" in options and head.method == b"GET"
            and head.is_1_1() and not head.length and not head.chunked)


def frame(opcode: int, data: bytes) -> bytes:
    """Returns a whole message as one frame."""
    size = len(data)
    if size < 126:
        length = pack("!BB", 0x80 | opcode, size)
    elif size < 65536:
        length = pack("!BBH", 0x80 | opcode, 126, size)
    else:
        length = pack("!BBQ", 0x80 | opcode, 127, size)
    return length + data


class Frames:
    """Reads the client's frames, and joins the fragments of a message."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._parts = bytearray()
        self._kind = 0  # The opcode of the message whose fragments are in `_parts`.

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Returns the messages and control frames that are complete. Raises Broken."""
        self._data += data
        found: list[tuple[int, bytes]] = []
        while True:
            each = self._next()
            if each is None:
                return found
            is_last, opcode, body = each
            if opcode >= CLOSE:
                found.append((opcode, body))
                continue
            if (opcode == CONTINUATION) != (self._kind != 0):
                raise Broken(PROTOCOL, "a fragment is out of order")
            self._kind = self._kind or opcode
            self._parts += body
            if len(self._parts) > MESSAGE_BYTES_MAX:
                raise Broken(TOO_BIG, f"a message may have {MESSAGE_BYTES_MAX} bytes at most")
            if is_last:
                found.append((self._kind, bytes(self._parts)))
                self._kind = 0
                self._parts.clear()

    def _next(self) -> tuple[bool, int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        opcode, size = data[0] & 0x0F, data[1] & 0x7F
        is_last, is_control = bool(data[0] & 0x80), opcode >= CLOSE
        if data[0] & 0x70 or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise Broken(PROTOCOL, "an extension or opcode that was not agreed on")
        if not data[1] & 0x80:
            raise Broken(PROTOCOL, "a client's frame must be masked")
        if is_control and (size > 125 or not is_last):
            raise Broken(PROTOCOL, "a control frame is short and whole")
        at = 2
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(data) < at:
                return None
            size = int.from_bytes(data[2:at], "big")
        if size > MESSAGE_BYTES_MAX:
            raise Broken(TOO_BIG, f"a message may have {MESSAGE_BYTES_MAX} bytes at most")
        end = at + 4 + size
        if len(data) < end:
            return None
        body = unmask(bytes(data[at:at + 4]), bytes(data[at + 4:end]))
        del data[:end]
        return is_last, opcode, body


def unmask(key: bytes, data: bytes) -> bytes:
    """Applies the client's mask."""
    size = len(data)
    mask = int.from_bytes((key * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(data, "big") ^ mask).to_bytes(size, "big")


class WebSocketCall(AsgiCall):
    """A call whose client asked for a WebSocket; also the connection's `incoming`. `complete` is
    true once the client has sent its close frame."""

    __slots__ = ("_accepted", "_closed", "_code", "_frames", "_messages", "_reason", "_told_end",
                 "_waiting", "complete", "is_dropped", "news")

    def __init__(self, connection: Connection, head: Head) -> None:
        super().__init__(connection, head, self)  # type: ignore[arg-type]
        self._frames = Frames()
        self._messages: list[dict[str, Any]] = [{"type": "websocket.connect"}]
        self._waiting = 0
        self._accepted = False
        self._closed = False  # A close frame was sent.
        self._code = LOST
        self._reason = ""
        self._told_end = False
        self.complete = False
        self.is_dropped = False
        self.news: Any = None

    # --- what `Connection` calls ---

    def feed(self, data: bytes) -> bytes:
        """Takes frames."""
        if self.complete:
            return b""
        try:
            for opcode, body in self._frames.feed(data):
                self._take(opcode, body)
        except Broken as error:
            log.line("warn", f"a WebSocket is closed: {error}", self)
            self._end(error.code, str(error))
        if self._waiting > WAITING_BYTES_MAX and not self._connection.gone:
            self._connection.transport.pause_reading()
        self.wake()
        return b""

    def ends_soon(self) -> bool:
        """A WebSocket's connection is never used again."""
        return False

    def wake(self) -> None:
        if self.news is not None:
            self.news.set()

    def _take(self, opcode: int, body: bytes) -> None:
        if self.complete:
            return
        if opcode == PING:
            if self._accepted and not self._closed:
                self._connection.stream(frame(PONG, body))
        elif opcode == CLOSE:
            code = int.from_bytes(body[:2], "big") if len(body) >= 2 else NO_STATUS
            self._end(code, body[2:].decode("utf-8", "replace"))
        elif opcode != PONG:
            message: dict[str, Any] = {"type": "websocket.receive"}
            try:
                message["text" if opcode == TEXT else "bytes"] = (
                    body.decode() if opcode == TEXT else body)
            except UnicodeDecodeError:
                raise Broken(BAD_TEXT, "a text is not UTF-8") from None
            message["size"] = len(body)
            self._waiting += len(body)
            self._messages.append(message)

    def _end(self, code: int, reason: str) -> None:
        """Notes the end, and answers or sends the close frame."""
        self.complete = True
        self._code, self._reason = code, reason
        if self._accepted and not self._closed:
            self._closed = True
            echo = b"" if code == NO_STATUS else pack("!H", code)
            self._connection.stream(frame(CLOSE, echo))

    # --- what the application calls ---

    def scope(self, state: dict[str, Any] | None) -> dict[str, Any]:
        found = super().scope(state)
        protocols = (self.head.header(b"sec-websocket-protocol") or b"").decode("latin-1")
        found["type"] = "websocket"
        found["scheme"] = "wss" if found["scheme"] == "https" else "ws"
        found["subprotocols"] = [each.strip() for each in protocols.split(",") if each.strip()]
        del found["method"]
        return found

    async def receive(self) -> dict[str, Any]:
        child.leave_if_child()
        while True:
            if self._messages:
                message = self._messages.pop(0)
                self._waiting -= message.pop("size", 0)
                if self._waiting <= WAITING_BYTES_MAX and not self._connection.gone:
                    self._connection.transport.resume_reading()
                return message
            if self.complete or self._closed or self._connection.gone:
                return {"type": "websocket.disconnect", "code": self._code,
                        "reason": self._reason}
            if self.news is None:
                self.news = Event()
            self.news.clear()
            await self.news.wait()

    async def send(self, message: dict[str, Any]) -> None:
        child.leave_if_child()
        kind, connection = message["type"], self._connection
        if connection.gone or self._closed and kind == "websocket.send":
            await sleep(LEAVE_GRACE_S)
        elif kind == "websocket.accept" and not self._accepted and not self.done:
            self._accept(message)
        elif kind == "websocket.send" and self._accepted:
            text, data = message.get("text"), message.get("bytes")
            connection.stream(frame(TEXT, text.encode()) if text is not None
                              else frame(BINARY, bytes(data or b"")))
            await drained(connection)
        elif kind == "websocket.close" and self._accepted:
            self._close(message.get("code", NORMAL), message.get("reason") or "")
        elif kind == "websocket.close" and not self.done:
            self.refuse()
        else:
            raise RuntimeError(f"the message {kind!r} is not expected here")

    def _accept(self, message: dict[str, Any]) -> None:
        lines, _, _ = answer_lines(message.get("headers") or ())
        key = self.head.header(b"sec-websocket-key") or b""
        accept = b64encode(sha1(key + MAGIC).digest())
        protocol = message.get("subprotocol")
        if protocol is not None:
            more, _, _ = answer_lines([(b"Sec-WebSocket-Protocol", protocol.encode())])
            lines += more
        self._accepted = self.reply.begun = True
        pod = self._connection.pod
        first = pod.first()
        pod.head_sent(self)
        self._connection.stream(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b%b%b\r\n" % (accept, lines, self.echo, first))

    def _close(self, code: int, reason: str) -> None:
        if not self._closed:
            self._closed = True
            text = reason.encode()[:123].decode("utf-8", "ignore").encode()
            self._connection.stream(frame(CLOSE, pack("!H", code) + text))

    def refuse(self) -> None:
        """Answers 403 to a request that the application does not accept."""
        self._connection.send(self.reply.begin(403, b"", 0, keep=False), False)
        self.done = True

    # --- the end ---

    def ended(self) -> None:
        """Closes the connection after the application has returned."""
        if self._connection.gone or self.done:
            return
        if not self._accepted:
            raise Wrong("the application returned before it had accepted or closed")
        self.done = True
        self._close(NORMAL, "")
        self._connection.send(b"", False)

    def failed(self, error: BaseException) -> None:
        if not self._accepted or self.done or self._connection.gone:
            super().failed(error)
            return
        log.failure("the application raised in a WebSocket", error, self)
        self._close(FAULT, "")
        self.done = True
        self._connection.send(b"", False)


def upgraded(connection: Connection, head: Head) -> WebSocketCall | None:
    """Returns the call of a request for a WebSocket; None for another request."""
    if not wants(head):
        return None
    connection.incoming = call = WebSocketCall(connection, head)
    return call


def bad_handshake(head: Head) -> str | None:
    """Returns what is wrong with a request for a WebSocket, or None."""
    if not wants(head):
        return None
    try:
        key = b64decode(head.header(b"sec-websocket-key") or b"", validate=True)
    except ValueError:
        key = b""
    if len(key) != 16:
        return "Sec-WebSocket-Key must be 16 bytes in base64"
    if head.header(b"sec-websocket-version") != b"13":
        return "the only version known is 13"
    return None
