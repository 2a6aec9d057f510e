"""The part of a request's head that an application gets, and the head of its answer.

ASGI and WSGI share this. No header of an application replaces or doubles one of the runtime.
"""

from __future__ import annotations

import re

from .stream import Wrong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .wire import Head

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BREAKS = re.compile(rb"[\r\n\0]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
# Headers about the connection and not about the answer; the runtime writes its own.
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer",
                        b"transfer-encoding", b"upgrade"))
# The pod reports to the platform by these, and by all of `X-Nanofaas-…`.
OF_THE_RUNTIME = frozenset((b"x-cold-start", b"x-init-duration-ms", b"x-not-started"))


def unquote(path: bytes) -> bytes:
    """Decodes the percent-encoding. A `%` without two digits stays."""
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), path)


class Request:
    """A request's head as applications get it."""

    __slots__ = ("fields", "host", "path", "peer", "port", "prefix", "query", "scheme")

    def __init__(self, head: Head) -> None:
        target = head.target
        if not target.startswith((b"/", b"*")):  # The absolute form: `http://host/path`.
            target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
        self.path, _, self.query = target.partition(b"?")
        self.fields = []
        for line in head.raw.split(b"\r\n")[1:-2]:
            name, _, value = line.partition(b":")
            self.fields.append((name.lower(), value.strip(b" \t")))
        prefix = head.header(b"x-forwarded-prefix") or b""
        self.prefix = prefix.rstrip(b"/") if prefix.startswith(b"/") else b""
        scheme = (head.header(b"x-forwarded-proto") or b"").rpartition(b",")[2].strip().lower()
        self.scheme = scheme.decode() if scheme in (b"http", b"https") else "http"
        # The platform saw the last address; a client may have forged the others.
        peer = (head.header(b"x-forwarded-for") or b"").rpartition(b",")[2].strip()
        self.peer = peer.decode("latin-1")
        host, _, port = (head.header(b"host") or b"").decode("latin-1").rpartition(":")
        if not port.isdigit():
            host, port = f"{host}:{port}" if host else port, ""
        self.host = host or "localhost"
        self.port = int(port or (443 if self.scheme == "https" else 80))


def answer_lines(fields: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, int | None, bool]:
    """Returns the header lines, the value of Content-Length, and whether the connection may stay
    open. Raises Wrong."""
    lines = []
    length: int | None = None
    keep = True
    for name, value in fields:
        name, value = bytes(name), bytes(value).strip(b" \t")
        if not _NAME.fullmatch(name):
            raise Wrong(f"not a header's name: {name!r}")
        if _BREAKS.search(value):
            raise Wrong(f"the header {name.decode()} has a line break: {value!r}")
        key = name.lower()
        if key == b"content-length":
            if not value.isdigit() or len(value) > 15 or length not in (None, int(value)):
                raise Wrong(f"Content-Length must be one whole number, not {value!r}")
            length = int(value)
        elif key == b"connection":
            keep = keep and b"close" not in value.lower()
        elif not (key in HOP_BY_HOP or key in OF_THE_RUNTIME or key.startswith(b"x-nanofaas-")):
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines), length, keep
