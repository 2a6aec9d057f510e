"""Parses HTTP/1.1 heads and chunked bodies, and builds answers, from bytes to bytes.

This module uses no socket and no clock. As RFC 9112 asks, it refuses every request that two parsers
could read differently. `connection` calls it for each request.
"""

from __future__ import annotations

import re
from json.encoder import encode_basestring as quote

HEAD_BYTES_MAX = 32 * 1024
BODY_BYTES_MAX = 64 * 1024 * 1024
CHUNK_LINE_BYTES_MAX = 4096
# BODY_BYTES_MAX does not count the trailer.
TRAILER_BYTES_MAX = 16 * 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_HEAD = re.compile(
    rb"(" + _TOKEN + rb") ([!-~]+) HTTP/1\.([01])\r\n"
    rb"((?:" + _TOKEN + rb":[\t -~\x80-\xff]*\r\n)*)\r\n"
)
_ECHO = re.compile(rb"(?i)\r\n(x-execution-id:[\t -~\x80-\xff]*\r\n)")
_BARE_NEWLINE = re.compile(rb"(?<!\r)\n")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_TRAILER_LINE = re.compile(_TOKEN + rb":[\t -~\x80-\xff]*")

# The line, in lower case, that marks an HTTP call: a call by `/fn/` with the client's own path and
# method. The platform writes exactly this line.
HTTP_MARK = b"\r\nx-nanofaas-call: http\r\n"
HTTP_ECHO = b"X-Nanofaas-Answer: "

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Its arguments are the echo (see `Head.echo`), the length and the body.
OK_JSON = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
)
REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content",
    301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
    307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request",
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    406: "Not Acceptable", 408: "Request Timeout", 409: "Conflict", 410: "Gone",
    411: "Length Required", 412: "Precondition Failed", 413: "Content Too Large",
    415: "Unsupported Media Type", 416: "Range Not Satisfiable", 417: "Expectation Failed",
    422: "Unprocessable Content", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}


class Malformed(Exception):
    """A request that cannot be parsed. It is answered with `status`, and the connection closes."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def too_large() -> Malformed:
    """Returns the refusal of a body that is too large to be held."""
    return Malformed(413, f"a body may have {BODY_BYTES_MAX} bytes at most")


class Head:
    """A request's head. `lower` is the head in lower case, in which headers are searched by
    name."""

    __slots__ = ("chunked", "expects", "http", "keep", "length", "lower", "method", "raw",
                 "target")

    method: bytes
    target: bytes
    raw: bytes
    lower: bytes
    keep: bool
    chunked: bool
    expects: bool
    http: bool  # The request has HTTP_MARK.
    length: int

    def is_1_1(self) -> bool:
        """Whether the request's version is HTTP/1.1, which has chunked answers."""
        return self.raw[self.raw.index(b"\r\n") - 1] == 0x31

    def header(self, name: bytes) -> bytes | None:
        """Returns the value of the first header of that name. `name` is in lower case."""
        start = self.lower.find(b"\r\n" + name + b":")
        if start < 0:
            return None
        start += len(name) + 3
        return self.raw[start:self.raw.index(b"\r\n", start)].strip(b" \t")

    def echo(self) -> bytes:
        """Returns the line that ties the answer to its call: the request's `X-Execution-Id` line,
        empty if there is none. The answer to an HTTP call has `X-Nanofaas-Answer` with that id,
        because an application may send `X-Execution-Id`."""
        if self.http:
            return HTTP_ECHO + (self.header(b"x-execution-id") or b"") + b"\r\n"
        start = self.lower.find(b"\r\nx-execution-id:") + 2
        if start < 2:
            return b""
        return self.raw[start:self.raw.index(b"\r\n", start) + 2]

    def headers(self) -> dict[str, str]:
        """Returns all headers, with names in lower case. The values of a repeated name are joined
        by commas."""
        found: dict[str, str] = {}
        for line in self.raw.split(b"\r\n")[1:-2]:
            name, _, value = line.partition(b":")
            key = name.decode("latin-1").lower()
            text = value.strip(b" \t").decode("latin-1")
            found[key] = f"{found[key]}, {text}" if key in found else text
        return found


