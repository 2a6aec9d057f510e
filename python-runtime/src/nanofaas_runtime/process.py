"""A worker process: its inheritance, its end, and the text for its exit code.

`watchdog` decides when a worker has to end.
"""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import NoReturn

    from .watch import Watch

OOM_TEXT = "the worker was killed (SIGKILL), most likely because it ran out of memory"


class Link:
    """The objects that a worker inherits: its end of the link, the control block, the lifeline, and
    the listener (None for a Job)."""

    __slots__ = ("lifeline", "listener", "sock", "words")

    def __init__(self, sock: socket.socket, words: memoryview, lifeline: int,
                 listener: socket.socket | None) -> None:
        self.sock = sock
        self.words = words
        self.lifeline = lifeline
        self.listener = listener


class Worker:
    """The parent's side of one worker. The worker leads a process group, which also has the
    function's children. The parent sets `killed_for` when it kills the worker. If a worker ended by
    SIGKILL without `killed_for`, another process or the kernel killed it."""

    __slots__ = ("_kill_why", "born_at", "finished", "kill_at", "killed_for", "pid", "ready",
                 "sock", "watch")

    def __init__(self, pid: int, sock: socket.socket, ready: bool) -> None:
        self.pid = pid
        self.sock: socket.socket | None = sock
        self.ready = ready
        self.born_at = time.monotonic()
        self.watch: Watch | None = None
        self.kill_at: float | None = None
        self._kill_why: str | None = None
        self.killed_for: str | None = None
        self.finished: int | None = None  # The exit status of the worker's FINISHED message.

    def kill_after(self, seconds: float, why: str) -> None:
        """Plans a kill. Does nothing if one is already planned."""
        if self._kill_why is None:
            self.kill_at = time.monotonic() + seconds
            self._kill_why = why

    def kill_now(self, why: str) -> None:
        """Kills at once. Does nothing if the worker was killed before."""
        if self.killed_for is None:
            self.kill_at = None
            self.killed_for = why
            self.kill_group()

    def kill_if_due(self, now: float) -> None:
        """Kills if the time given to `kill_after` has come."""
        if self.kill_at is not None and self._kill_why is not None and now >= self.kill_at:
            self.kill_now(self._kill_why)

    def kill_group(self) -> None:
        """Kills the worker and its children. Call it before the worker is reaped: the kernel may
        give a reaped PID, which also names the group, to another process."""
        _kill_group(self.pid)


def end_with_watchdog() -> NoReturn:
    """Kills this worker and its children. A worker calls this when the link shows that the watchdog
    has ended.

    The lifeline kills the same group, but the kernel may close the link before the lifeline. A
    worker that only exited at that moment would leave its children behind.
    """
    _kill_group(os.getpid())
    os._exit(1)  # SIGKILL ends this process before it reaches this line.


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(leader, signal.SIGKILL)  # The worker leads no group.


def is_oom(how: int, worker: Worker) -> bool:
    """Whether the kernel probably killed the worker because memory ran out. `how` is an exit
    code of `os.waitstatus_to_exitcode`."""
    return how == -signal.SIGKILL and worker.killed_for is None


def how_ended(how: int) -> str:
    """Returns a text about a worker's end. `how` is the exit code of `is_oom`."""
    if how >= 0:
        return f"the worker exited with status {how}"
    try:
        return f"the worker was ended by signal {-how} ({signal.Signals(-how).name})"
    except ValueError:
        return f"the worker was ended by signal {-how}"
