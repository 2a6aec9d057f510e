"""The watchdog's view of one worker: its connections, and the call that has to end.

`Watch` holds a duplicate of each connection's descriptor and polls it only for hang-ups, so
requests do not wake the watchdog. If the worker has to be replaced, `poll` returns the reason, and
`watchdog` replaces it.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

from .control_block import (BEAT, CONN, DEADLINE, IDLE, RUNS, SEQ, STOP_SEQ, STOP_WHY,
                            STREAMS, WHY_DEADLINE, WHY_LEFT, WHY_STOPPED, as_bytes, get_echo)
from .not_ready import refuse
from .stopsignal import STOP_SIGNAL
from .wire import failure

# How long a plain function may run after it was signalled to stop.
STOP_GRACE_NS = 100_000_000
# How long an async worker's loop may stand still. A busy machine may delay a healthy loop.
BEAT_GRACE_NS = 500_000_000
POLL_SOON_S = 0.05

STOP_REASONS = {
    WHY_DEADLINE: "the function ran on for 100 ms after its deadline",
    WHY_LEFT: "the function ran on for 100 ms after its caller had left",
    WHY_STOPPED: "the function ran on for 100 ms after the Job was stopped",
}


class Watch:
    """The connections and the running call of one worker. `busy` is true if the last poll found a
    call. `stopped_why` is the reason of the last stop."""

    def __init__(self, epoll: select.epoll, words: memoryview, worker: int) -> None:
        self._epoll = epoll
        self._words = words
        self._worker = worker
        self._socks: dict[int, tuple[socket.socket, int, int]] = {}  # By fd: socket, slot, number.
        self._left: dict[int, int] = {}  # By number: the fd, if the peer hung up.
        self._left_at: dict[int, int] = {}  # By number: the time of the hang-up, in ns.
        self._stopped = 0
        self.stopped_why = 0
        self._stopped_at = 0
        self._soon = False
        self.busy = False

    def add(self, message: bytes, rights: list[tuple[int, int, bytes]]) -> None:
        """Adds a connection that the worker accepted."""
        fd = int.from_bytes(rights[0][2][:4], sys.byteorder)
        slot, number = map(int, message.split())
        sock = socket.socket(fileno=fd)
        self._socks[fd] = (sock, slot, number)
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLET)

    def hung_up(self, fd: int) -> None:
        """Notes that the peer has left, or drops a connection that the worker has closed."""
        if fd not in self._socks:
            return
        _, slot, number = self._socks[fd]
        if self._words[slot] >> 2 == number:
            self._left[number] = fd
            self._left_at[number] = time.monotonic_ns()
        else:
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        sock, _, number = self._socks.pop(fd)
        self._left.pop(number, None)
        self._left_at.pop(number, None)
        self._epoll.unregister(fd)
        sock.close()

    def pending(self) -> bool:
        """Whether to poll although no call runs: a peer hung up, or `poll_soon` was called."""
        return bool(self._left) or self._soon

    def poll_soon(self) -> None:
        """Asks for one more poll after POLL_SOON_S."""
        self._soon = True

    def look_again_s(self, usual: float) -> float:
        """Returns the seconds until the next poll: `usual`, or less if a deadline or a kill comes
        earlier."""
        if self._soon:
            return POLL_SOON_S
        now = time.monotonic_ns()
        if self._stopped and self._stopped == self._words[SEQ]:
            return max(0.0, min(usual, (self._stopped_at + STOP_GRACE_NS - now) / 1e9))
        deadline = self._words[DEADLINE]
        if deadline and not self._words[BEAT] and self._words[SEQ]:
            return max(0.0, min(usual, (deadline - now) / 1e9))
        return usual

    def poll(self) -> str | None:
        """Stops a call that is overdue or whose caller has left. Returns why the worker has to be
        replaced, or None."""
        self._soon = False
        for number, fd in list(self._left.items()):
            if self._words[self._socks[fd][1]] >> 2 != number:
                self._drop(fd)
        words = self._words
        seq = words[SEQ]
        self.busy = seq != 0
        if not seq:
            return None
        deadline, conn, beat = words[DEADLINE], words[CONN], words[BEAT]
        if words[SEQ] != seq:
            return None  # Another call has begun; the next poll handles it.
        now = time.monotonic_ns()
        if beat:
            return self._look_async(deadline, beat, now)
        if self._stopped == seq:
            if now >= self._stopped_at + STOP_GRACE_NS:
                return STOP_REASONS[self.stopped_why]
            # The first signal may have come just before a system call, which it then did not
            # interrupt.
            self._signal()
            return None
        if deadline and now >= deadline:
            self._tell(seq, WHY_DEADLINE, now)
        elif conn in self._left:
            self._tell(seq, WHY_LEFT, now)
        return None

    def _tell(self, seq: int, why: int, now: int) -> None:
        self._words[STOP_WHY] = why
        self._words[STOP_SEQ] = seq
        self._stopped, self.stopped_why, self._stopped_at = seq, why, now
        self._signal()

    def _signal(self) -> None:
        try:
            os.kill(self._worker, STOP_SIGNAL)
        except ProcessLookupError:
            pass

    def stop_call(self) -> None:
        """Stops the running call, if there is one."""
        seq = self._words[SEQ]
        if seq:
            self._tell(seq, WHY_STOPPED, time.monotonic_ns())

    def _look_async(self, deadline: int, beat: int, now: int) -> str | None:
        """Returns why the worker must be replaced. A loop that runs cancels overdue calls
        itself."""
        if now - beat < BEAT_GRACE_NS:
            return None
        if deadline and now - deadline >= BEAT_GRACE_NS:
            return "an async function blocks the loop, and a call's deadline has passed"
        for number, fd in self._left.items():
            runs = self._words[self._socks[fd][1]] in (number << 2 | RUNS, number << 2 | STREAMS)
            if runs and now - self._left_at[number] >= BEAT_GRACE_NS:
                return "an async function blocks the loop, and a caller has left"
        return None

    def has_told(self) -> bool:
        """Whether the running call was signalled to stop. Its caller needs no answer: it knows the
        deadline or has left."""
        return self._stopped != 0 and self._stopped == self._words[SEQ]

    def bury(self, status: int, code: str, message: str) -> None:
        """Closes the connections of a dead worker. Before that, its running calls get an answer
        with `status`, `code` and `message`; if `status` is 0, they get none."""
        control_block = as_bytes(self._words)
        for sock, slot, number in list(self._socks.values()):
            word = self._words[slot]
            if word == number << 2 | IDLE:
                refuse(sock)  # An unread request gets an answer, because it did not run.
            elif status and word == number << 2 | RUNS:
                text = failure(get_echo(control_block, slot), status, code, message, close=True)
                try:
                    sock.send(text, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                except OSError:
                    pass
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        # An earlier connection of the same slot may still be listed. If its word were cleared in
        # the loop above, the call of the slot's present connection would not be seen.
        for fd, (_, slot, _) in list(self._socks.items()):
            self._words[slot] = 0
            self._drop(fd)
