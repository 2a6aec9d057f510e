"""The words that worker and watchdog share: the running call, its deadline, its connection.

The control block is an anonymous shared mapping of 64-bit words, and after them a line of bytes for
each slot. Publishing a call costs a few stores and no system call, because the watchdog polls the
block while calls come. The worker wakes a sleeping watchdog by a byte on the link.
"""

from __future__ import annotations

import mmap

# The worker writes these words.
SEQ = 0  # The number of the running call; 0 if no call runs. Async: not 0 while any call runs.
DEADLINE = 1  # The call's deadline, monotonic ns; 0 if it has none. Async: the earliest.
CONN = 2  # The number of the call's connection. Async: unused.
BEAT = 3  # Async: when the loop last ran while calls ran, monotonic ns.
ANSWERED = 4  # 1 after the pod's first answer to a call.
SERVES = 5  # 1 since shortly before the worker began to accept.
STREAMING = 9  # 1 while a plain call sends a stream. Async: unused.
# The watchdog writes these words.
STOP_SEQ = 6  # The number of the call that has to end.
STOP_WHY = 7  # The reason, one of WHY_*.
# The watchdog sets this word before it sleeps. The worker or the watchdog clears it when a call
# runs.
ASLEEP = 8
SLOTS = 10  # The first of the slot words.

SLOTS_MAX = 1024  # The limit of open connections. Others wait in the backlog.

# A slot word is `number << 2 | state`, with the number of the connection and the state of its call.
# It is 0 if the slot is free.
IDLE = 0  # No call runs.
RUNS = 1  # A call runs, and no byte of its answer was sent.
TALKS = 2  # An answer is being sent.
STREAMS = 3  # A call runs, and a part of its answer was sent.

# Each slot has room for the header line that the answer to its call must carry, with its CR LF. The
# worker writes the line before it sets RUNS, and the watchdog reads it after the worker's death.
# The platform's ids have at most 40 bytes; a line that does not fit is left out.
ECHO_BYTES = 64
ECHOES = (SLOTS + SLOTS_MAX) * 8  # The offset of the first echo line.
NO_ECHO = b"\r\n"

WHY_DEADLINE = 1
WHY_LEFT = 2
WHY_STOPPED = 3

BELL = b"!"
CONNECTION = b"C"  # Slot and number follow. The message carries the descriptor.
READY = b"R"  # loadedAt and readyAt follow, in epoch ms.
FINISHED = b"F"  # The exit status follows.
ADOPT = b"A"  # The watchdog accepted this connection; the message carries its descriptor.
STOP = b"T"  # The watchdog asks the worker to finish the running calls and to exit.


def new_control_block() -> memoryview:
    """Returns zeroed words, which this process shares with every process that it forks later."""
    return memoryview(mmap.mmap(-1, ECHOES + SLOTS_MAX * ECHO_BYTES)).cast("Q")


def as_bytes(words: memoryview) -> memoryview:
    """Returns the same control block as bytes."""
    return words.cast("B")


def echo_at(slot: int) -> int:
    """Returns the offset of the slot's echo line."""
    return ECHOES + (slot - SLOTS) * ECHO_BYTES


def get_echo(control_block: memoryview, slot: int) -> bytes:
    """Returns the slot's last echo line, or nothing if it had none. `control_block` is a result of
    `as_bytes`."""
    at = echo_at(slot)
    line, end, _ = bytes(control_block[at:at + ECHO_BYTES]).partition(b"\r\n")
    return line + end if line else b""
