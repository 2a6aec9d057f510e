"""The signals that stop a worker or its call.

The watchdog stops a plain call by STOP_SIGNAL; SIGALRM and SIGUSR1 stay free for the function.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STOP_SIGNAL = signal.SIGRTMIN + 9


class StopHandler:
    """The handler of SIGTERM and SIGINT in a worker. By its type, `child` distinguishes it from a
    handler of the function."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def __call__(self, _number: int, _frame: object) -> None:
        self._then()
