"""Generators that stream their answers: what is sent and when, faults, clients that are slow or
leave."""

from __future__ import annotations

import json
import socket
import time

import pytest
from pods import Client, Pod, Start, http, request, wait_for

# A function with `async` before `def` where %s is, and an `await` where it is needed.
SOURCE = """
    import asyncio, os, signal, time
    from nanofaas_runtime import CallStopped, Event

    def mark(text):
        with open("marks", "a") as marks:
            marks.write(text + "\\n")

    def pause(): time.sleep(0.005)

    def handle(input, context):
        do = input if isinstance(input, str) else None
        values = input if isinstance(input, list) else []
        for value in values:
            yield bytes.fromhex(value[4:]) if str(value).startswith("hex:") else value
        if do == "events":
            yield Event("one", event="e", id="7", retry=10)
            yield Event("two\\r\\nlines\\rand\\nmore\\n")
            yield Event({"a": [1]})
            yield ": a comment\\n\\n"
            yield Event()
        if do == "raise first": raise ValueError("bad")
        if do == "gate":
            yield "one"
            while not os.path.exists("go"): pause()
            yield "two"
        if do == "fail":
            yield "one"
            raise ValueError("late")
        if do == "nan":
            yield 1
            yield float("nan")
        if do == "mix":
            yield Event("one")
            yield {"two": 2}
        if do == "changed":
            event = Event("one")
            yield event
            event.id = "1\\ndata: forged"
            yield event
        if do == "oom":
            yield "one"
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "exit":
            yield "one"
            raise SystemExit(3)
        if do in ("flood", "ticks", "block"):
            try:
                number = 0
                while True:
                    yield b"x" * 65536 if do == "flood" else f"{number}"
                    number += 1
                    if do == "ticks": pause()
                    if do == "flood": mark(f"{number}")
                    if do == "block":
                        mark("blocks")
                        time.sleep(60)
            except BaseException as error:
                mark(type(error).__name__)
                raise
        if do == "close":
            try: yield "one"
            finally:
                mark("closed")
        if do == "swallow":
            try: yield "one"
            except GeneratorExit:
                mark("swallowed")
                raise ValueError("in close")
"""
ASYNC = SOURCE.replace("def handle", "async def handle").replace(
    "def pause(): time.sleep(0.005)", "async def pause(): await asyncio.sleep(0.005)").replace(
    "pause()", "await pause()").replace("async def await pause()", "async def pause()")


@pytest.fixture(params=["plain", "async"])
def source(request: pytest.FixtureRequest) -> str:
    """The same generator, plain and async."""
    return SOURCE if request.param == "plain" else ASYNC


@pytest.fixture
def pod(start: Start, source: str) -> Pod:
    return start(source).ready()


def ask(client: Client, value: object, **headers: object) -> None:
    """Sends an HTTP call."""
    client.send(http("POST", "/", json.dumps(value).encode(), "application/json", **headers))


def marks(pod: Pod) -> list[str]:
    path = pod.folder / "marks"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize(("values", "content_type", "pieces"), [
    (["a", "\u00e9\n"], "text/plain; charset=utf-8", [b"a", b"\xc3\xa9\n"]),
    (["hex:00ff", "hex:0a"], "application/octet-stream", [b"\0\xff", b"\n"]),
    ([{"a": 1}, [2], 3, None, "four"], "application/x-ndjson",
     [b'{"a":1}\n', b"[2]\n", b"3\n", b"null\n", b"four"]),
    (["", "hex:", "a", ""], "text/plain; charset=utf-8", [b"a"]),
])
def test_each_value_is_a_chunk(pod: Pod, values: list[object], content_type: str,
                               pieces: list[bytes]) -> None:
    with pod.connect() as client:
        for is_http in (True, False):
            if is_http:
                ask(client, values, x_execution_id="e1")
            else:
                client.send(request(values, x_execution_id="e1"))
            head = client.head()
            assert (head.status, head.headers["content-type"]) == (200, content_type)
            assert head.headers["transfer-encoding"] == "chunked"
            assert head.all("x-nanofaas-answer" if is_http else "x-execution-id") == ["e1"]
            assert client.pieces() == [*pieces, b""]


def test_events_are_encoded(pod: Pod) -> None:
    with pod.connect() as client:
        ask(client, "events")
        assert client.head().headers["content-type"] == "text/event-stream"
        assert client.pieces() == [
            b"event: e\nid: 7\nretry: 10\ndata: one\n\n",
            b"data: two\ndata: lines\ndata: and\ndata: more\ndata: \n\n",
            b'data: {"a":[1]}\n\n', b": a comment\n\n", b"\n", b""]


