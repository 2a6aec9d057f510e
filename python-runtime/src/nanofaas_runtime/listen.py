"""The pod's listening socket, on a Unix path or a TCP port.

This module accepts no connection. Only `watchdog` calls it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings

BACKLOG = 1024


def bind(settings: Settings) -> socket.socket:
    """Returns a non-blocking listener. Raises OSError, for example if another process listens
    there."""
    path = settings.socket_path
    if path is None:
        listener = _bind_all(settings.port)
    else:
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _bind_all(port: int) -> socket.socket:
    """Returns a socket that is bound to every address of IPv6 and IPv4, or of IPv4 alone if the
    kernel has no IPv6."""
    try:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    else:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("", port))
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Removes a socket that an ended process left. Raises OSError for any other file at `path`, and
    for a socket on which another process listens."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(17, "there is a file that is not a socket", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(98, "another process listens there", path)


def unbind(settings: Settings, listener: socket.socket | None) -> None:
    """Removes the path before it closes the listener, so that no client connects to a closing
    listener."""
    if listener is None:
        return
    if settings.socket_path is not None:
        try:
            os.unlink(settings.socket_path)
        except OSError:
            pass
    listener.close()
