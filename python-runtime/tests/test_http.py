"""HTTP calls, by `/fn/` of the platform, to a plain or async handler of a real pod."""

from __future__ import annotations

import pytest
from pods import Answer, Pod, Start, gone, http, request, wait_for

PLAIN = """
    import asyncio, os, signal, time
    import nanofaas_runtime as nf

    def handle(input, context):
        match context.path:
            case "/raise": raise ValueError("bad")
            case "/exit": raise SystemExit(3)
            case "/nan": return float("nan")
            case "/torn": return "\\ud800"
            case "/inject": return nf.Response(b"", "text/plain\\r\\nX-Nanofaas-Answer: forged")
            case "/png": return nf.Response(b"\\x89PNG", "image/png")
            case "/oom": os.kill(os.getpid(), signal.SIGKILL)
            case "/sleep":
                open("started", "w").close()
                time.sleep(60)
            case "/context":
                return {"method": context.method, "path": context.path, "query": context.query,
                        "other": context.headers.get("x-other"), "input": input,
                        "metadata": context.metadata, "id": context.execution_id}
        return input
"""
ASYNC = PLAIN.replace("def handle", "async def handle").replace(
    "time.sleep(60)", "await asyncio.sleep(60)")


@pytest.fixture(params=["plain", "async"])
def pod(request: pytest.FixtureRequest, start: Start) -> Pod:
    """The same function, plain and async."""
    source = PLAIN if request.param == "plain" else ASYNC
    return start(source, HANDLER_METHODS="POST, GET,HEAD,DELETE").ready()


def call(pod: Pod, *args: object, head_only: bool = False, **headers: object) -> Answer:
    with pod.connect() as client:
        client.send(http(*args, **headers))
        return client.answer(head_only)


@pytest.mark.parametrize(("body", "content_type", "out", "out_type"), [
    (b'{"a": [1, "\xc3\xa9"]}', "application/json", b'{"a":[1,"\xc3\xa9"]}', "application/json"),
    (b'{"input": 1}', "application/problem+json", b'{"input":1}', "application/json"),
    (b'"text"', "application/json", b"text", "text/plain; charset=utf-8"),
    (b"", "application/json", b"null", "application/json"),
    (b"", None, b"null", "application/json"),
    (b"\0\xff", "image/png", b"\0\xff", "application/octet-stream"),
    (b"a=1", None, b"a=1", "application/octet-stream"),
])
def test_bodies_have_no_envelope(pod: Pod, body: bytes, content_type: str | None, out: bytes,
                                 out_type: str) -> None:
    answer = call(pod, "POST", "/", body, content_type, x_execution_id="e1")
    assert (answer.status, answer.body) == (200, out)
    assert answer.headers["content-type"] == out_type
    assert answer.all("x-nanofaas-answer") == ["e1"] and not answer.all("x-execution-id")


def test_an_encoded_body_is_passed_as_bytes(pod: Pod) -> None:
    answer = call(pod, "POST", "/", b"{}", "application/json", content_encoding="gzip")
    assert (answer.body, answer.headers["content-type"]) == (b"{}", "application/octet-stream")


def test_a_response_keeps_its_type(pod: Pod) -> None:
    answer = call(pod, "GET", "/png")
    assert (answer.body, answer.headers["content-type"]) == (b"\x89PNG", "image/png")


def test_the_context_has_the_request(pod: Pod) -> None:
    answer = call(pod, "DELETE", "/context?a=%20b&c", b'{"metadata":{"k":"v"}}',
                  "application/json", x_other="o", x_execution_id="e1")
    assert answer.json() == {
        "method": "DELETE", "path": "/context", "query": "a=%20b&c", "other": "o",
        "input": {"metadata": {"k": "v"}}, "metadata": {}, "id": "e1"}
    answer = call(pod, "GET", "/a%2Fb//../c")
    assert answer.body == b"null"


@pytest.mark.parametrize(("path", "status", "code", "message"), [
    ("/raise", 500, "HANDLER_ERROR", "ValueError: bad"),
    ("/exit", 500, "HANDLER_ERROR", "SystemExit: 3"),
    ("/nan", 500, "BAD_OUTPUT", "the output is not JSON: output is nan"),
    ("/torn", 500, "BAD_OUTPUT", "the output is not text: it holds a lone surrogate"),
    ("/inject", 500, "HANDLER_ERROR", "ValueError: Response.content_type"),
    ("/oom", 500, "OOM", "the worker was killed"),
])
def test_faults_are_told_bare(pod: Pod, path: str, status: int, code: str, message: str) -> None:
    answer = call(pod, "POST", path, x_execution_id="e" * 40)
    assert answer.status == status
    assert answer.json() == {"error": code, "message": answer.json()["message"]}
    assert message in answer.json()["message"]
    assert answer.all("x-nanofaas-answer") == ["e" * 40] and not answer.all("x-execution-id")


