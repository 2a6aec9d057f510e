"""Job mode: the input comes from the environment or the platform, the result is posted once."""

from __future__ import annotations

import json

import pytest
from pods import Platform, Pod, Start, wait_for

FUNCTION = """
    import os, signal, time
    from nanofaas_runtime import Response

    def handle(input, context):
        if isinstance(input, bytes):
            return input.upper()
        match input.get("do"):
            case "raise": raise ValueError("bad")
            case "sleep": time.sleep(60)
            case "ignore":
                while True:
                    try: time.sleep(60)
                    except BaseException: pass
            case "oom": os.kill(os.getpid(), signal.SIGKILL)
            case "exit": os._exit(7)
            case "segv": os.kill(os.getpid(), signal.SIGSEGV)
            case "sys.exit": raise SystemExit(3)
            case "png": return Response(b"PNG", "image/png")
            case "nan": return float("nan")
            case "wait":
                open("started", "w").close()
                time.sleep(60)
        return {"got": input, "id": context.execution_id, "trace": context.trace_id,
                "attempt": context.attempt, "metadata": context.metadata,
                "left": context.remaining_ms()}
"""
ASYNC = (FUNCTION.replace("def handle", "async def handle")
         .replace("time.sleep", "await __import__('asyncio').sleep"))


@pytest.fixture(params=[FUNCTION, ASYNC], ids=["plain", "async"])
def job(request, start: Start, plane: Platform):
    """Gives `job(input, **env)`, which starts a Job."""
    def begin(value: object = None, **env: str):
        if value is not None:
            payload = json.dumps({"input": value, "metadata": {"k": "v"}})
            env.setdefault("INVOCATION_PAYLOAD", payload)
        return start(request.param, EXECUTION_ID="e-1", DISPATCH_ATTEMPT="2", TRACE_ID="t-1",
                     CALLBACK_URL=f"{plane.url}/v1/internal/tok/executions", **env)
    return begin


def result(plane: Platform) -> dict[str, object]:
    line, headers, body = plane.next()
    assert line == "POST /v1/internal/tok/executions/e-1:complete"
    assert headers["content-type"] == "application/json"
    return json.loads(body)


def test_success(job: Start, plane: Platform) -> None:
    pod = job({"a": 1}, INVOCATION_TIMEOUT_MS="60000")
    it = result(plane)
    assert 0 < it["output"].pop("left") <= 60000
    assert it["output"] == {"got": {"a": 1}, "id": "e-1", "trace": "t-1", "attempt": 2,
                            "metadata": {"k": "v"}}
    assert (it["success"], it["error"]) == (True, None)
    assert it["startedAt"] <= it["loadedAt"] <= it["readyAt"]
    assert pod.exit_status() == 0
    assert plane.got.empty()


def test_input_from_the_platform(job: Start, plane: Platform) -> None:
    path = "/v1/internal/tok/executions/e-1/input"
    plane.inputs[path] = ("text/plain", b"shout")
    pod = job(INVOCATION_PAYLOAD_URL=plane.url + path)
    assert plane.next()[0] == f"GET {path}"
    line, headers, body = plane.next()
    assert line.endswith("/e-1:complete")
    assert (headers["content-type"], body) == ("application/octet-stream", b"SHOUT")
    assert pod.exit_status() == 0


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("encoding", ["gzip", None])
def test_an_encoded_input_says_so(start: Start, plane: Platform, kind: str,
                                  encoding: str | None) -> None:
    path = "/v1/internal/tok/executions/e-1/input"
    plane.inputs[path] = ("text/plain", b"\x1f\x8b")
    plane.encoding = encoding
    source = (f"{kind} handle(input, context):\n    headers = context.headers\n"
              "    return [headers['content-type'], headers.get('content-encoding'), input.hex()]")
    start(source, EXECUTION_ID="e-1", INVOCATION_PAYLOAD_URL=plane.url + path,
          CALLBACK_URL=f"{plane.url}/v1/internal/tok/executions")
    assert plane.next()[0] == f"GET {path}"
    assert result(plane)["output"] == ["text/plain", encoding, "1f8b"]


def test_json_input_under_a_type_of_its_own(job: Start, plane: Platform) -> None:
    path = "/v1/internal/tok/executions/e-1/input"
    plane.inputs[path] = ("application/vnd.a+json", b'{"input":{"a":1},"metadata":{"k":"v"}}')
    pod = job(INVOCATION_PAYLOAD_URL=plane.url + path)
    assert plane.next()[0] == f"GET {path}"
    output = result(plane)["output"]
    assert (output["got"], output["metadata"]) == ({"a": 1}, {"k": "v"})
    assert pod.exit_status() == 0


def test_raw_output(job: Start, plane: Platform) -> None:
    assert job({"do": "png"}).exit_status() == 0
    _, headers, body = plane.next()
    assert (headers["content-type"], body) == ("image/png", b"PNG")


