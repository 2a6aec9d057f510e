"""Measures the runtime: round trips over one Unix socket connection, and the start of a pod.

Run: python3 benches/latency.py [calls] [starts]. Prints p50 and p99 in µs, and start times in ms
with those of a bare interpreter. Compare only runs on the same machine.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"
PLAIN = "def handle(input):\n    return input\n"
ASYNC = "async def handle(input):\n    return input\n"
BODY = b'{"input":{"text":"hello"},"metadata":{}}'
REQUEST = (
    b"POST /invoke HTTP/1.1\r\nHost: pod\r\nContent-Type: application/json\r\n"
    b"X-Execution-Id: 0123456789abcdef0123456789abcdef\r\nX-Dispatch-Attempt: 1\r\n"
    b"X-Deadline-Ms: 30000\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


def start(folder: str, source: str) -> tuple[subprocess.Popen[bytes], str]:
    """Starts a pod that serves `source` on a Unix socket."""
    Path(folder, "handler.py").write_text(source)
    path = os.path.join(folder, "pod.sock")
    # An image keeps bytecode; compiling would take two thirds of the start.
    env = dict(os.environ, PYTHONPATH=str(SRC), NANOFAAS_SOCKET=path,
               PYTHONPYCACHEPREFIX=os.path.join(folder, "bytecode"))
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.Popen([sys.executable, "-m", "nanofaas_runtime"], cwd=folder, env=env), path


def connect(path: str) -> socket.socket:
    """Connects as soon as `/health` answers 200."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: pod\r\n\r\n")
            if sock.recv(4096).startswith(b"HTTP/1.1 200"):
                return sock
        except OSError:
            pass
        sock.close()
        time.sleep(0.0005)
    raise SystemExit("the pod did not become ready")


def stop(pod: subprocess.Popen[bytes]) -> None:
    """Kills the pod, because a drain would take 2 s."""
    pod.send_signal(signal.SIGKILL)
    pod.wait(10)


def round_trips(source: str, calls: int) -> str:
    """Returns p50 and p99 of `calls` calls, which are sent one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        pod, path = start(folder, source)
        try:
            sock = connect(path)
            times = []
            for _ in range(calls + 2000):
                began = time.perf_counter_ns()
                sock.send(REQUEST)
                sock.recv(65536)
                times.append(time.perf_counter_ns() - began)
        finally:
            stop(pod)
    times = sorted(times[2000:])
    return f"p50 {times[calls // 2] / 1000:.1f} µs, p99 {times[calls * 99 // 100] / 1000:.1f} µs"


def starts(source: str, count: int) -> str:
    """Returns the median time from the start of a pod's process to the first 200 of `/health`."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(count + 1):
            began = time.perf_counter()
            pod, path = start(folder, source)
            try:
                connect(path)
                times.append((time.perf_counter() - began) * 1000)
            finally:
                stop(pod)
    return f"{sorted(times[1:])[count // 2]:.1f} ms"


def interpreter(code: str, count: int) -> str:
    """Returns the median time of a whole `python3 -c`."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append((time.perf_counter() - began) * 1000)
    return f"{sorted(times)[count // 2]:.1f} ms"


def main() -> None:
    """Prints one line for each measurement."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 15
    print("call, plain:            ", round_trips(PLAIN, calls))
    print("call, async:            ", round_trips(ASYNC, calls))
    print("start, bare interpreter:", interpreter("pass", count))
    print("start, asyncio + json:  ", interpreter("import asyncio, json", count))
    print("start to ready, plain:  ", starts(PLAIN, count))
    print("start to ready, async:  ", starts(ASYNC, count))


if __name__ == "__main__":
    main()