def test_bad_json_is_refused(pod: Pod) -> None:
    answer = call(pod, "POST", "/", b"{", "application/json", x_execution_id="e1")
    assert (answer.status, answer.json()["error"]) == (400, "BAD_INPUT")
    assert answer.all("x-nanofaas-answer") == ["e1"]


def test_a_deadline_stops_the_handler(pod: Pod) -> None:
    answer = call(pod, "POST", "/sleep", x_execution_id="e1", x_deadline_ms=100)
    assert (answer.status, answer.json()["error"]) == (504, "TIMEOUT")
    assert answer.all("x-nanofaas-answer") == ["e1"]


def test_reserved_paths_reach_the_handler(pod: Pod) -> None:
    with pod.connect() as client:
        for path in ("/invoke", "/health", "/health?x"):
            client.send(http("POST", path, b"7", "application/json"))
            assert (client.answer().json(), path) == (7, path)
        assert client.invoke(1).json() == 1  # Without the mark they are the platform's.
        client.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.answer().json() == {"status": "UP"}
        client.send(request(1, x_nanofaas_call="other"))
        assert client.answer().json() == 1


def test_head_answers_have_no_body(pod: Pod) -> None:
    with pod.connect() as client:
        for path, status in (("/png", 200), ("/nan", 500), ("/", 200)):
            client.send(http("HEAD", path, x_execution_id="e1"))
            answer = client.answer(head_only=True)
            assert (answer.status, answer.all("x-nanofaas-answer")) == (status, ["e1"])
            assert int(answer.headers["content-length"]) > 0
        client.send(http("GET", "/png"))
        assert client.answer().body == b"\x89PNG"


def test_only_listed_methods_are_taken(start: Start) -> None:
    pod = start("def handle(input): return input").ready()
    with pod.connect() as client:
        for method in ("GET", "HEAD", "PUT", "OPTIONS", "post", "M-SEARCH"):
            client.send(http(method, "/invoke", x_execution_id="e1"))
            answer = client.answer(method == "HEAD")
            assert (answer.status, answer.headers["allow"]) == (405, "POST"), method
            assert answer.all("x-nanofaas-answer") == ["e1"]
        client.send(http("POST", "/", b"1", "application/json"))
        assert client.answer().json() == 1
        client.send(http("PUT", "/", x_execution_id="e1", content_length=10,
                         expect="100-continue"))
        answer = client.answer()
        assert (answer.status, answer.json()["error"]) == (405, "METHOD_NOT_ALLOWED")
        assert answer.headers["connection"] == "close" and client.at_end()


def test_refused_requests_are_answered_bare(pod: Pod) -> None:
    for line in (b"Content-Length: 999999999", b"Transfer-Encoding: gzip", b"Expect: other"):
        with pod.connect() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nx-nanofaas-call: HTTP\r\n"
                        b"X-Execution-Id: e1\r\n" + line + b"\r\n\r\n")
            answer = client.answer()
            assert answer.status in (413, 417, 501) and answer.json()["error"] == "BAD_REQUEST"
            assert answer.all("x-nanofaas-answer") == ["e1"]


def test_a_pod_that_is_not_ready(start: Start) -> None:
    pod = start("""
        import os, time
        def init():
            while not os.path.exists("go"):
                time.sleep(0.01)
        def handle(input): return input
    """)
    answer = call(pod, "GET", "/health", x_execution_id="early")
    assert (answer.status, answer.json()["error"]) == (503, "NOT_READY")
    assert answer.all("x-nanofaas-answer") == ["early"]
    assert answer.headers["x-not-started"] == "true"


def test_a_client_that_leaves_stops_the_handler(pod: Pod) -> None:
    worker = pod.worker()
    with pod.connect() as client:
        client.send(http("POST", "/sleep", x_execution_id="e1"))
        wait_for((pod.folder / "started").exists)
    pod.log_with(message="the caller closed the connection", executionId="e1")
    assert call(pod, "POST", "/", b"1", "application/json").json() == 1
    assert pod.worker() == worker and not gone(worker)


@pytest.mark.parametrize("methods", ["GET;POST", "GET,", "G\u00c9T", "GET POST"])
def test_bad_methods_are_named(start: Start, methods: str) -> None:
    pod = start("def handle(input): return input", HANDLER_METHODS=methods)
    assert pod.exit_status() == 2
    assert "HANDLER_METHODS" in pod.log_with(level="error")["message"]
