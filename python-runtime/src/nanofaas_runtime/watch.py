"""What the watchdog knows of one worker: its connections, and the call that has to end.

Holds a descriptor of its own for each connection and polls it only for hang-ups, so requests do not
wake the watchdog. Never replaces the worker; says why it should be. Called by `watchdog`.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

from .board import (BEAT, CONN, DEADLINE, IDLE, RUNS, SEQ, STOP_SEQ, STOP_WHY, WHY_DEADLINE,
                    WHY_LEFT, WHY_STOPPED, as_bytes, get_echo)
from .standin import refuse
from .stopsignal import STOP_SIGNAL
from .wire import failure

# How long a plain function may run on after it was told to stop.
STOP_GRACE_NS = 100_000_000
# How long an async worker's loop may stand still, because a busy machine may delay a sound loop.
BEAT_GRACE_NS = 500_000_000
LOOK_SOON_S = 0.05

TOLD = {
    WHY_DEADLINE: "the function ran on for 100 ms after its deadline",
    WHY_LEFT: "the function ran on for 100 ms after its caller had left",
    WHY_STOPPED: "the function ran on for 100 ms after the Job was stopped",
}


class Watch:
    """`busy` is whether the last look found a call, `told_why` why one was last told to end."""

    def __init__(self, epoll: select.epoll, words: memoryview, worker: int) -> None:
        self._epoll = epoll
        self._words = words
        self._worker = worker
        self._socks: dict[int, tuple[socket.socket, int, int]] = {}  # fd: socket, slot, number
        self._left: dict[int, int] = {}  # number: fd, of connections whose peer hung up
        self._left_at: dict[int, int] = {}  # number: when, ns
        self._told = 0
        self.told_why = 0
        self._told_at = 0
        self._soon = False
        self.busy = False

    def add(self, message: bytes, rights: list[tuple[int, int, bytes]]) -> None:
        """A connection the worker accepted."""
        fd = int.from_bytes(rights[0][2][:4], sys.byteorder)
        slot, number = map(int, message.split())
        sock = socket.socket(fileno=fd)
        self._socks[fd] = (sock, slot, number)
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLET)

    def hung_up(self, fd: int) -> None:
        """The peer left, or the worker closed the connection."""
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
        """Whether to look although no call comes: a peer hung up, or sleep has just begun."""
        return bool(self._left) or self._soon

    def look_soon(self) -> None:
        """One more look is due."""
        self._soon = True

    def look_again_s(self, usual: float) -> float:
        """Until the next look: sooner, where a deadline or a kill is nearer."""
        if self._soon:
            return LOOK_SOON_S
        now = time.monotonic_ns()
        if self._told and self._told == self._words[SEQ]:
            return max(0.0, min(usual, (self._told_at + STOP_GRACE_NS - now) / 1e9))
        deadline = self._words[DEADLINE]
        if deadline and not self._words[BEAT] and self._words[SEQ]:
            return max(0.0, min(usual, (deadline - now) / 1e9))
        return usual

    def look(self) -> str | None:
        """Tells an overdue call to end. Returns why the worker must be replaced, or None."""
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
            return None  # The next call has begun meanwhile; the next look is for it.
        now = time.monotonic_ns()
        if beat:
            return self._look_async(deadline, beat, now)
        if self._told == seq:
            if now >= self._told_at + STOP_GRACE_NS:
                return TOLD[self.told_why]
            # Signal again: the first signal may have come just before a system call, which it then
            # did not interrupt.
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
        self._told, self.told_why, self._told_at = seq, why, now
        self._signal()

    def _signal(self) -> None:
        try:
            os.kill(self._worker, STOP_SIGNAL)
        except ProcessLookupError:
            pass

    def stop_call(self) -> None:
        """Tells the call that runs, if any, to end."""
        seq = self._words[SEQ]
        if seq:
            self._tell(seq, WHY_STOPPED, time.monotonic_ns())

    def _look_async(self, deadline: int, beat: int, now: int) -> str | None:
        """Returns why the worker must be replaced, or None. Only a loop that stands still is at
        fault, because a loop that turns cancels overdue calls itself."""
        if now - beat < BEAT_GRACE_NS:
            return None
        if deadline and now - deadline >= BEAT_GRACE_NS:
            return "an async function blocks the loop, and a call's deadline has passed"
        for number, fd in self._left.items():
            runs = self._words[self._socks[fd][1]] == number << 2 | RUNS
            if runs and now - self._left_at[number] >= BEAT_GRACE_NS:
                return "an async function blocks the loop, and a caller has left"
        return None

    def has_told(self) -> bool:
        """Whether the call that runs was told to end. Then its caller needs no answer: it knows the
        deadline, or has left."""
        return self._told != 0 and self._told == self._words[SEQ]

    def bury(self, status: int, code: str, message: str) -> None:
        """The worker is dead: answers its calls with that error, or not at all if the status is 0,
        and closes their connections."""
        board = as_bytes(self._words)
        for sock, slot, number in list(self._socks.values()):
            word = self._words[slot]
            if word == number << 2 | IDLE:
                refuse(sock)  # Only where a request lies unread: nothing of it was run.
            elif status and word == number << 2 | RUNS:
                text = failure(get_echo(board, slot), status, code, message, close=True)
                try:
                    sock.send(text, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                except OSError:
                    pass
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        # Not in the loop above, because an earlier connection of a slot may still be listed: it
        # would clear the word that the slot's present connection needs.
        for fd, (_, slot, _) in list(self._socks.items()):
            self._words[slot] = 0
            self._drop(fd)
