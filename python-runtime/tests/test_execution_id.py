"""Every answer to a call carries the call's `X-Execution-Id`, which the platform compares with the
id that it sent."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from pods import Answer, Client, Start, gone, request, wait_for

PLAIN = """
    import asyncio, os, signal, time
    import nanofaas_runtime as nf

    def handle(input, context):
        if isinstance(input, bytes):
            return input
        context.headers["x-execution-id"] = "forged"
        match input:
            case "raise": raise ValueError("bad")
            case "nan": return float("nan")
            case "raw": return nf.Response(b"raw", "image/png")
            case "oom": os.kill(os.getpid(), signal.SIGKILL)
            case "inject": return nf.Response(b"", "text/plain\\r\\nX-Execution-Id: forged")
            case "sleep":
                open("started", "w").close()
                time.sleep(60)
        return input
"""
ASYNC = PLAIN.replace("def handle", "async def handle").replace(
    "time.sleep(60)", "await asyncio.sleep(60)")


@pytest.fixture(params=["plain", "async"])
def source(request: pytest.FixtureRequest) -> str:
    """Repeats the test for the same function, plain and async."""
    return PLAIN if request.param == "plain" else ASYNC


def ids(answer: Answer) -> list[str]:
    """Returns all values of the header, in order."""
    return answer.all("x-execution-id")


def test_every_outcome_of_a_call_carries_the_id(start: Start, source: str) -> None:
    pod = start(source).ready()
    with pod.connect() as client:
        for number, (value, status) in enumerate((
                (1, 200), (2, 200), ("raise", 500), ("nan", 500), ("raw", 200), ("inject", 500),
                (None, 200))):
            answer = client.invoke(value, x_execution_id=f"e{number}")
            assert (answer.status, ids(answer)) == (status, [f"e{number}"]), value
        client.send(request(body=b"{", x_execution_id="bad"))
        answer = client.answer()
        assert (answer.status, ids(answer)) == (400, ["bad"])
        client.send(request(body=b"\0", content_type="image/png", X_EXECUTION_ID="case"))
        assert ids(client.answer()) == ["case"]
        client.send(request(1, path="/other", x_execution_id="lost"))
        answer = client.answer()
        assert (answer.status, ids(answer)) == (404, ["lost"])
        client.send(request(1, method="GET", x_execution_id="get"))
        answer = client.answer()
        assert (answer.status, ids(answer)) == (405, ["get"])
        assert ids(client.invoke(1)) == []
        answer = client.invoke(1, x_execution_id="last", connection="close")
        assert (ids(answer), answer.headers["connection"]) == (["last"], "close")


def test_pipelined_calls_get_their_own(start: Start, source: str) -> None:
    pod = start(source).ready()
    with pod.connect() as client:
        client.send(b"".join(request(n, x_execution_id=f"e{n}") for n in range(50)))
        assert [ids(client.answer()) for _ in range(50)] == [[f"e{n}"] for n in range(50)]


@pytest.mark.parametrize(("data", "status"), [
    (b"Content-Length: 999999999\r\n\r\n", 413),
    (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"Expect: something\r\n\r\n", 417),
])
def test_a_refused_request_gets_it_too(start: Start, source: str, data: bytes,
                                       status: int) -> None:
    pod = start(source).ready()
    with pod.connect() as client:
        client.send(b"POST /invoke HTTP/1.1\r\nHost: a\r\nX-Execution-Id: e1\r\n" + data)
        answer = client.answer()
        assert (answer.status, ids(answer)) == (status, ["e1"])


def test_a_call_over_its_deadline(start: Start, source: str) -> None:
    pod = start(source).ready()
    answer = pod.invoke("sleep", x_execution_id="late", x_deadline_ms=100)
    assert (answer.status, ids(answer)) == (504, ["late"])


def test_a_worker_that_ran_out_of_memory(start: Start, source: str) -> None:
    """The watchdog answers each running call with the id of that call, also if the call before it
    had a longer id."""
    pod = start(source).ready()
    with pod.connect() as client, pod.connect() as other:
        client.invoke(1, x_execution_id="a-longer-id-than-the-one-that-comes-now")
        if source is ASYNC:
            other.send(request("sleep", x_execution_id="other"))
            wait_for((pod.folder / "started").exists)
        answer = client.invoke("oom", x_execution_id="mine")
        assert (answer.json()["code"], ids(answer)) == ("OOM", ["mine"])
        if source is ASYNC:
            assert ids(other.answer()) == ["other"]
    # The next call waits for a new worker, because the not-ready responder answers 503 until then.
    pod.ready()
    with pod.connect() as client:
        assert client.invoke(1, x_execution_id="e" * 200).status == 200
        answer = client.invoke("oom")
        assert (answer.json()["code"], ids(answer)) == ("OOM", [])


def test_a_call_that_was_not_started(start: Start) -> None:
    """The not-ready responder repeats the id, whether the head came at once or in pieces."""
    pod = start("""
        import os, time
        def init():
            while not os.path.exists("go"):
                time.sleep(0.01)
        def handle(input):
            return input
    """)
    answer = pod.invoke(1, x_execution_id="early")
    assert (answer.status, answer.headers["x-not-started"], ids(answer)) == (
        503, "true", ["early"])
    with pod.connect() as client:
        whole = request("x" * 100_000, x_execution_id="pieces")
        for piece in (whole[:20], whole[20:90], whole[90:]):
            client.send(piece)
            pod.invoke(1)  # Its answer shows that the piece was read too.
        answer = client.answer()
        assert (answer.status, ids(answer)) == (503, ["pieces"])
        assert client.at_end()
    with pod.connect() as client:
        client.send(b"POST /invoke HTTP/1.1\r\nHost: a\r\nX-Execution-Id: a\nb\r\n\r\n")
        assert ids(client.answer()) == []


def test_a_call_unread_when_the_worker_died(start: Start) -> None:
    pod = start(PLAIN).ready()
    with pod.connect() as busy, pod.connect() as unread:
        assert unread.invoke(1).status == 200
        busy.send(request("sleep", x_execution_id="ran"))
        wait_for((pod.folder / "started").exists)
        unread.send(request(1, x_execution_id="unread"))
        worker = pod.worker()
        os.kill(worker, signal.SIGKILL)
        answer = unread.answer()
        assert (answer.status, answer.headers["x-not-started"], ids(answer)) == (
            503, "true", ["unread"])
        assert ids(busy.answer()) == ["ran"]
        wait_for(lambda: gone(worker))


def test_calls_at_once_are_not_mixed_up(start: Start, source: str) -> None:
    pod = start(source).ready()
    wrong: list[object] = []

    def call(name: str) -> None:
        with Client(pod.address) as client:
            for number in range(100):
                want = f"{name}-{number}"
                answer = client.invoke(want, x_execution_id=want)
                if (answer.json(), ids(answer)) != (want, [want]):
                    wrong.append((want, answer.body))

    threads = [threading.Thread(target=call, args=(f"caller{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong

