"""Reports one time to the platform that this pod is ready.

A thread of its own sends the report, so the report does not delay serving. If it fails, the
platform's probe of `/health` finds the pod. `watchdog` calls `announce`.
"""

from __future__ import annotations

import _thread

from . import log
from .client import Unreachable, request

TIMEOUT_S = 5.0


def announce(url: str, started_at: int, loaded_at: int, ready_at: int) -> None:
    """Starts a thread that posts the three times, in epoch ms."""
    body = b'{"startedAt":%d,"loadedAt":%d,"readyAt":%d}' % (started_at, loaded_at, ready_at)
    _thread.start_new_thread(_post, (url, body))


def _post(url: str, body: bytes) -> None:
    try:
        status, _, _ = request("POST", url, body, "application/json", TIMEOUT_S)
    except Unreachable as error:
        log.line("warn", f"could not say that the pod is ready (it serves all the same): {error}")
        return
    if status >= 300:
        log.line("warn", f"could not say that the pod is ready: the platform answered {status}")
