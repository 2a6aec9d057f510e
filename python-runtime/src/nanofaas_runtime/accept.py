"""Accepts connections from the backlog, a limited number at a time.

Both loops call it. It does not wait. Neither an error of one connection nor a lack of descriptors
ends the loop.
"""

from __future__ import annotations

import errno
import socket
from socket import socket as Socket

from . import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection
    from .pod import Pod

ACCEPTS_PER_TURN_MAX = 64
# The pause when slots or descriptors have run out.
PAUSE_S = 0.1

SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


def accept_some(listener: socket.socket, pod: Pod,
                take: Callable[[Connection, socket.socket], None]) -> bool:
    """Accepts connections, and passes each one to `take`. Returns False if accepting has to
    pause."""
    for _ in range(ACCEPTS_PER_TURN_MAX):
        if pod.full():
            return False
        try:
            # `accept` would build an object of the class that `socket.socket` is now, and proxy
            # libraries replace that class.
            descriptor, _ = listener._accept()
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno in SCARCE:
                log.line("warn", f"accepting pauses: {error}")
                return False
            continue  # The client has already closed the connection.
        sock = Socket(listener.family, listener.type, listener.proto, descriptor)
        prepare(sock)
        take(pod.admit(sock), sock)
    return True


def prepare(sock: socket.socket) -> None:
    """Sets the options that every connection has."""
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
