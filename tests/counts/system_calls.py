"""System calls per warm call, by strace: those of the io thread, and with them the messages and
locks between threads, which are futexes and bells. It knows no ceiling."""

import collections
import pathlib
import time

from plane import Client, Plane

WARM_UP_CALLS = 160
CALLS = 480
# What a call needs is needed in every round; what timing adds is not in the best of them.
ROUNDS = 3
# A client that calls again at once has done so before strace lets the io thread go on: what came
# meanwhile costs no wait. With one connection, none comes meanwhile.
PAUSE_S = 0.0005

# An io thread's bell is a byte of value 1 on a socket, here as strace writes it; the bridge's is a
# number written to an eventfd. Nothing else is written: messages are sent.
BELL = ', "\\1", 1'
# Of the ticker, which sets its timer before it waits.
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
        """The trace of the thread of that name."""
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
    """System calls by name; what rings a bell has a name of its own."""
    counts = collections.Counter()
    for line in lines:
        name, _, arguments = line.partition("(")
        if name == "write" or name == "sendto" and BELL in arguments:
            name = "bell"
        if name.isidentifier():
            counts[name] += 1
    return counts


def per_call(traced, threads, function, connections):
    """Counts per call of each of the threads, of the round with the fewest in all."""
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
    """Where the trace ends once the answered calls are all in it."""
    time.sleep(0.02)
    return read_from(trace, 0)[1]


def split(counts):
    """All but the waits, and the waits."""
    waits = sum(counts.get(name, 0) for name in WAITS)
    return sum(counts.values()) - waits, waits


def messages(counts):
    """Locks taken under contention, bells rung, yields."""
    return sum(counts.get(name, 0) for name in ("futex", "bell", "sched_yield"))