def test_no_line_can_be_injected() -> None:
    from nanofaas_runtime import Event

    for text in ("a\nb", "a\rb", "\0", "a\r\n"):
        for name in ("event", "id"):
            with pytest.raises(ValueError, match="must be one line"):
                Event("x", **{name: text})
    for retry in (-1, 1.5, "1"):
        with pytest.raises(ValueError, match="retry"):
            Event("x", retry=retry)


def test_an_empty_generator_has_an_empty_body(pod: Pod) -> None:
    with pod.connect() as client:
        for _ in range(2):
            ask(client, [])
            answer = client.answer()
            assert (answer.status, answer.body) == (200, b"")
            assert "content-type" not in answer.headers


def test_each_value_is_sent_at_once(pod: Pod) -> None:
    with pod.connect() as client:
        ask(client, "gate")
        client.head()
        assert client.piece() == b"one"
        (pod.folder / "go").touch()
        assert client.pieces() == [b"two", b""]


def test_a_fault_before_the_head_is_an_error(pod: Pod) -> None:
    with pod.connect() as client:
        ask(client, "raise first", x_execution_id="e1")
        answer = client.answer()
        assert (answer.status, answer.json()) == (
            500, {"error": "HANDLER_ERROR", "message": "ValueError: bad"})
        assert client.invoke("raise first").json()["code"] == "HANDLER_ERROR"


@pytest.mark.parametrize(("do", "log"), [
    ("fail", "ValueError: late"), ("nan", "output is nan"), ("exit", "SystemExit: 3"),
    ("mix", "a stream of events has only"), ("changed", "must be one line"),
])
def test_a_late_fault_cuts_the_answer(pod: Pod, do: str, log: str) -> None:
    worker = pod.worker()
    with pod.connect() as client:
        ask(client, do, x_execution_id="e1")
        assert client.head().status == 200
        assert client.pieces()[-1] is None
    line = pod.log_with(message="the function raised after its answer had begun")
    assert log in str(line["traceback"]) and line["executionId"] == "e1"
    assert pod.invoke("raise first").status == 500 and pod.worker() == worker


def test_a_dead_worker_cuts_the_answer(pod: Pod) -> None:
    with pod.connect() as client:
        ask(client, "oom")
        client.head()
        assert client.pieces() == [b"one", None]
    assert pod.invoke_when_ready("raise first").status == 500


def test_a_deadline_ends_with_the_head(pod: Pod) -> None:
    """Of an HTTP call; the answer of `:invoke` has to end before it."""
    with pod.connect() as client:
        ask(client, "gate", x_deadline_ms=300)
        client.head()
        assert client.piece() == b"one"
        time.sleep(0.6)
        (pod.folder / "go").touch()
        assert client.pieces() == [b"two", b""]
    (pod.folder / "go").unlink()
    with pod.connect() as client:
        client.send(request("gate", x_deadline_ms=300))
        client.head()
        assert client.pieces() == [b"one", None]
    pod.log_with(message="the call's deadline passed while it was running")


def test_a_slow_client_stops_the_generator(pod: Pod) -> None:
    with pod.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        ask(client, "flood")
        client.head()
        wait_for(lambda: marks(pod))
        counts: list[int] = []

        def stands_still() -> bool:
            counts.append(len(marks(pod)))
            time.sleep(0.2)
            return len(counts) > 1 and counts[-1] == counts[-2]

        wait_for(stands_still)
        assert counts[-1] < 100  # 6.4 MB
        assert pod.health() == 200  # The loop serves others meanwhile.
        for _ in range(counts[-1] + 10):
            assert client.piece() == b"x" * 65536
    wait_for(lambda: marks(pod)[-1] in ("GeneratorExit", "CancelledError"))


def test_a_client_that_leaves_ends_the_generator(pod: Pod) -> None:
    worker = pod.worker()
    with pod.connect() as client:
        ask(client, "ticks")
        client.head()
        assert client.piece() == b"0"
    wait_for(lambda: marks(pod)[-1:] in (["GeneratorExit"], ["CancelledError"], ["CallerLeft"]))
    assert pod.invoke("raise first").status == 500 and pod.worker() == worker


def test_a_blocking_generator_is_stopped_or_replaced(pod: Pod, source: str) -> None:
    worker = pod.worker()
    with pod.connect() as client:
        ask(client, "block")
        client.head()
        assert client.piece() == b"0"
        wait_for(lambda: marks(pod) == ["blocks"])
    if source is SOURCE:
        wait_for(lambda: marks(pod) == ["blocks", "CallerLeft"])
        assert pod.invoke("raise first").status == 500 and pod.worker() == worker
    else:
        wait_for(lambda: pod.worker() != worker)
        pod.log_with(message="blocks the loop, and a caller has left")


