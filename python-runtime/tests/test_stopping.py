"""Deadlines, and callers that leave; a worker whose call does not stop is replaced."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from pods import Platform, Pod, Start, request, wait_for

# Each step of the function writes to `marks`, so that a test can check the steps when no answer
# comes.
PLAIN = """
    import collections, itertools, time
    from nanofaas_runtime import CallStopped, CallerLeft, DeadlineExceeded

    def mark(text):
        with open("marks", "a") as marks:
            marks.write(text + "\\n")

    def handle(input):
        if not isinstance(input, dict):
            return input
        mark("started")
        try:
            match input["do"]:
                case "sleep": time.sleep(60)
                case "spin":
                    while True: pass
                case "broad":
                    try: time.sleep(60)
                    except Exception: mark("swallowed")
                case "ignore":
                    while True:
                        try: time.sleep(60)
                        except BaseException: mark("ignored")
                case "hold":
                    # An endless loop in C, in which Python never runs a signal handler.
                    collections.deque(itertools.repeat(0), maxlen=0)
        except BaseException as error:
            mark(type(error).__name__)
            raise
"""

ASYNC = """
    import asyncio, time

    def mark(text):
        with open("marks", "a") as marks:
            marks.write(text + "\\n")

    async def handle(input):
        if not isinstance(input, dict):
            return input
        mark("started")
        try:
            if input["do"] == "hold":
                time.sleep(60)
            await asyncio.sleep(60)
        except BaseException as error:
            mark(type(error).__name__)
            raise
