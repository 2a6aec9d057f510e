"""The words that worker and watchdog share: the running call, its deadline, its connection.

An anonymous shared mapping of 64-bit words, each with one writer (named below), and after them a
line of bytes for each slot. Publishing a call costs a few stores and no system call, because the
watchdog polls the block while calls come. While the watchdog sleeps, the worker wakes it by a byte
on the link.
"""

from __future__ import annotations

import mmap

# Writer: the worker.
SEQ = 0  # Number of the running call; 0: none. (Async: not 0 while any call runs.)
DEADLINE = 1  # Its deadline on the monotonic clock, ns; 0: none. (Async: the earliest.)
CONN = 2  # Number of its connection. (Async: unused.)
BEAT = 3  # Async: when the loop last turned while calls ran, monotonic ns.
ANSWERED = 4  # 1 after the pod's first answer to a call.
SERVES = 5  # 1 from shortly before the worker first accepts.
# Writer: the watchdog.
STOP_SEQ = 6  # Number of the call that has to end.
STOP_WHY = 7  # WHY_*
# Writer: the watchdog sets it, the worker clears it.
ASLEEP = 8
SLOTS = 9  # First of the slot words.

SLOTS_MAX = 1024  # Open connections; more wait in the listener's backlog.

# A slot word is the connection's number << 2 | the state of its call; 0 if the slot is free.
IDLE = 0  # No call has begun.
RUNS = 1  # A call runs, and no byte of its answer was sent.
TALKS = 2  # An answer is being sent.

# For each slot: the header line that the answer to its call has to carry, ended by CR LF. Writer:
# the worker, before it sets RUNS. The watchdog reads the line after the worker's death. The
# platform's ids have at most 40 bytes; a line that does not fit is left out.
ECHO_BYTES = 64
ECHOES = (SLOTS + SLOTS_MAX) * 8  # Offset of the first echo line.
NO_ECHO = b"\r\n"

WHY_DEADLINE = 1
WHY_LEFT = 2
WHY_STOPPED = 3

BELL = b"!"
CONNECTION = b"C"  # + slot, number; carries the descriptor
READY = b"R"  # + loadedAt, readyAt in epoch ms
FINISHED = b"F"  # + the exit status
STOP = b"T"  # watchdog → worker: finish the running calls, then exit.


def new_control_block() -> memoryview:
    """Zeroed words, shared with every process that is forked later."""
    return memoryview(mmap.mmap(-1, ECHOES + SLOTS_MAX * ECHO_BYTES)).cast("Q")


def as_bytes(words: memoryview) -> memoryview:
    """The same control block as bytes."""
    return words.cast("B")


def echo_at(slot: int) -> int:
    """The offset of that slot's line."""
    return ECHOES + (slot - SLOTS) * ECHO_BYTES


def get_echo(control_block: memoryview, slot: int) -> bytes:
    """The slot's last line, or empty if it never had one. `control_block` is `as_bytes`."""
    at = echo_at(slot)
    line, end, _ = bytes(control_block[at:at + ECHO_BYTES]).partition(b"\r\n")
    return line + end if line else b""
