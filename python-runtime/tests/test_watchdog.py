"""Workers that die, do not load or load slowly, and workers whose watchdog is killed."""

from __future__ import annotations

import os
import signal
import time

import pytest
from pods import Platform, Start, gone, request, wait_for

ECHO = """
    import os, signal, time
    def handle(input):
        match input:
            case "oom": os.kill(os.getpid(), signal.SIGKILL)
            case "segv": os.kill(os.getpid(), signal.SIGSEGV)
            case "exit": os._exit(5)
            case "realtime": os.kill(os.getpid(), 40)
            case "pid": return os.getpid()
            case "sleep": time.sleep(60)
        return input
"""
ASYNC_ECHO = ECHO.replace("def handle", "async def handle")


@pytest.mark.parametrize("source", [ECHO, ASYNC_ECHO])
def test_a_sigkill_that_nobody_sent_is_oom(start: Start, source: str) -> None:
    pod = start(source).ready()
    with pod.connect() as client:
        answer = client.invoke("oom")
        assert (answer.status, answer.json()["code"]) == (500, "OOM")
        assert answer.headers["connection"] == "close" and client.at_end()
    assert pod.invoke_when_ready(1).json() == 1
    assert "OOM" in pod.log_with(level="error")["message"]


@pytest.mark.parametrize("source", [ECHO, ASYNC_ECHO])
@pytest.mark.parametrize(("do", "how"), [
    ("segv", "the worker was ended by signal 11 (SIGSEGV)"),
    ("exit", "the worker exited with status 5"),
    ("realtime", "the worker was ended by signal 40"),
])
def test_a_dead_workers_end_is_reported_and_mended(
        start: Start, source: str, do: str, how: str) -> None:
    pod = start(source).ready()
    with pod.connect() as client:
        began = time.monotonic()
        answer = client.invoke(do, x_execution_id="e-7")
        assert time.monotonic() - began < 1
        assert answer.status == 502
        assert answer.json() == {"code": "POD_LOST", "message": how}
        assert answer.all("x-execution-id") == ["e-7"]
        assert answer.headers["connection"] == "close" and client.at_end()
    assert pod.invoke_when_ready(1).json() == 1
    assert pod.process.poll() is None
    assert "is replaced" in pod.log_with(level="error")["message"]


def test_idle_connections_close_with_their_worker(start: Start) -> None:
    pod = start(ECHO).ready()
    with pod.connect() as client, pod.connect() as idle:
        assert idle.invoke(1).json() == 1
        assert client.invoke("exit").status == 502
        assert client.at_end() and idle.at_end()


def test_each_call_of_a_crashed_worker_is_told(start: Start) -> None:
    pod = start("""
        import asyncio, os
        async def handle(input):
            if input == "exit": os._exit(5)
            open(f"runs{input}", "w").close()
            await asyncio.sleep(60)
    """).ready()
    with pod.connect() as one, pod.connect() as two, pod.connect() as three:
        for number, client in enumerate((one, two)):
            client.send(request(number, x_execution_id=f"e-{number}"))
            wait_for((pod.folder / f"runs{number}").exists)
        assert three.invoke("exit").status == 502
        for number, client in enumerate((one, two)):
            answer = client.answer()
            assert (answer.status, answer.json()["code"]) == (502, "POD_LOST")
            assert answer.headers["x-execution-id"] == f"e-{number}"


def test_a_crash_delays_no_later_call(start: Start) -> None:
    pod = start(ECHO).ready()
    for _ in range(8):
        assert pod.invoke("exit").status == 502
        assert pod.invoke(1).status == 200


