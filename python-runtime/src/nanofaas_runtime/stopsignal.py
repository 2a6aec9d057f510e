"""The signals that stop a worker or its call.

With STOP_SIGNAL the watchdog stops a plain call; SIGALRM and SIGUSR1 are left to the function.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STOP_SIGNAL = signal.SIGRTMIN + 9


class StopHandler:
    """What SIGTERM or SIGINT does in a worker; of a type of its own, so that `child` can tell it
    from a handler of the function's."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def __call__(self, _number: int, _frame: object) -> None:
        self._then()