def parse_head(data: bytes, end: int) -> Head:
    """Parses the head, which ends at offset `end` with its blank line. Raises Malformed."""
    matched = _HEAD.fullmatch(data, 0, end)
    if matched is None:
        raise _why_malformed(data[:end])
    head = Head()
    head.method, head.target, minor, _ = matched.groups()
    head.raw = data[:end]
    head.lower = lower = head.raw.lower()
    version_1_1 = minor == b"1"

    hosts = lower.count(b"\r\nhost:")
    if hosts != 1 and (version_1_1 or hosts > 1):
        raise Malformed(400, "exactly one Host header is needed")

    head.http = lower.find(HTTP_MARK) >= 0

    head.length = 0
    head.chunked = False
    start = lower.find(b"\r\ncontent-length:")
    if start >= 0:
        value = head.header(b"content-length") or b""
        if lower.find(b"\r\ncontent-length:", start + 2) >= 0 or not value.isdigit():
            raise Malformed(400, "Content-Length must be one whole number")
        if len(value) > 15 or not head.http and int(value) > BODY_BYTES_MAX:
            raise too_large()
        head.length = int(value)
    if lower.find(b"\r\ntransfer-encoding:") >= 0:
        _transfer_coding(head, version_1_1, start >= 0)

    head.keep = version_1_1
    if lower.find(b"\r\nconnection:") >= 0:
        options = (head.header(b"connection") or b"").lower().replace(b" ", b"").split(b",")
        head.keep = b"close" not in options and (version_1_1 or b"keep-alive" in options)

    head.expects = False
    if version_1_1 and lower.find(b"\r\nexpect:") >= 0:
        if (head.header(b"expect") or b"").lower() != b"100-continue":
            raise Malformed(417, "the only expectation known is 100-continue")
        head.expects = True
    return head


def echo_of(data: bytes) -> bytes:
    """Returns `Head.echo` for a request that was not parsed; empty if the line is missing or
    incomplete."""
    end = data.find(b"\r\n\r\n") + 2
    found = _ECHO.search(data, 0, end)
    line = b"" if found is None else found[1]
    if data[:max(0, end)].lower().find(HTTP_MARK) >= 0:
        return HTTP_ECHO + line.partition(b":")[2].strip() + b"\r\n"
    return line


def _transfer_coding(head: Head, version_1_1: bool, has_length: bool) -> None:
    if has_length:
        raise Malformed(400, "Content-Length and Transfer-Encoding exclude each other")
    if not version_1_1:
        raise Malformed(400, "HTTP/1.0 knows no Transfer-Encoding")
    if head.lower.count(b"\r\ntransfer-encoding:") > 1:
        raise Malformed(400, "Transfer-Encoding may be given once")
    if (head.header(b"transfer-encoding") or b"").lower() != b"chunked":
        raise Malformed(501, "the only transfer coding known is chunked")
    head.chunked = True


def _why_malformed(raw: bytes) -> Malformed:
    line = raw.split(b"\r\n", 1)[0]
    version = line.rpartition(b" ")[2]
    if re.fullmatch(rb"HTTP/[0-9]\.[0-9]", version) and not version.startswith(b"HTTP/1."):
        return Malformed(505, "this server speaks HTTP/1.1")
    return Malformed(400, "the request's head is malformed")


def check_partial_head(data: bytes) -> None:
    """Raises Malformed for a head that is too long or that is already invalid."""
    if len(data) > HEAD_BYTES_MAX:
        raise Malformed(431, f"a head may have {HEAD_BYTES_MAX} bytes at most")
    if _BARE_NEWLINE.search(data):
        raise Malformed(400, "lines end with CR LF")


