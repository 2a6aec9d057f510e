"""A small HTTP client for the pod's requests to the platform: ready report, Job input and result.

It knows only plain `http`, sends one request for each connection, and limits each wait for the
peer. It uses the C module under `socket`, because a function may replace names in `socket`. Host
names are bytes, because the look-up of a text would import `encodings.idna`, which may fail after
the function was loaded.
"""

from __future__ import annotations

from _socket import IPPROTO_TCP, SOCK_STREAM, TCP_NODELAY, getaddrinfo, socket
from time import monotonic

from .wire import Chunks, Malformed

ANSWER_BYTES_MAX = 64 * 1024 * 1024


class Unreachable(Exception):
    """No complete answer came. The message has no URL, because a URL may contain a token."""


def request(method: str, url: str, body: bytes, content_type: str | None,
            timeout_s: float) -> tuple[int, dict[str, str], bytes]:
    """Sends one request. Returns status, headers (names in lower case) and body of the answer.
    Raises Unreachable."""
    host, port, path = split(url)
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
    if content_type is not None:
        head += f"Content-Type: {content_type}\r\n"
    if method != "GET":
        head += f"Content-Length: {len(body)}\r\n"
    until = monotonic() + timeout_s
    try:
        sock = _connect(host, port, timeout_s)
        try:
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            sock.sendall(head.encode("latin-1") + b"\r\n" + body)
            return _read_answer(sock, until)
        finally:
            sock.close()
    except (OSError, ValueError) as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from None


def _connect(host: str, port: int, timeout_s: float) -> socket:
    """Connects to the first of the host's addresses that accepts the connection. Raises OSError."""
    name = host.encode() if host.isascii() else host
    failed: OSError | None = None
    for family, kind, protocol, _, address in getaddrinfo(name, port, 0, SOCK_STREAM):
        sock = socket(family, kind, protocol)
        try:
            sock.settimeout(timeout_s)
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failed = error
    raise failed or OSError("the host has no address")


def split(url: str) -> tuple[str, int, str]:
    """Returns host, port and path. Raises Unreachable if `url` is not a plain `http` URL."""
    scheme, mark, rest = url.partition("://")
    if scheme.lower() != "http" or not mark:
        raise Unreachable("only http:// URLs are known here")
    authority, slash, path = rest.partition("/")
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, "80"
    host = host.strip("[]")
    if not host or not port.isdigit() or not path.isascii() or not path.isprintable():
        raise Unreachable("the URL is malformed")
    return host, int(port), slash + path or "/"


def _read_answer(sock: socket, until: float) -> tuple[int, dict[str, str], bytes]:
    data = bytearray()
    while b"\r\n\r\n" not in data:
        if len(data) > 32 * 1024:
            raise ValueError("the answer's head is too long")
        data += _receive(sock, until, True)
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    fields = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    if status == 204:
        return status, fields, b""
    return status, fields, _read_body(sock, until, fields, body)


def _read_body(sock: socket, until: float, fields: dict[str, str], body: bytes) -> bytes:
    if fields.get("transfer-encoding", "").lower() == "chunked":
        chunks = Chunks()
        try:
            while chunks.feed(body) is None:
                body = _receive(sock, until, True)
        except Malformed as error:
            raise ValueError(str(error)) from None
        return bytes(chunks.body)
    length = int(fields["content-length"]) if "content-length" in fields else None
    whole = bytearray(body)
    while length is None or len(whole) < length:
        piece = _receive(sock, until, length is not None)
        if not piece:
            break
        whole += piece
        if len(whole) > ANSWER_BYTES_MAX:
            raise ValueError("the answer is too long")
    return bytes(whole)


def _receive(sock: socket, until: float, more: bool) -> bytes:
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    sock.settimeout(left)
    data = sock.recv(256 * 1024)
    if not data and more:
        raise ConnectionError("the connection closed before the whole answer")
    return data