def test_only_deaths_while_loading_delay_the_next_start(start: Start) -> None:
    pod = start("""
        import os, time
        with open("starts", "a") as starts:
            starts.write(f"{time.monotonic()} ")
        if os.path.exists("broken"): os.abort()
        def handle(input):
            if input == "exit": os._exit(5)
            return input
    """).ready()
    (pod.folder / "broken").touch()
    assert pod.invoke("exit").status == 502
    starts = wait_for(lambda: (lambda at: at if len(at) == 4 else None)(
        [float(at) for at in (pod.folder / "starts").read_text().split()]))
    (pod.folder / "broken").unlink()
    assert starts[3] - starts[2] >= 0.1
    assert pod.invoke_when_ready(1).json() == 1


def test_a_module_exiting_like_a_failed_load_restarts(start: Start) -> None:
    pod = start("""
        import os
        if not os.path.exists("second"):
            open("second", "w").close()
            os._exit(3)
        def handle(input): return input
    """).ready()
    assert pod.invoke(1).json() == 1


def test_calls_go_on_after_many_crashes_from_outside(start: Start) -> None:
    pod = start(ECHO).ready()
    for _ in range(4):
        os.kill(pod.worker(), signal.SIGKILL)
        wait_for(lambda: pod.invoke(1).status == 200)
    assert pod.health() == 200


def test_the_worker_dies_with_its_watchdog(start: Start) -> None:
    pod = start(ECHO).ready()
    worker = pod.worker()
    pod.process.kill()
    pod.process.wait(30)
    wait_for(lambda: gone(worker))


def test_a_busy_worker_dies_with_its_watchdog_too(start: Start) -> None:
    pod = start("""
        import collections, itertools
        def handle(input):
            open("started", "w").close()
            collections.deque(itertools.repeat(0), maxlen=0)
    """).ready()
    worker = pod.worker()
    with pod.connect() as client:
        client.send(request())
        wait_for((pod.folder / "started").exists)
        pod.process.kill()
        pod.process.wait(30)
        wait_for(lambda: gone(worker))


@pytest.mark.parametrize(("source", "text"), [
    ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such_module_here'"),
    ("def handle(input) return 1", "SyntaxError"),
    ("x = 1", "has no function 'handle'"),
    ("def handle(): pass", "must be callable as handle(input)"),
    ("raise SystemExit(0)", "SystemExit"),
    ("def handle(input): pass\ndef init(): raise KeyError('lost')",
     "init() raised KeyError: 'lost'"),
    ("async def handle(input): pass\nasync def init(): raise KeyError('lost')",
     "init() raised KeyError: 'lost'"),
])
def test_a_failed_load_ends_the_pod_with_words(start: Start, source: str, text: str) -> None:
    pod = start(source)
    assert pod.exit_status() == 1
    assert text in pod.log_with(level="error", message="cannot load the function")["message"]
    assert not os.path.exists(pod.address)


def test_workers_that_die_while_loading_end_the_pod(start: Start) -> None:
    pod = start("import os; os.abort()")
    assert pod.exit_status() == 1
    assert "gave up" in pod.log_with(level="error", message="gave up")["message"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_not_ready_until_init_is_done(start: Start, kind: str) -> None:
    pod = start(f"""
        import os, time
        loaded = []
        {kind} init():
            while not os.path.exists("go"):
                time.sleep(0.01)
            loaded.append(1)
        {kind} handle(input):
            return loaded
    """)
    assert pod.health() == 503
    answer = pod.invoke(1)
    assert (answer.status, answer.headers["x-not-started"]) == (503, "true")
    (pod.folder / "go").touch()
    pod.ready()
    assert pod.invoke(1).json() == [1]


def test_a_call_during_the_load_is_served_afterwards(start: Start) -> None:
    pod = start("""
        import time
        time.sleep(0.1)
        def handle(input): return input
    """)
    answers = [pod.invoke(number).status for number in range(3)]
    assert set(answers) <= {200, 503}
    pod.ready()


def test_an_async_init_before_a_plain_function(start: Start) -> None:
    pod = start("""
        import asyncio
        state = []
        async def init():
            await asyncio.sleep(0)
            state.append("ready")
        def handle(input): return state
    """).ready()
    assert pod.invoke().json() == ["ready"]


def test_ready_is_announced_once_with_its_times(start: Start, plane: Platform) -> None:
    before = time.time() * 1000
    pod = start(ECHO, NANOFAAS_READY_URL=f"{plane.url}/v1/internal/t/pods/p:ready")
    line, headers, body = plane.next()
    times = __import__("json").loads(body)
    assert line == "POST /v1/internal/t/pods/p:ready"
    assert headers["content-type"] == "application/json"
    assert list(times) == ["startedAt", "loadedAt", "readyAt"]
    assert all(type(at) is int for at in times.values())
    assert before - 50 <= times["startedAt"] <= times["loadedAt"] <= times["readyAt"]
    assert pod.health() == 200
    os.kill(pod.worker(), signal.SIGKILL)
    wait_for(lambda: pod.invoke(1).status == 200)
    assert plane.got.empty()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "https://example.invalid/", "nonsense"])
