"""Raises CallStopped in the running plain call and nowhere else.

The watchdog writes the call's number to the control block and sends a signal. Python runs the
handler on the main thread between two bytecodes, so it can raise inside the function. `_armed` is
the call's number while the function runs. A late signal finds another number, or 0, and has no
effect.
"""

from __future__ import annotations

import signal

from . import CallerLeft, CallStopped, DeadlineExceeded
from .control_block import STOP_SEQ, STOP_WHY, WHY_DEADLINE, WHY_LEFT
from .stopsignal import STOP_SIGNAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

MESSAGES = {
    WHY_DEADLINE: "the call's deadline passed while it was running",
    WHY_LEFT: "the caller closed the connection",
}


def message_of(why: int) -> str:
    """Returns the message in the answer to a call that was stopped for that reason."""
    return MESSAGES.get(why, "the pod is being stopped")


class PlainRun:
    """Runs plain functions one at a time, each stoppable from outside.

    `stopped` is the number of the last call in which a stop was raised, and `why` is the reason. If
    the function raised CallStopped itself, the number differs: this is an ordinary error.
    """

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._armed = 0
        self.stopped = 0
        self.why = 0
        # `signal.signal` sets no SA_RESTART, so the signal interrupts system calls. A `waitpid` or
        # a `recv` that went on waiting would delay the exception.
        signal.signal(STOP_SIGNAL, self._on_signal)

    def _on_signal(self, _number: int, _frame: object) -> None:
        seq = self._armed
        if seq and self._words[STOP_SEQ] == seq:
            self._armed = 0
            raise self.stop(seq, self._words[STOP_WHY])

    def stop(self, seq: int, why: int) -> CallStopped:
        """Notes that the call is stopped, and returns the exception to raise in it."""
        self.stopped = seq
        self.why = why
        if why == WHY_DEADLINE:
            return DeadlineExceeded(message_of(why))
        if why == WHY_LEFT:
            return CallerLeft(message_of(why))
        return CallStopped(message_of(why))

    def shield(self, function: Callable[..., T], *args: object) -> T:
        """Calls a function of the runtime that the running call uses. No stop interrupts it; the
        watchdog signals again."""
        seq, self._armed = self._armed, 0
        try:
            return function(*args)
        finally:
            if self.stopped != seq:
                self._armed = seq

    def __call__(self, seq: int, function: Callable[..., object], *args: object) -> object:
        """Runs the function and returns its result. A signal between the function's return and the
        last line may still raise CallStopped. It stops this call, because the control block still
        names it."""
        try:
            self._armed = seq
            return function(*args)
        finally:
            self._armed = 0
