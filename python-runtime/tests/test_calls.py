"""Calls to a real pod over its socket: input, output, errors, HTTP/1.1."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading

import pytest
from pods import Client, Pod, Start, request

PLAIN = """
    import nanofaas_runtime as nf

    def handle(input, context):
        if isinstance(input, bytes):
            return input[::-1]
        match input.get("do") if isinstance(input, dict) else None:
            case "raise": raise ValueError("bad " + input["what"])
            case "exit": raise SystemExit(3)
            case "nan": return {"a": float("nan")}
            case "bytes": return {"a": b"x"}
            case "cycle":
                out = []; out.append(out); return out
            case "png": return nf.Response(b"\\x89PNG", "image/png")
            case "text": return nf.Response("h\\u00e9")
            case "raw": return b"raw"
            case "str": return "text"
            case "none": return None
            case "big": return "x" * input["size"]
            case "context":
                return {"id": context.execution_id, "trace": context.trace_id,
                        "attempt": context.attempt, "metadata": context.metadata,
                        "header": context.headers.get("x-other"),
                        "left": context.remaining_ms()}
        return input
"""
ASYNC = PLAIN.replace("def handle", "async def handle")


@pytest.fixture(params=["plain", "async"])
def pod(request, start: Start):
    """Repeats the test for the same function, plain and async."""
    return start(PLAIN if request.param == "plain" else ASYNC).ready()


def test_json_in_json_out(pod: Pod) -> None:
    for value in (None, 1, "é", [1, 2], {"a": {"b": [True]}}):
        answer = pod.invoke(value)
        assert (answer.status, answer.json()) == (200, value)
        assert answer.headers["content-type"] == "application/json"


def test_json_under_a_type_of_its_own(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(request({"do": "context"}, content_type="application/cloudevents+json",
                            metadata={"k": "v"}))
        assert client.answer().json()["metadata"] == {"k": "v"}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_over_tcp(start: Start, host: str) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no [::1]")
    pod = start(PLAIN, tcp=True).ready()
    with Client(pod.address, host) as client:
        assert client.invoke({"a": 1}).json() == {"a": 1}


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def test_async_on_each_loop(start: Start, loop: str) -> None:
    pod = start("""
        import asyncio
        async def handle(input):
            return type(asyncio.get_running_loop()).__module__.partition(".")[0]
    """, loop=loop).ready()
    assert pod.invoke().json() == loop


@pytest.mark.parametrize(("do", "content_type", "body"), [
    ("png", "image/png", b"\x89PNG"), ("text", "text/plain; charset=utf-8", "hé".encode()),
    ("raw", "application/octet-stream", b"raw"), ("str", "application/json", b'"text"'),
    ("none", "application/json", b"null"),
])
def test_outputs(pod: Pod, do: str, content_type: str, body: bytes) -> None:
    answer = pod.invoke({"do": do})
    assert (answer.status, answer.headers["content-type"]) == (200, content_type)
    assert answer.body == body


def test_other_content_types_arrive_as_bytes(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(request(body=b"\0\1\2", content_type="image/png"))
        assert client.answer().body == b"\2\1\0"


@pytest.mark.parametrize(("do", "code", "message"), [
    ("raise", "HANDLER_ERROR", "ValueError: bad luck"), ("exit", "HANDLER_ERROR", "SystemExit: 3"),
    ("nan", "BAD_OUTPUT", "the output is not JSON: output.a is nan"),
    ("bytes", "BAD_OUTPUT", "the output is not JSON: output.a is of type bytes"),
    ("cycle", "BAD_OUTPUT", "the output is not JSON: output[0] contains itself"),
])
def test_errors_name_themselves_and_the_pod_goes_on(pod: Pod, do: str, code: str,
                                                    message: str) -> None:
    worker = pod.worker()
    with pod.connect() as client:
        answer = client.invoke({"do": do, "what": "luck"}, x_execution_id="e-7")
        assert answer.status == 500
        assert answer.json() == {"code": code, "message": message}
        assert client.invoke(1).json() == 1
    assert pod.worker() == worker
    line = pod.log_with(executionId="e-7", level="error")
    assert "Traceback" in line["traceback"] and "Traceback" not in str(answer.body)
    assert line["function"] == "fn"


def test_context(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(request({"do": "context"}, metadata={"k": "v"}, x_execution_id="e1",
                            x_trace_id="t1", x_dispatch_attempt=2, x_other="o",
                            x_deadline_ms=60000))
        value = client.answer().json()
    assert 0 < value.pop("left") <= 60000
    assert value == {"id": "e1", "trace": "t1", "attempt": 2, "metadata": {"k": "v"},
                     "header": "o"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"input":' + b"[" * 10_000,
                                  b'{"input":"\xff"}', b'{"input":NaN}'])
def test_bad_bodies(pod: Pod, body: bytes) -> None:
    with pod.connect() as client:
        client.send(request(body=body))
        answer = client.answer()
        assert (answer.status, answer.json()["code"]) == (400, "BAD_INPUT")
        assert client.invoke(1).json() == 1


def test_only_the_first_answer_is_cold(pod: Pod) -> None:
    first, second = pod.invoke(1), pod.invoke(2)
    assert first.headers["x-cold-start"] == "true"
    assert int(first.headers["x-init-duration-ms"]) > 0
    assert "x-cold-start" not in second.headers


def test_other_paths_and_methods(pod: Pod) -> None:
    with pod.connect() as client:
        for method, path, status in (("GET", "/invoke", 405), ("POST", "/health", 405),
                                     ("GET", "/", 404), ("POST", "/invoke/", 404),
                                     ("POST", "/invoke?a=1", 200), ("GET", "/health?x", 200)):
            client.send(request(1, method=method, path=path))
            answer = client.answer()
            assert answer.status == status, (method, path)
            assert ("allow" in answer.headers) is (status == 405)
        client.send(request(method="HEAD", path="/health", body=b""))
        answer = client.answer(head_only=True)
        assert (answer.status, answer.headers["content-length"]) == (200, "15")
        assert client.invoke(1).status == 200


def test_pipelined_requests_are_answered_in_order(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(b"".join(request(number) for number in range(200)))
        assert [client.answer().json() for _ in range(200)] == list(range(200))


def test_any_split_gives_the_same_answers(pod: Pod) -> None:
    chunked = (b"POST /invoke HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
               b"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"inp\r\n7;x=y\r\nut\": 7}\r\n0\r\n\r\n")
    stream = request(1) + chunked + request({"a": "b" * 300}) + chunked
    for seed in range(25):
        dice = random.Random(seed)
        with pod.connect() as client:
            data = stream
            while data:
                size = dice.choice([1, 2, 3, 7, 50, 400])
                client.send(data[:size])
                data = data[size:]
            values = [client.answer().json() for _ in range(4)]
        assert values == [1, 7, {"a": "b" * 300}, 7], seed


def test_expect_100_continue(pod: Pod) -> None:
    whole = request(5, expect="100-continue")
    end = whole.index(b"\r\n\r\n") + 4
    with pod.connect() as client:
        client.send(whole[:end])
        assert client.answer().status == 100
        client.send(whole[end:])
        assert client.answer().json() == 5


def test_large_bodies_both_ways(pod: Pod) -> None:
    text = "x" * 3_000_000
    with pod.connect() as client:
        assert client.invoke(text).json() == text
        assert len(client.invoke({"do": "big", "size": 6_000_000}).body) == 6_000_002
        assert client.invoke(1).json() == 1


def test_a_slow_reader_delays_nobody(pod: Pod) -> None:
    with pod.connect() as slow, pod.connect() as other:
        slow.send(request({"do": "big", "size": 20_000_000}) + request(2))
        for number in range(20):
            assert other.invoke(number).json() == number
        assert len(slow.answer().body) == 20_000_002
        assert slow.answer().json() == 2


def test_http_1_0_and_close(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert client.answer().status == 200 and client.at_end()
    with pod.connect() as client:
        client.send(request(1, connection="close"))
        answer = client.answer()
        assert (answer.json(), answer.headers["connection"]) == (1, "close")
        assert client.at_end()


@pytest.mark.parametrize("data", [
    b"\r\n\r\n", b"GET /health HTTP/1.1\n\n", b"nonsense\r\n\r\n",
    b"POST /invoke HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /invoke HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /invoke HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 40_000,
    b"POST /invoke HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n" + b"z" * 100_000,
])
def test_malformed_requests_are_answered_and_closed(pod: Pod, data: bytes) -> None:
    with pod.connect() as client:
        client.send(data)
        answer = client.answer()
        assert answer.status in (400, 413, 431)
        assert answer.headers["connection"] == "close" and answer.json()["message"]
        assert client.at_end()
    assert pod.invoke(1).json() == 1


def test_random_bytes_stop_nothing(pod: Pod) -> None:
    worker = pod.worker()
    for seed in range(60):
        dice = random.Random(seed)
        data = bytearray(request(1))
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        with pod.connect() as client:
            client.send(bytes(data))
    assert pod.invoke(1).json() == 1
    assert pod.worker() == worker


def test_many_connections_at_once(pod: Pod) -> None:
    clients = [pod.connect() for _ in range(200)]
    try:
        for number, client in enumerate(clients):
            client.send(request(number))
        assert [client.answer().json() for client in clients] == list(range(200))
    finally:
        for client in clients:
            client.close()


def test_plain_calls_wait_their_turn(start: Start) -> None:
    pod = start("""
        import time
        running = most = 0
        def handle(input):
            global running, most
            running += 1
            most = max(most, running)
            time.sleep(0.05)
            running -= 1
            return most
    """).ready()
    answers = in_parallel(pod, 5)
    assert answers == [1] * 5


def test_async_calls_run_side_by_side(start: Start, loop: str) -> None:
    pod = start("""
        import asyncio
        waiting, all_here = 0, asyncio.Event()
        async def handle(input):
            global waiting
            waiting += 1
            if waiting == 5:
                all_here.set()
            await all_here.wait()
            return waiting
    """, loop=loop).ready()
    assert in_parallel(pod, 5) == [5] * 5


def in_parallel(pod: Pod, count: int) -> list[object]:
    answers: list[object] = []

    def one() -> None:
        with pod.connect() as client:
            answers.append(client.invoke().json())

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def test_a_plain_function_may_run_asyncio_itself(start: Start) -> None:
    pod = start("""
        import asyncio
        async def work(value):
            await asyncio.sleep(0)
            return value + 1
        def handle(input):
            return asyncio.run(work(input))
    """).ready()
    assert [pod.invoke(number).json() for number in range(3)] == [1, 2, 3]


def test_the_module_and_function_can_be_named(start: Start) -> None:
    pod = start("""
        def other(input):
            return [input]
    """, HANDLER_FUNCTION="other", HANDLER_MODULE="handler").ready()
    assert pod.invoke(1).json() == [1]


def test_a_client_gets_its_json_from_any_connection(pod: Pod) -> None:
    """The test sends 300 calls on one connection, and one call on each of 100 connections."""
    with pod.connect() as client:
        for number in range(300):
            assert client.invoke({"n": number}).json() == {"n": number}
    for number in range(100):
        one: Client = pod.connect()
        assert json.loads(one.invoke(number).body) == number
        one.close()