def test_a_failing_ready_url_is_logged_and_ignored(start: Start, url: str) -> None:
    pod = start(ECHO, NANOFAAS_READY_URL=url).ready()
    pod.log_with(level="warn", message="could not say that the pod is ready")
    assert pod.invoke_when_ready(1).json() == 1


def test_a_silent_platform_delays_no_call(start: Start, plane: Platform) -> None:
    plane.statuses.append(0)  # The platform closes the connection unanswered.
    pod = start(ECHO, NANOFAAS_READY_URL=plane.url).ready()
    assert pod.invoke_when_ready(1).json() == 1


@pytest.mark.parametrize(("name", "value"), [
    ("PORT", "eighty"), ("PORT", "70000"), ("HANDLER_MODULE", "a/b"), ("HANDLER_FUNCTION", "1x"),
    ("NANOFAAS_SOCKET", "/" + "x" * 200),
])
def test_bad_settings_are_named(start: Start, name: str, value: str) -> None:
    pod = start(ECHO, **{name: value})
    assert pod.exit_status() == 2
    assert name in pod.log_with(level="error")["message"]


def test_a_second_pod_on_a_socket_is_refused(start: Start) -> None:
    first = start(ECHO).ready()
    second = start(ECHO, NANOFAAS_SOCKET=first.address)
    assert second.exit_status() == 1
    assert "another process listens" in second.log_with(level="error")["message"]
    assert first.invoke(1).json() == 1


def test_a_socket_left_behind_is_taken_over(start: Start) -> None:
    first = start(ECHO).ready()
    worker = first.worker()
    first.process.kill()
    first.process.wait(30)
    wait_for(lambda: gone(worker))
    assert os.path.exists(first.address)
    second = start(ECHO, NANOFAAS_SOCKET=first.address)
    second.address = first.address
    assert second.ready().invoke(1).json() == 1


def test_a_taken_port_is_named(start: Start) -> None:
    first = start(ECHO, tcp=True).ready()
    second = start(ECHO, tcp=True, PORT=str(first.address))
    assert second.exit_status() == 1
    assert f"port {first.address}" in second.log_with(level="error")["message"]


def test_connections_beyond_the_slots_wait_and_are_served(start: Start) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        pod = start(ECHO).ready()
        clients = [pod.connect() for _ in range(1030)]
        for client in clients:
            client.send(request(7))
        for client in clients:
            assert client.answer().json() == 7
            client.close()
        assert pod.invoke_when_ready(1).json() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_oom_finds_its_connection_among_many(start: Start) -> None:
    """If several connections had a slot, the watchdog's answer goes to the last one."""
    pod = start(ECHO).ready()
    for _ in range(5):
        for _ in range(20):
            pod.connect().close()
        with pod.connect() as client:
            client.send(request("oom"))
            answer = client.answer()
            assert answer.status in (500, 503)
            if answer.status == 500:
                assert answer.json()["code"] == "OOM"
        wait_for(lambda: pod.invoke(1).status == 200)