def test_calls_wait_for_a_plain_stream(start: Start) -> None:
    pod = start(SOURCE).ready()
    with pod.connect() as client, pod.connect() as other, pod.connect() as third:
        ask(client, "gate")
        client.head()
        assert client.piece() == b"one"
        other.send(request(["a"]) + request(["b"]))
        third.send(request(["c"]))
        for _ in range(3):
            assert pod.health() == 200
        (pod.folder / "go").touch()
        assert client.pieces() == [b"two", b""]
        for text in (b"a", b"b"):
            other.head()
            assert other.pieces() == [text, b""]
        third.head()
        assert third.pieces() == [b"c", b""]


def test_streams_run_side_by_side(start: Start, loop: str) -> None:
    pod = start(ASYNC, loop=loop).ready()
    clients = [pod.connect() for _ in range(5)]
    for client in clients:
        ask(client, "gate")
        client.head()
        assert client.piece() == b"one"
    (pod.folder / "go").touch()
    for client in clients:
        assert client.pieces() == [b"two", b""]
        client.close()


def test_pipelined_requests_keep_their_order(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(b"".join(request([str(number)]) for number in range(20)))
        for number in range(20):
            client.head()
            assert client.pieces() == [str(number).encode(), b""]


def test_http_1_0_is_answered_until_the_close(pod: Pod) -> None:
    with pod.connect() as client:
        text = request(["a", "b"]).replace(b"HTTP/1.1", b"HTTP/1.0")
        client.send(text)
        head = client.head()
        assert "transfer-encoding" not in head.headers and head.headers["connection"] == "close"
        while client.more():
            pass
        assert client._data == b"ab"


def test_head_gets_the_head_alone(start: Start, source: str) -> None:
    pod = start(source, HANDLER_METHODS="HEAD,POST").ready()
    with pod.connect() as client:
        client.send(http("HEAD", "/", b'"close"', "application/json"))
        head = client.head()
        assert head.headers["content-type"] == "text/plain; charset=utf-8"
        wait_for(lambda: marks(pod) == ["closed"])
        ask(client, ["a"])
        client.head()
        assert client.pieces() == [b"a", b""]


def test_a_fault_in_the_close_is_logged(pod: Pod) -> None:
    with pod.connect() as client:
        ask(client, ["a"])
        client.head()
        assert client.pieces() == [b"a", b""]
        ask(client, "mix")
        client.head()
        assert client.pieces()[-1] is None


def test_a_function_may_return_a_generator(start: Start) -> None:
    for word in ("", "async "):
        pod = start(f"""
            {word}def handle(input):
                return (str(n) for n in range(input))
        """).ready()
        with pod.connect() as client:
            client.send(request(3))
            client.head()
            assert client.pieces() == [b"0", b"1", b"2", b""]


def test_a_drain_waits_for_a_stream(pod: Pod) -> None:
    with pod.connect() as client:
        ask(client, "gate")
        client.head()
        assert client.piece() == b"one"
        pod.term()
        wait_for(lambda: pod.health() == 503)
        (pod.folder / "go").touch()
        assert client.pieces() == [b"two", b""]
        assert client.at_end()
    assert pod.exit_status() == 0


def test_a_forked_child_sends_nothing(start: Start) -> None:
    for word in ("", "async "):
        pod = start(f"""
            import os, time
            {word}def handle(input):
                yield "one"
                if os.fork() == 0:
                    yield "of the child"
                    yield "of the child"
                time.sleep(0.2)
                yield "two"
        """).ready()
        with pod.connect() as client:
            client.send(request())
            client.head()
            assert client.pieces() == [b"one", b"two", b""]


DAMAGE = """
    import asyncio, builtins, json, os, socket, sys, time

    def damage():
        def no(*_, **__): raise RuntimeError("damaged")
        builtins.__import__ = no
        for module in (os, json, socket, time, asyncio):
            for name in ("close", "write", "dumps", "socket", "monotonic", "sleep", "Event"):
                if hasattr(module, name): setattr(module, name, no)
        sys.modules["json"] = sys.modules["os"] = None

    def handle(input):
        damage()
        if input == "first": raise ValueError("first")
        yield "one"
        raise ValueError("late")
"""


@pytest.mark.parametrize("word", ["", "async "])
def test_faults_are_told_after_damage(start: Start, word: str) -> None:
    """A function that replaces what the runtime could use does not change how its faults end."""
    pod = start(DAMAGE.replace("def handle", f"{word}def handle")).ready()
    worker = pod.worker()
    with pod.connect() as client:
        for _ in range(2):
            ask(client, "first", x_execution_id="e1")
            answer = client.answer()
            assert answer.json() == {"error": "HANDLER_ERROR", "message": "ValueError: first"}
            assert answer.all("x-nanofaas-answer") == ["e1"]
        ask(client, "late")
        client.head()
        assert client.pieces() == [b"one", None]
    pod.log_with(message="the function raised after its answer", traceback="ValueError: late")
    assert pod.worker() == worker
