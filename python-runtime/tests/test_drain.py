"""SIGTERM: the pod finishes its calls, answers with `Connection: close`, and exits with status 0.
Other tests here are about log lines."""

from __future__ import annotations

import os
import signal
import time

import pytest
from pods import Start, request, wait_for

SLOW = """
    import time, os
    def handle(input):
        if input:
            open("started", "w").close()
            time.sleep(input)
        return "done"
"""
ASYNC_SLOW = (SLOW.replace("def handle", "async def handle")
              .replace("time.sleep", "await __import__('asyncio').sleep"))


@pytest.mark.parametrize("source", [SLOW, ASYNC_SLOW])
def test_drain(start: Start, source: str) -> None:
    pod = start(source).ready()
    with pod.connect() as idle, pod.connect() as client:
        assert idle.invoke(0).status == 200
        client.send(request(1.0))
        wait_for((pod.folder / "started").exists)
        pod.term()
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b'"done"')
        assert answer.headers["connection"] == "close" and client.at_end()
        # Open and new connections are still served, but /health asks the platform to use another
        # pod.
        answer = idle.invoke(0)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert pod.health() == 503
        assert pod.invoke(0).status == 200
    quiet_since = time.monotonic()
    assert pod.exit_status() == 0
    assert time.monotonic() - quiet_since > 1.0, "the pod must wait until no call came for 2 s"
    assert not os.path.exists(pod.address)
    assert "Traceback" not in pod.stderr()


@pytest.mark.parametrize("source", [SLOW, ASYNC_SLOW])
def test_calls_keep_a_draining_pod_alive(start: Start, source: str) -> None:
    pod = start(source).ready()
    pod.term()
    for _ in range(6):
        time.sleep(0.5)
        assert pod.invoke(0).status == 200
    assert pod.exit_status() == 0


def test_ctrl_c_drains_too(start: Start) -> None:
    pod = start(SLOW).ready()
    os.kill(pod.worker(), signal.SIGINT)
    pod.process.send_signal(signal.SIGINT)
    assert pod.exit_status() == 0
    assert "Traceback" not in pod.stderr()


def test_sigterm_while_loading(start: Start) -> None:
    pod = start("""
        import time
        open("loading", "w").close()
        time.sleep(60)
    """)
    wait_for((pod.folder / "loading").exists)
    pod.term()
    assert pod.exit_status() == 0


def test_a_functions_thread_does_not_hold_the_pod(start: Start) -> None:
    pod = start("""
        import threading, time
        threading.Thread(target=time.sleep, args=(600,)).start()
        def handle(input): return input
    """).ready()
    pod.term()
    assert pod.exit_status() == 0


def test_a_crash_while_draining_ends_the_drain(start: Start) -> None:
    pod = start(SLOW).ready()
    with pod.connect() as client:
        client.send(request(60))
        wait_for((pod.folder / "started").exists)
        pod.term()
        os.kill(pod.worker(), signal.SIGSEGV)
        assert client.answer().json()["code"] == "POD_LOST"
        assert client.at_end()
    assert pod.exit_status() == 0


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_logging_carries_the_execution_id(start: Start, kind: str) -> None:
    pod = start(f"""
        import logging
        {kind} handle(input):
            logging.getLogger("mine").info("hello %s", input)
            print("printed")
            try: 1 / 0
            except ZeroDivisionError: logging.exception("caught")
    """).ready()
    for name in ("a", "b"):
        assert pod.invoke(name, x_execution_id=f"e-{name}", x_trace_id="t").status == 200
    for name in ("a", "b"):
        line = pod.log_with(message=f"hello {name}")
        assert (line["executionId"], line["traceId"]) == (f"e-{name}", "t")
        assert (line["level"], line["logger"]) == ("info", "mine")
    assert "ZeroDivisionError" in pod.log_with(message="caught")["traceback"]


def test_concurrent_async_calls_log_their_own_ids(start: Start, loop: str) -> None:
    pod = start("""
        import asyncio, logging
        waiting, both = 0, asyncio.Event()
        async def handle(input):
            global waiting
            waiting += 1
            if waiting == 2: both.set()
            await both.wait()
            logging.warning("said %s", input)
    """, loop=loop).ready()
    with pod.connect() as one, pod.connect() as two:
        one.send(request("x", x_execution_id="e-x"))
        two.send(request("y", x_execution_id="e-y"))
        assert one.answer().status == two.answer().status == 200
    assert pod.log_with(message="said x")["executionId"] == "e-x"
    assert pod.log_with(message="said y")["executionId"] == "e-y"


def test_the_functions_own_logging_is_left_alone(start: Start) -> None:
    pod = start("""
        import logging
        logging.basicConfig(format="MINE %(message)s")
        def handle(input): logging.warning("text")
    """).ready()
    assert pod.invoke().status == 200
    assert "MINE text" in pod.stderr().splitlines()


def test_a_warm_success_logs_nothing(start: Start) -> None:
    pod = start(SLOW).ready()
    for _ in range(3):
        assert pod.invoke(0).status == 200
    assert pod.stderr() == ""
