"""Counts the system calls of threads per warm call, with strace. The futexes, bells and yields
among them are the messages and locks between threads. This module knows no ceiling."""

import collections
import pathlib
import time

from plane import Client, Plane

WARM_UP_CALLS = 160
CALLS = 480
# The number of rounds. Only the round with the fewest system calls counts, because the others have
# more calls that depend on timing.
ROUNDS = 3
# The pause between two calls over one connection. Without this pause, the next call would arrive
# before strace lets the io thread continue, so the io thread would not wait for that call. Runs
# with 16 connections have no pause, because one wait serves many calls there.
PAUSE_S = 0.0005

# The text by which strace shows a bell of an io thread: one byte of value 1, sent on a socket. A
# bell of the bridge is a `write` to an eventfd. No thread uses `write` for other purposes.
BELL = ', "\\1", 1'
# The ticker of an io thread makes this system call before it waits for a deadline, so the call
# counts as a wait.
TIMER = "timerfd_settime"
WAITS = ("epoll_wait", "epoll_pwait", "io_uring_enter", TIMER)


class Traced:
    """A plane under strace, which writes a file for each thread and flushes each line."""

    def __init__(self, folder, flags, echo):
        self.traces = pathlib.Path(folder) / f"trace-{time.monotonic_ns()}"
        self.traces.mkdir()
        tool = ["strace", "-f", "-ff", "-qq", "-s", "8", "-o", self.traces / "t"]
        self.plane = Plane(folder, tool, flags, echo)

    def thread(self, name):
        """Returns the trace of the thread with that name."""
        for trace in self.traces.iterdir():
            comm = pathlib.Path(f"/proc/{self.plane.pid}/task/{trace.suffix[1:]}/comm")
            if comm.exists() and comm.read_text().strip() == name:
                return trace
        raise SystemExit(f"counts: nanofaas has no thread {name}")

    def stop(self):
        self.plane.stop()


def read_from(trace, offset):
    with trace.open("rb") as file:
        file.seek(offset)
        text = file.read()
    end = text.rfind(b"\n") + 1
    return text[:end].decode(errors="replace").splitlines(), offset + end


def count(lines):
    """Counts system calls by name. A write or send that rings a bell is counted as `bell`."""
    counts = collections.Counter()
    for line in lines:
        name, _, arguments = line.partition("(")
        if name == "write" or name == "sendto" and BELL in arguments:
            name = "bell"
        if name.isidentifier():
            counts[name] += 1
    return counts


def per_call(traced, threads, function, connections):
    """Returns the system calls per call of each thread, from the round with the lowest total."""
    traces = [traced.thread(name) for name in threads]
    client = Client(traced.plane, function, connections, PAUSE_S if connections == 1 else 0)
    client.call(WARM_UP_CALLS)
    offsets = []
    for trace in traces:
        offsets.append(settle(trace))
    rounds = []
    for _ in range(ROUNDS):
        client.call(CALLS)
        counts = []
        for place, trace in enumerate(traces):
            settle(trace)
            lines, offsets[place] = read_from(trace, offsets[place])
            counts.append({name: n / CALLS for name, n in count(lines).items()})
        rounds.append(counts)
    client.close()
    return min(rounds, key=lambda counts: sum(sum(one.values()) for one in counts))


def settle(trace):
    """Waits until strace has written the calls so far. Returns the length of the trace."""
    time.sleep(0.02)
    return read_from(trace, 0)[1]


def split(counts):
    """Returns the number of system calls without waits, and the number of waits."""
    waits = sum(counts.get(name, 0) for name in WAITS)
    return sum(counts.values()) - waits, waits


def messages(counts):
    """Returns the number of contended locks, bells and yields."""
    return sum(counts.get(name, 0) for name in ("futex", "bell", "sched_yield"))
