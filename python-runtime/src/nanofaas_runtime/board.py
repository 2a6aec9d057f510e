"""The words that worker and watchdog share: what runs, until when, on which connection.

An anonymous shared mapping of 64-bit words, each with one writer (named below), and after them a
line of bytes for each slot. Publishing a call costs a few stores and no system call, because the
watchdog polls the board while calls come. Only when it sleeps does the worker wake it, by a byte on
the link.
"""

from __future__ import annotations

import mmap

# Writer: the worker.
SEQ = 0  # Number of the call that runs; 0: none. (Async: nonzero while any runs.)
DEADLINE = 1  # Its deadline on the monotonic clock, ns; 0: none. (Async: the earliest.)
CONN = 2  # Number of its connection. (Async: unused.)
BEAT = 3  # Async: when the loop last turned while calls ran, monotonic ns.
ANSWERED = 4  # 1 once any call of this pod was answered.
SERVES = 5  # 1 from before it first accepts.
# Writer: the watchdog.
STOP_SEQ = 6  # The call that has to end; valid only for the call of that number.
STOP_WHY = 7  # WHY_*
# Writer: the watchdog sets it, the worker clears it.
ASLEEP = 8
SLOTS = 9  # First of the slot words.

SLOTS_MAX = 1024  # Connections at once; more wait in the listener's backlog.

# A slot word is the connection's number << 2 | what its call does; 0 where the slot is free.
IDLE = 0  # Nothing of a call has begun.
RUNS = 1  # A call runs, and no byte of its answer was sent.
TALKS = 2  # An answer is being sent.

# For each slot: the header line that the answer to its call has to carry, ended by CR LF. Writer:
# the worker, before it sets RUNS; the watchdog reads it once the worker is dead. The platform's
# ids have 40 bytes at most; a line that does not fit is not there.
ECHO_BYTES = 64
ECHOES = (SLOTS + SLOTS_MAX) * 8  # Where they begin.
NO_ECHO = b"\r\n"

WHY_DEADLINE = 1
WHY_LEFT = 2
WHY_STOPPED = 3

BELL = b"!"
CONNECTION = b"C"  # + slot, number; carries the descriptor
READY = b"R"  # + loadedAt, readyAt in epoch ms
FINISHED = b"F"  # + the exit status
STOP = b"T"  # watchdog → worker: finish what runs, then go.


def new_board() -> memoryview:
    """Zeroed words, shared with every process forked from here on."""
    return memoryview(mmap.mmap(-1, ECHOES + SLOTS_MAX * ECHO_BYTES)).cast("Q")


def as_bytes(words: memoryview) -> memoryview:
    """The same board by bytes."""
    return words.cast("B")


def echo_at(slot: int) -> int:
    """Where the line of that slot word begins."""
    return ECHOES + (slot - SLOTS) * ECHO_BYTES


def get_echo(board: memoryview, slot: int) -> bytes:
    """The line that was put last (`board` is `as_bytes`); empty where there was none."""
    at = echo_at(slot)
    line, end, _ = bytes(board[at:at + ECHO_BYTES]).partition(b"\r\n")
    return line + end if line else b""