"""


def marks(pod: Pod) -> list[str]:
    try:
        return Path(pod.folder, "marks").read_text().split()
    except FileNotFoundError:
        return []


@pytest.mark.parametrize("do", ["sleep", "spin", "broad"])
def test_plain_deadline_raises_in_the_function(start: Start, do: str) -> None:
    pod = start(PLAIN).ready()
    worker = pod.worker()
    with pod.connect() as client:
        answer = client.invoke({"do": do}, x_deadline_ms=100, x_execution_id="e-9")
        assert (answer.status, answer.json()["code"]) == (504, "TIMEOUT")
        assert client.invoke(1).json() == 1
    assert marks(pod) == ["started", "DeadlineExceeded"]
    assert pod.worker() == worker
    assert pod.log_with(executionId="e-9")["message"].startswith("call stopped")


@pytest.mark.parametrize("do", ["sleep", "spin", "broad"])
def test_plain_caller_that_leaves_stops_the_function(start: Start, do: str) -> None:
    pod = start(PLAIN).ready()
    worker = pod.worker()
    with pod.connect() as client:
        client.send(request({"do": do}))
        wait_for(lambda: marks(pod))
    wait_for(lambda: len(marks(pod)) == 2)
    assert marks(pod) == ["started", "CallerLeft"]
    assert pod.invoke_when_ready(1).json() == 1
    assert pod.worker() == worker


def test_a_plain_call_over_tcp_is_stopped_too(start: Start) -> None:
    pod = start(PLAIN, tcp=True).ready()
    with pod.connect() as client:
        client.send(request({"do": "sleep"}))
        wait_for(lambda: marks(pod))
    wait_for(lambda: marks(pod) == ["started", "CallerLeft"])
    assert pod.invoke_when_ready(1).json() == 1


@pytest.mark.parametrize("do", ["ignore", "hold"])
@pytest.mark.parametrize("leave", [True, False])
def test_who_overstays_is_replaced(start: Start, do: str, leave: bool) -> None:
    pod = start(PLAIN).ready()
    worker = pod.worker()
    client = pod.connect()
    client.send(request({"do": do}, **({} if leave else {"x_deadline_ms": 100})))
    wait_for(lambda: marks(pod))
    if leave:
        client.close()
    else:
        assert client.at_end()
    pod.log_with(level="warn", message="the worker is replaced")
    assert pod.invoke_when_ready(1).json() == 1
    assert pod.worker() != worker
    assert "Traceback" not in pod.stderr()


def test_a_call_behind_a_killed_one_is_told(start: Start) -> None:
    pod = start(PLAIN).ready()
    with pod.connect() as first, pod.connect() as second:
        assert second.invoke(1).json() == 1
        first.send(request({"do": "hold"}, x_deadline_ms=300))
        wait_for(lambda: marks(pod))
        second.send(request(2))
        answer = second.answer()
        assert (answer.status, answer.headers["x-not-started"]) == (503, "true")
        assert second.at_end() and first.at_end()
    assert pod.invoke(3).json() == 3


def test_a_waiting_call_whose_caller_left_never_runs(start: Start) -> None:
    pod = start(PLAIN).ready()
    with pod.connect() as first:
        first.send(request({"do": "sleep"}, x_deadline_ms=700))
        wait_for(lambda: marks(pod))
        with pod.connect() as second:
            second.send(request({"do": "broad"}))
        assert first.answer().status == 504
    assert pod.invoke_when_ready(1).json() == 1
    assert marks(pod) == ["started", "DeadlineExceeded"]


def test_late_stops_hit_nothing(start: Start) -> None:
    """The deadlines are about as long as the calls, and each call either succeeds or times out."""
    pod = start("""
        import time
        def handle(input):
            until = time.perf_counter() + input
            while time.perf_counter() < until:
                pass
            return "done"
    """).ready()
    worker = pod.worker()
    outcomes = {200: 0, 504: 0}
    with pod.connect() as client:
        for number in range(150):
            length = 0.004 + 0.0002 * (number % 20)
            outcomes[client.invoke(length, x_deadline_ms=6).status] += 1
            assert client.invoke(0).body == b'"done"'
    assert sum(outcomes.values()) == 150
    assert pod.worker() == worker
    messages = {line["message"] for line in pod.logs()}
    assert messages <= {"call stopped: the call's deadline passed while it was running"}


def test_callers_that_leave_at_any_moment_disturb_nobody(start: Start) -> None:
    pod = start("""
        import time
        def handle(input):
            time.sleep(input)
            return "done"
    """).ready()
    worker = pod.worker()
    for number in range(150):
        client = pod.connect()
        client.send(request(0.002))
        time.sleep(0.0002 * (number % 20))
        client.close()
        assert pod.invoke(0).body == b'"done"'
    assert pod.worker() == worker


def test_async_deadline_cancels(start: Start, loop: str) -> None:
    pod = start(ASYNC, loop=loop).ready()
    with pod.connect() as client, pod.connect() as other:
        client.send(request({"do": "sleep"}, x_deadline_ms=200))
        wait_for(lambda: marks(pod))
        assert other.invoke(1).json() == 1
        answer = client.answer()
        assert (answer.status, answer.json()["code"]) == (504, "TIMEOUT")
        assert client.invoke(1).json() == 1
    assert marks(pod) == ["started", "CancelledError"]


def test_async_caller_that_leaves_cancels(start: Start, loop: str) -> None:
    pod = start(ASYNC, loop=loop).ready()
    worker = pod.worker()
    with pod.connect() as client:
        client.send(request({"do": "sleep"}))
        wait_for(lambda: marks(pod))
    wait_for(lambda: marks(pod) == ["started", "CancelledError"])
    assert pod.invoke_when_ready(1).json() == 1
    assert pod.worker() == worker


@pytest.mark.parametrize("leave", [True, False])
def test_an_async_function_blocking_the_loop_is_replaced(
        start: Start, loop: str, leave: bool) -> None:
    pod = start(ASYNC, loop=loop).ready()
    worker = pod.worker()
    client = pod.connect()
    client.send(request({"do": "hold"}, **({} if leave else {"x_deadline_ms": 100})))
    wait_for(lambda: marks(pod))
    if leave:
        client.close()
    pod.log_with(level="warn", message="blocks the loop")
    assert pod.invoke_when_ready(1).json() == 1
    assert pod.worker() != worker


def test_the_functions_own_cancelled_error_is_its_error(start: Start, loop: str) -> None:
    pod = start("""
        import asyncio
        async def handle(input):
            raise asyncio.CancelledError("mine")
    """, loop=loop).ready()
    assert pod.invoke().json() == {"code": "HANDLER_ERROR", "message": "CancelledError: mine"}


# The function raises these stops itself, also after the runtime has stopped an earlier call.
STOPS = """
    import nanofaas_runtime, time
    from nanofaas_runtime import CallStopped
    kept = []
    def handle(input):
        with open("ran", "a") as ran: ran.write("x")
        if input == "sleep":
            try: time.sleep(60)
            except CallStopped as error:
                kept.append(error)
                raise
        if input == "again": raise kept.pop()
        if input == "convert":
            try: time.sleep(60)
            except CallStopped: raise nanofaas_runtime.CallerLeft("of the handler")
        raise getattr(nanofaas_runtime, input)("of the handler")
