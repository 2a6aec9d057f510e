"""Gates on counts: the system calls, messages between threads and instructions of one warm call.
`./ci counts` runs this program after a release build; `python3 tests/counts` shows all counts. The
program measures no time, so the counts are the same on a busy machine. A gate whose tool is not
installed is skipped and reported. With NANOFAAS_COUNTS=required, such a gate fails."""

import os
import shutil
import sys
import tempfile

import ceilings
import instructions
import system_calls
from plane import Echo

FUNCTIONS = ("local", "tcp", "unix", "http")
CONNECTIONS = (1, 16)
DRIVERS = ("epoll", "uring")
ADVICE = """\
A warm call costs more than before. `strace -f`, or `valgrind --tool=callgrind` with
callgrind_annotate, shows what the change added to it. If the change is worth that cost, raise the
ceiling in tests/counts/ceilings.py in the same commit, and give the reason there."""


class Verdict:
    def __init__(self):
        self.above = 0
        self.absent = 0

    def hold(self, what, counted, ceiling, detail=""):
        fine = counted <= ceiling
        self.above += not fine
        mark = "" if fine else "  ABOVE"
        print(f"{what:34} {counted:10.2f}  ceiling {ceiling:10.2f}{mark}  {detail}", flush=True)


def shown(counts):
    return " ".join(f"{name} {n:.2f}" for name, n in sorted(counts.items()) if n >= 0.005)


def inline(verdict, folder, echo):
    for driver in DRIVERS:
        flags = ["--scheduler", "inline", "--io-driver", driver]
        traced = system_calls.Traced(folder, flags, echo)
        for function in FUNCTIONS:
            for connections in CONNECTIONS:
                (counts,) = system_calls.per_call(traced, ["io-0"], function, connections)
                case = (driver, function, connections)
                name = " ".join(map(str, case))
                work, waits = system_calls.split(counts)
                most_work, most_waits = ceilings.SYSTEM_CALLS.get(case, (0, 0))
                verdict.hold(f"{name}, calls", work, most_work + ceilings.SLACK, shown(counts))
                verdict.hold(f"{name}, waits", waits, most_waits + ceilings.SLACK_WAITS)
                most = ceilings.INLINE_MESSAGES + ceilings.SLACK
                verdict.hold(f"{name}, messages", system_calls.messages(counts), most)
        traced.stop()


def pinned(verdict, folder, echo):
    flags = ["--scheduler", "pinned", "--io-threads", "2", "--io-driver", "epoll"]
    traced = system_calls.Traced(folder, flags, echo)
    threads = ["io-0", "io-1", "scheduler"]
    one, other, scheduler = system_calls.per_call(traced, threads, "local", 1)
    io = {name: one.get(name, 0) + other.get(name, 0) for name in one | other}
    most = ceilings.PINNED_TO_SCHEDULER + ceilings.SLACK
    verdict.hold("pinned, to the scheduler", system_calls.messages(io), most, shown(io))
    most = ceilings.PINNED_TO_IO + ceilings.SLACK
    to_io = scheduler.get("bell", 0)
    verdict.hold("pinned, to the io thread", to_io, most, shown(scheduler))
    traced.stop()


def counted(verdict, folder, echo):
    plane = instructions.Counted(folder, echo)
    for function in ("local", "tcp", "http"):
        most = ceilings.INSTRUCTIONS.get(function, 0)
        verdict.hold(f"instructions, {function}", plane.per_call(function), most)
    plane.stop()


def missing(verdict, gate, tool):
    """Returns true if the gate must be left out, because its tool is not installed."""
    if shutil.which(tool) is not None:
        return False
    required = os.environ.get("NANOFAAS_COUNTS") == "required"
    verdict.absent += required
    mark = "FAILED" if required else "SKIPPED"
    print(f"{mark}: {gate}: {tool} is not installed; .ci/run installs it", flush=True)
    return True


def main():
    verdict = Verdict()
    with tempfile.TemporaryDirectory(prefix="nanofaas-counts-") as folder:
        echo = Echo(folder)
        try:
            if not missing(verdict, "system calls and messages of a call", "strace"):
                inline(verdict, folder, echo)
                pinned(verdict, folder, echo)
            if not missing(verdict, "instructions of a call", "valgrind"):
                counted(verdict, folder, echo)
        finally:
            echo.stop()
    if verdict.above:
        print(f"\n{verdict.above} counts are above their ceilings.\n{ADVICE}", file=sys.stderr)
    if verdict.above or verdict.absent:
        sys.exit(1)


main()