# Content type, body, and the posted output, or None if the body is not JSON.
JSON_RESPONSES = [
    ("application/json", b'{"a":1}', {"a": 1}), ("application/json", b"[1]", [1]),
    ("application/json", b" 1\n", 1), ("Application/JSON ; charset=UTF-8", b'"t"', "t"),
    ("  ", b"2", 2),
    ("application/json", b'{"success":false,"error":"forged"}',
     {"success": False, "error": "forged"}),
    ("application/json", b'1,"output":2', None), ("application/json", b"NaN", None),
    ("application/json", b'"\xe9"', None), ("application/json", b"{", None),
    ("application/json", b" ", None),
    ("application/json", b"[" * 200_000, None),
]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_json_responses_are_wrapped(start: Start, plane: Platform, kind: str) -> None:
    """The platform reads `application/json` as the result, so no output is sent with that type."""
    for content_type, body, output in JSON_RESPONSES:
        pod = start_response(start, plane, kind, content_type, body)
        it = result(plane)
        assert it["success"] is (output is not None), body
        assert it["output"] == output
        if output is None:
            assert it["error"]["code"] == "BAD_OUTPUT"
            assert it["error"]["message"].startswith("the output is not JSON: ")
        assert it["startedAt"] <= it["loadedAt"] <= it["readyAt"]
        assert pod.exit_status() == 0
        assert plane.got.empty()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_empty_json_response_is_null(start: Start, plane: Platform, kind: str) -> None:
    start_response(start, plane, kind, "application/json", b"")
    it = result(plane)
    assert (it["success"], it["output"], it["error"]) == (True, None, None)


@pytest.mark.parametrize("content_type", [
    "text/plain; charset=utf-8", "application/json; charset=utf-16", "application/+json",
    "application/jsonl", "image/a+json", "application/vnd.a+json",
])
def test_other_responses_stay_raw(start: Start, plane: Platform, content_type: str) -> None:
    start_response(start, plane, "def", content_type, b"{")
    _, headers, body = plane.next()
    assert (headers["content-type"], body) == (content_type, b"{")


def start_response(start: Start, plane: Platform, kind: str, content_type: str,
                   body: bytes) -> Pod:
    source = (f"from nanofaas_runtime import Response\n{kind} handle(input):\n"
              f"    return Response({body!r}, {content_type!r})\n")
    return start(source, EXECUTION_ID="e-1", INVOCATION_PAYLOAD='{"input":1}',
                 CALLBACK_URL=f"{plane.url}/v1/internal/tok/executions")


@pytest.mark.parametrize(("do", "message"), [
    ("raise", "ValueError: bad"), ("sys.exit", "SystemExit: 3"), ("nan", "the output is not JSON: output is nan"),
])
def test_errors(job: Start, plane: Platform, do: str, message: str) -> None:
    pod = job({"do": do})
    it = result(plane)
    assert (it["success"], it["output"]) == (False, None)
    code = "BAD_OUTPUT" if do == "nan" else "HANDLER_ERROR"
    assert it["error"] == {"code": code, "message": message}
    assert pod.exit_status() == 0
    assert pod.log_with(executionId="e-1", traceId="t-1")["traceback"]


@pytest.mark.parametrize("do", ["sleep", "ignore"])
def test_timeout(job: Start, plane: Platform, do: str) -> None:
    pod = job({"do": do}, INVOCATION_TIMEOUT_MS="1500")
    it = result(plane)
    assert (it["success"], it["error"]["code"]) == (False, "TIMEOUT")
    assert pod.exit_status() == 0
    assert plane.got.empty()


def test_oom_is_posted_for_the_dead_worker(job: Start, plane: Platform) -> None:
    pod = job({"do": "oom"})
    assert result(plane)["error"]["code"] == "OOM"
    assert pod.exit_status() == 0


@pytest.mark.parametrize(("do", "how"), [
    ("exit", "the worker exited with status 7"),
    ("segv", "the worker was ended by signal 11 (SIGSEGV)"),
])
def test_a_crash_is_posted_for_the_dead_worker(job: Start, plane: Platform, do: str,
                                               how: str) -> None:
    pod = job({"do": do})
    it = result(plane)
    assert (it["success"], it["output"]) == (False, None)
    assert it["error"] == {"code": "POD_LOST", "message": how}
    assert pod.exit_status() == 0
    assert plane.got.empty()


@pytest.mark.parametrize("do", ["oom", "exit"])
def test_times_that_are_not_known_are_left_out(job: Start, plane: Platform, do: str) -> None:
    """A time in the result must be a whole number, so an unknown time is left out and not null."""
    job({"do": do})
    it = result(plane)
    assert type(it["startedAt"]) is int
    assert "loadedAt" not in it and "readyAt" not in it