"""
KINDS = ["CallStopped", "DeadlineExceeded", "CallerLeft"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_functions_own_stop_is_its_error(start: Start, kind: str) -> None:
    pod = start(STOPS.replace("def handle", f"{kind} handle")).ready()
    worker = pod.worker()
    with pod.connect() as client:
        for name in KINDS:
            answer = client.invoke(name, x_deadline_ms=20_000, x_execution_id=f"e-{name}")
            message = f"{name}: of the handler"
            assert answer.json() == {"code": "HANDLER_ERROR", "message": message}
            assert answer.status == 500
            assert pod.log_with(executionId=f"e-{name}")["message"] == "the function raised"
    assert pod.worker() == worker


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("name", KINDS)
def test_a_jobs_own_stop_is_its_error(start: Start, plane: Platform, kind: str,
                                           name: str) -> None:
    pod = start(STOPS.replace("def handle", f"{kind} handle"),
                EXECUTION_ID="e", INVOCATION_TIMEOUT_MS="20000", CALLBACK_URL=plane.url,
                INVOCATION_PAYLOAD=f'{{"input":"{name}"}}')
    body = json.loads(plane.next()[2])
    assert body["error"] == {"code": "HANDLER_ERROR", "message": f"{name}: of the handler"}
    assert pod.exit_status() == 0
    assert plane.got.empty()
    assert (pod.folder / "ran").read_text() == "x"


def test_a_stop_counts_for_the_call_it_stopped(start: Start) -> None:
    pod = start(STOPS).ready()
    with pod.connect() as client:
        assert client.invoke("sleep", x_deadline_ms=100).json()["code"] == "TIMEOUT"
        again = client.invoke("again", x_deadline_ms=20_000).json()
        assert again["code"] == "HANDLER_ERROR"
        assert again["message"].startswith("DeadlineExceeded: ")
        assert client.invoke("convert", x_deadline_ms=100).json()["code"] == "TIMEOUT"


def test_deadlines_hold_after_the_watchdog_has_slept(start: Start) -> None:
    pod = start(PLAIN).ready()
    time.sleep(1.6)  # The watchdog sleeps after a second without calls.
    answer = pod.invoke({"do": "sleep"}, x_deadline_ms=100)
    assert answer.status == 504


def test_functions_may_use_alarms_and_user_signals(start: Start) -> None:
    pod = start("""
        import os, signal
        got = []
        signal.signal(signal.SIGUSR1, lambda *_: got.append("usr1"))
        signal.signal(signal.SIGALRM, lambda *_: got.append("alrm"))
        def handle(input):
            os.kill(os.getpid(), signal.SIGUSR1)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            signal.pause()
            return got
    """).ready()
    assert pod.invoke().json() == ["usr1", "alrm"]
    assert signal.SIGRTMIN + 9 < signal.SIGRTMAX


BLOCKS = """
    import fcntl, os, queue, select, signal, socket, subprocess, threading, time
    from nanofaas_runtime import DeadlineExceeded
    def handle(input):
        if not input: return "ok"
        read, write = os.pipe()
        one, two = socket.socketpair()
        lock = threading.Lock(); lock.acquire()
        child = os.open("held", os.O_CREAT | os.O_RDWR)
        try:
            match input:
                case "run": subprocess.run(["sleep", "285"])
                case "wait":
                    with subprocess.Popen(["sleep", "285"]) as process:
                        try: os.waitpid(process.pid, 0)
                        finally: process.kill()
                case "read": os.read(read, 1)
                case "file": os.fdopen(read, "rb").read()
                case "recv": one.recv(1)
                case "connect":
                    full = socket.create_server(("127.0.0.1", 0), backlog=0)
                    socks = [socket.socket() for _ in range(3)]
                    for sock in socks: sock.connect(full.getsockname())
                case "lock": lock.acquire()
                case "queue": queue.Queue().get()
                case "join": threading.Thread(target=time.sleep, args=(9,), daemon=True).run()
                case "poll": select.poll().poll()
                case "pause": signal.pause()
                case "flock":
                    other = os.open("held", os.O_RDWR)
                    fcntl.flock(child, fcntl.LOCK_EX)
                    fcntl.flock(other, fcntl.LOCK_EX)
        except DeadlineExceeded:
            with open("raised", "a") as raised: raised.write(f"{input} ")
            raise
        finally:
            for each in (write, child): os.close(each)
"""


def test_a_deadline_is_raised_in_blocking_system_calls(start: Start) -> None:
    pod = start(BLOCKS).ready()
    worker = pod.worker()
    calls = ["run", "wait", "read", "file", "recv", "connect", "lock", "queue", "join", "poll",
             "pause", "flock"]
    with pod.connect() as client:
        for call in calls:
            assert client.invoke(call, x_deadline_ms=100).json()["code"] == "TIMEOUT"
            assert client.invoke().json() == "ok"
    assert (pod.folder / "raised").read_text().split() == calls
    assert pod.worker() == worker