class Chunks:
    """Decodes a chunked body piece by piece. `body` may have at most `limit` bytes."""

    __slots__ = ("_limit", "_need", "_pending", "_trailer", "body")

    def __init__(self, limit: int = BODY_BYTES_MAX) -> None:
        self._limit = limit
        self.body = bytearray()
        self._pending = b""
        self._need = -1  # The missing bytes of this chunk; -1 if a size line is next.
        self._trailer = -1  # The bytes of the trailer so far; -1 before the trailer.

    def feed(self, data: bytes) -> bytes | None:
        """Returns the bytes after the body, or None while the body is incomplete. Raises
        Malformed."""
        data = self._pending + data
        at = 0
        while True:
            if self._need > 0:
                piece = data[at:at + self._need]
                self.body += piece
                self._need -= len(piece)
                at += len(piece)
                if self._need:
                    self._pending = b""
                    return None
            if self._need == 0:
                mark = data[at:at + 2]
                if mark != b"\r\n"[:len(mark)]:
                    raise Malformed(400, "a chunk is longer than its size says")
                if len(mark) < 2:
                    self._pending = data[at:]
                    return None
                at += 2
                self._need = -1
            end = data.find(b"\r\n", at)
            if end < 0:
                self._wait_for_line(data, at)
                return None
            done = self._line(data[at:end])
            at = end + 2
            if done:
                return data[at:]

    def _wait_for_line(self, data: bytes, at: int) -> None:
        self._pending = data[at:]
        if len(self._pending) > CHUNK_LINE_BYTES_MAX or b"\n" in self._pending:
            raise Malformed(400, "a chunk's size line is malformed")

    def _line(self, line: bytes) -> bool:
        """Handles a size or trailer line. Returns True at the body's end."""
        if self._trailer >= 0:
            if not line:
                return True
            self._trailer += len(line)
            if self._trailer > TRAILER_BYTES_MAX or not _TRAILER_LINE.fullmatch(line):
                raise Malformed(400, "the trailer is malformed or too long")
            return False
        matched = _CHUNK_SIZE.fullmatch(line)
        if matched is None:
            raise Malformed(400, "a chunk's size line is malformed")
        size = int(matched[1], 16)
        if size == 0:
            self._trailer = 0
        elif len(self.body) + size > self._limit:
            raise too_large()
        else:
            self._need = size
        return False


def answer(echo: bytes, status: int, content_type: str | None, body: bytes, extra: bytes = b"",
           close: bool = False) -> bytes:
    """Returns a whole answer. `echo` is the request's `Head.echo`; it has no default, so that it is
    not forgotten. `extra` has complete header lines."""
    parts = f"HTTP/1.1 {status} {REASONS[status]}\r\n"
    if content_type is not None:
        parts += f"Content-Type: {content_type}\r\n"
    parts += f"Content-Length: {len(body)}\r\n"
    if close:
        parts += "Connection: close\r\n"
    return parts.encode("latin-1") + echo + extra + b"\r\n" + body


def failure(echo: bytes, status: int, code: str, message: str, extra: bytes = b"",
            close: bool = False) -> bytes:
    """Returns the answer for an error. Its body is `{"code","message"}`, or `{"error","message"}`
    for an HTTP call."""
    key = "error" if echo.startswith(HTTP_ECHO) else "code"
    body = failure_body(code, message, key)
    return answer(echo, status, "application/json", body, extra, close)


def health(head: Head, is_stopping: bool, close: bool) -> bytes:
    """Returns the answer to a probe."""
    status, body = (503, b'{"status":"STOPPING"}') if is_stopping else (200, b'{"status":"UP"}')
    return for_method(head, answer(head.echo(), status, "application/json", body, close=close))


def for_method(head: Head, text: bytes) -> bytes:
    """Returns the answer `text`, without its body if the request is a HEAD."""
    return text[:text.index(b"\r\n\r\n") + 4] if head.method == b"HEAD" else text


def failure_body(code: str, message: str, key: str = "code") -> bytes:
    """Returns the JSON of an error. Lone surrogates in the message become `?`."""
    text = message.encode("utf-8", "replace").decode()
    return f'{{"{key}": {quote(code)}, "message": {quote(text)}}}'.encode()


NOT_STARTED = b"X-Not-Started: true\r\n"