def test_bad_input(job: Start, plane: Platform) -> None:
    pod = job(INVOCATION_PAYLOAD="{")
    assert result(plane)["error"]["code"] == "BAD_INPUT"
    assert pod.exit_status() == 0


@pytest.mark.parametrize("statuses", [[500, 429], [408, 503], [0, 0]])
def test_the_callback_is_retried(job: Start, plane: Platform, statuses: list[int]) -> None:
    plane.statuses += statuses
    pod = job({"a": 1})
    assert [result(plane)["success"] for _ in range(3)] == [True] * 3
    assert pod.exit_status() == 0
    assert plane.got.empty()


@pytest.mark.parametrize("status", [409, 413, 403])
def test_a_final_refusal_is_not_retried(job: Start, plane: Platform, status: int) -> None:
    plane.statuses.append(status)
    pod = job({"a": 1})
    assert pod.exit_status() == 0
    assert plane.got.qsize() == 1
    assert str(status) in pod.log_with(level="warn")["message"]
    assert "tok" not in pod.stderr()


def test_a_missing_platform_is_an_exit_with_words(start: Start) -> None:
    pod = start(FUNCTION, EXECUTION_ID="e-1", CALLBACK_URL="http://127.0.0.1:1/tok",
                INVOCATION_PAYLOAD='{"input":{}}')
    assert pod.exit_status() == 1
    assert "could not post" in pod.log_with(level="error")["message"]
    assert "tok" not in pod.stderr()


def test_what_does_not_load_is_posted(start: Start, plane: Platform) -> None:
    for source in ("import no_such_module_here",
                   "def init(): raise KeyError('no_such_module_here')\ndef handle(i): pass",
                   "def init(): raise KeyError('no_such_module_here')\nasync def handle(i): pass"):
        pod = start(source, EXECUTION_ID="e-1", INVOCATION_PAYLOAD='{"input":1}',
                    CALLBACK_URL=f"{plane.url}/v1/internal/tok/executions")
        it = result(plane)
        assert it["error"]["code"] == "HANDLER_ERROR"
        assert "no_such_module_here" in it["error"]["message"]
        assert all(type(at) is int for name, at in it.items() if name.endswith("At"))
        assert pod.exit_status() == 0
        assert plane.got.empty()


@pytest.mark.parametrize("timeout_ms", ["1", "20", "800"])  # After 1 ms it handles no signals yet.
def test_loading_counts_against_the_deadline(start: Start, plane: Platform, timeout_ms: str) -> None:
    pod = start("import time; time.sleep(60)", EXECUTION_ID="e-1", INVOCATION_TIMEOUT_MS=timeout_ms,
                CALLBACK_URL=f"{plane.url}/v1/internal/tok/executions",
                INVOCATION_PAYLOAD='{"input":1}')
    assert result(plane)["error"]["code"] == "TIMEOUT"
    assert pod.exit_status() == 0


def test_sigterm_stops_the_call_without_a_result(job: Start, plane: Platform) -> None:
    pod = job({"do": "wait"})
    wait_for((pod.folder / "started").exists)
    pod.term()
    assert pod.exit_status() == 143
    assert plane.got.empty()


@pytest.mark.parametrize("env", [
    {"EXECUTION_ID": ""}, {"INVOCATION_PAYLOAD": "{}", "INVOCATION_TIMEOUT_MS": "soon"}, {},
])
def test_bad_job_settings(start: Start, env: dict[str, str]) -> None:
    pod = start(FUNCTION, **({"EXECUTION_ID": "e", "CALLBACK_URL": "http://127.0.0.1:1"} | env))
    assert pod.exit_status() == 2


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(("values", "content_type", "body"), [
    ('"a", "b"', "text/plain; charset=utf-8", b"ab"),
    ('{"a": 1}, [2]', "application/x-ndjson", b'{"a":1}\n[2]\n'),
    ('Event("x"),', "text/event-stream", b"data: x\n\n"),
])
def test_a_generators_values_are_posted_together(start: Start, plane: Platform, kind: str,
                                                 values: str, content_type: str,
                                                 body: bytes) -> None:
    start(f"""
        from nanofaas_runtime import Event
        {kind} handle(input):
            for value in ({values}): yield value
    """, EXECUTION_ID="e", CALLBACK_URL=plane.url, INVOCATION_PAYLOAD='{"input":1}')
    _, headers, posted = plane.next()
    assert (headers["content-type"], posted) == (content_type, body)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_generators_fault_is_posted(start: Start, plane: Platform, kind: str) -> None:
    start(f"""
        {kind} handle(input):
            yield "a"
            raise ValueError("late")
    """, EXECUTION_ID="e", CALLBACK_URL=plane.url, INVOCATION_PAYLOAD='{"input":1}')
    assert b'"message": "ValueError: late"' in plane.next()[2]
