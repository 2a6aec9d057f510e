"""Errors of a function are reported, whatever the function did to the reporting code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pods import Platform, Start

# Things that a function may do before it raises. The runtime must still answer and log.
SABOTAGE = {
    "stderr without flush": "sys.stderr = type('Tee', (), {'write': lambda self, text: None})()",
    "no stderr": "sys.stderr = None",
    "stderr closed": "os.closerange(2, 3)",
    "stdout without flush": "sys.stdout = type('Tee', (), {'write': lambda self, text: None})()",
    "no path": "sys.path.clear()",
    "another path": "sys.path = ['/nowhere']",
    "no modules": "[sys.modules.pop(each) for each in list(sys.modules) if each in NAMES]",
    "other modules": "sys.modules.update({each: types.ModuleType(each) for each in NAMES})",
    "no finders": "sys.meta_path.clear()",
    "json": "json.dumps = json.loads = json.encoder.encode_basestring_ascii = None; "
            "json.encoder.c_make_encoder = json.JSONDecoder.decode = None",
    "traceback": "traceback.format_exception = traceback.print_exc = None",
    "os": "os.write = os.environ = os.path = None",
    "time": "time.time = time.strftime = time.gmtime = None",
    "socket": "socket.socket = socket.create_connection = socket.getaddrinfo = None",
    "no descriptors": "open_all()",
}
SOURCE = """
    import asyncio, json, json.encoder, os, socket, sys, time, traceback, types
    NAMES = ("json", "json.encoder", "traceback", "linecache", "logging", "tokenize", "textwrap",
             "encodings.idna", "time", "os", "socket", "inspect", "asyncio", "resource")
    held = []
    def open_all():
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            while True: held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError: pass
    def handle(input):
        if input == "again": return "again"
        DEED
        if input == "nan": return float("nan")
        if input == "exit": sys.exit(3)
        raise ValueError("of the function")
"""


@pytest.mark.parametrize("do", list(SABOTAGE))
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_fault_is_told(start: Start, kind: str, do: str) -> None:
    pod = start(SOURCE.replace("DEED", SABOTAGE[do]).replace("def handle", f"{kind} handle")).ready()
    worker = pod.worker()
    with pod.connect() as client:
        for value, text in (("raise", "ValueError: of the function"),
                            ("nan", "the output is not JSON: output is nan"),
                            ("exit", "SystemExit: 3")):
            answer = client.invoke(value, x_execution_id="e-1", x_deadline_ms=20_000)
            assert answer.status == 500
            code = "BAD_OUTPUT" if value == "nan" else "HANDLER_ERROR"
            assert answer.json() == {"code": code, "message": text}
        assert client.invoke("again").json() == "again"
    assert pod.worker() == worker
    trace = pod.log_with(message="the function raised", executionId="e-1")["traceback"]
    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.endswith("ValueError: of the function\n")


@pytest.mark.parametrize("do", list(SABOTAGE))
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_fault_of_a_job_is_posted(start: Start, plane: Platform, kind: str, do: str) -> None:
    pod = start(SOURCE.replace("DEED", SABOTAGE[do]).replace("def handle", f"{kind} handle"),
                EXECUTION_ID="e-1", CALLBACK_URL=plane.url.replace("127.0.0.1", "localhost"),
                INVOCATION_PAYLOAD='{"input":"raise"}')
    assert b'"message": "ValueError: of the function"' in plane.next()[2]
    assert pod.exit_status() == 0
    assert plane.got.empty()
    assert pod.log_with(message="the function raised")["executionId"] == "e-1"


@pytest.mark.parametrize("do", list(SABOTAGE))
@pytest.mark.parametrize("end", ["raise ValueError('of the module')", "def handle(input): pass",
                                 "async def handle(input): pass", "def handle(*, x): pass"])
def test_a_fault_while_loading_is_told(start: Start, do: str, end: str) -> None:
    """If the function's module has no fault of its own, the runtime must find the modules that it
    imports late."""
    if do == "no descriptors" and "raise" not in end:
        pytest.skip("a worker cannot serve then")
    if do in ("os", "time", "socket") and (end.startswith("async") or "*" in end):
        pytest.skip("the standard library cannot load the rest of itself then")
    source = SOURCE[:SOURCE.index("    def handle")] + f"    {SABOTAGE[do]}\n    {end}\n"
    pod = start(source.replace("asyncio, ", "").replace('"asyncio", ', ""))
    if "pass" in end and "*" not in end:
        assert pod.ready().invoke().json() is None
        return
    assert pod.exit_status() == 1
    text = "ValueError: of the module" if "raise" in end else "must be callable as handle(input)"
    assert text in pod.log_with(level="error", message="cannot load")["message"]


# Things that a function may do to names and modules that the runtime needs afterwards.
REPLACED = {
    "os.close": "os.close = None",
    "modules": "sys.modules.clear()",
    "import": "builtins.__import__ = None",
    "zip": "builtins.zip = None",
    "runtime": "[sys.modules.pop(each) for each in list(sys.modules) if 'nanofaas' in each]",
    "json": "json.JSONDecoder.decode = json.JSONDecoder.raw_decode = json.decoder.scanner = None",
}
REPLACES = """
    import asyncio, builtins, json, json.decoder, os, sys
    from nanofaas_runtime import CallStopped, Response
    def handle(input):
        with open(RAN, "a") as ran: ran.write("x")
        DEED
        match input:
            case "raise": raise ValueError("of the function")
            case "stop": raise CallStopped("of the function")
            case "nan": return float("nan")
            case "response": return Response("{", "application/json")
            case "timeout": raise TimeoutError("of the function")
        return "fine"
"""
ENDS = {
    "raise": ("HANDLER_ERROR", "ValueError: of the function"),
    "stop": ("HANDLER_ERROR", "CallStopped: of the function"),
    "nan": ("BAD_OUTPUT", "the output is not JSON: output is nan"),
    "response": ("BAD_OUTPUT", "the output is not JSON: "),
    "timeout": ("HANDLER_ERROR", "TimeoutError: of the function"),
    "return": None,
}


@pytest.mark.parametrize("do", list(REPLACED))
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_jobs_end_uses_nothing_of_the_function(
        start: Start, plane: Platform, tmp_path: Path, kind: str, do: str) -> None:
    ran = tmp_path / "ran"
    source = (REPLACES.replace("DEED", REPLACED[do]).replace("RAN", repr(str(ran)))
              .replace("def handle", f"{kind} handle"))
    for times, (value, end) in enumerate(ENDS.items(), 1):
        pod = start(source, EXECUTION_ID="e-1", CALLBACK_URL=plane.url,
                    INVOCATION_PAYLOAD=json.dumps({"input": value}))
        it = json.loads(plane.next()[2])
        assert it["success"] is (end is None), (value, it)
        if end is None:
            assert it["output"] == "fine"
        else:
            assert it["error"]["code"] == end[0]
            assert it["error"]["message"].startswith(end[1])
        assert it["startedAt"] <= it["loadedAt"] <= it["readyAt"]
        assert pod.exit_status() == 0
        assert len(ran.read_text()) == times


def test_a_job_posts_without_any_open_descriptor(start: Start,
                                                               plane: Platform) -> None:
    """The watchdog, which lost its link, posts POD_LOST later, but the platform takes the first
    result."""
    start("""
        import os
        def handle(input):
            os.closerange(3, 4096)
            raise ValueError("of the function")
    """, EXECUTION_ID="e-1", CALLBACK_URL=plane.url, INVOCATION_PAYLOAD='{"input":1}')
    error = json.loads(plane.next()[2])["error"]
    assert error == {"code": "HANDLER_ERROR", "message": "ValueError: of the function"}


BAD_TEXT = """
    class Mute(Exception):
        def __str__(self): raise SystemExit(9)
    class Meta(type):
        @property
        def __name__(cls): raise KeyError
        @property
        def __module__(cls): raise KeyError
    class Nameless(Exception, metaclass=Meta): pass
    class Endless(Exception):
        def __str__(self):
            while True: pass
    def deep(left): return deep(left - 1) if left else 1 / 0
    def forever(): forever()
    def handle(input):
        match input:
            case "mute": raise Mute
            case "nameless": raise Nameless
            case "endless": raise Endless
            case "deep": deep(300)
            case "recursion": forever()
            case "ring":
                one, two = KeyError("one"), KeyError("two")
                one.__context__, two.__context__ = two, one
                raise one
            case "chain":
                try: raise KeyError("first")
                except KeyError as error: raise ValueError("second") from error
            case "context":
                try: raise KeyError("first")
                except KeyError: raise ValueError("second")
            case "group": raise ExceptionGroup("all", [KeyError("first"), ValueError("second")])
            case "syntax": compile("a = (1,,2)", "some.py", "exec")
            case "note":
                error = ValueError("noted")
                error.add_note("the note")
                raise error
        return input
"""


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_exceptions_that_are_hard_to_show(start: Start, kind: str) -> None:
    pod = start(BAD_TEXT.replace("def handle", f"{kind} handle")).ready()
    worker = pod.worker()
    with pod.connect() as client:
        for do, message in (("mute", "Mute"), ("nameless", "that cannot be shown"),
                            ("deep", "ZeroDivisionError: division by zero"),
                            ("recursion", "RecursionError: maximum recursion"),
                            ("ring", "KeyError: 'one'"), ("syntax", "SyntaxError: ")):
            answer = client.invoke(do, x_execution_id=f"e-{do}")
            assert (answer.status, answer.json()["code"]) == (500, "HANDLER_ERROR")
            assert message in answer.json()["message"]
            assert pod.log_with(message="the function raised", executionId=f"e-{do}")
        assert client.invoke(1).json() == 1
    assert pod.worker() == worker
    trace = pod.log_with(executionId="e-recursion")["traceback"]
    assert "Previous line repeated" in trace and len(trace) < 8192


def test_an_endless_text_costs_only_the_worker(start: Start) -> None:
    pod = start(BAD_TEXT).ready()
    with pod.connect() as client:
        client.invoke(1)
        client.send(b"")
        with pytest.raises(ConnectionError):
            client.invoke("endless", x_deadline_ms=200)
    assert pod.invoke_when_ready(1).json() == 1


def test_tracebacks_read_like_pythons(start: Start) -> None:
    pod = start(BAD_TEXT).ready()
    texts = {}
    for do in ("chain", "context", "group", "syntax", "note"):
        pod.invoke(do, x_execution_id=f"e-{do}")
        texts[do] = pod.log_with(executionId=f"e-{do}")["traceback"]
    file = f'  File "{pod.folder}/handler.py", line'
    assert texts["chain"].startswith(f"Traceback (most recent call last):\n{file} ")
    assert ("    try: raise KeyError(\"first\")\n"
            "KeyError: 'first'\n\n"
            "The above exception was the direct cause of the following exception:\n\n"
            "Traceback (most recent call last):\n") in texts["chain"]
    assert texts["chain"].endswith("raise ValueError(\"second\") from error\nValueError: second\n")
    assert "During handling of the above exception, another exc" in texts["context"]
    assert "KeyError: 'first'\n" in texts["group"] and "ValueError: second\n" in texts["group"]
    assert '  File "some.py", line 1\n    a = (1,,2)\n           ^\nSyntaxError' in texts["syntax"]
    assert texts["note"].endswith("ValueError: noted\nthe note\n")
    assert "nanofaas_runtime" not in "".join(texts.values())


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(("raised", "text"), [
    ("sys.exit(3)", "SystemExit: 3"), ("sys.exit()", "SystemExit"),
    ("sys.exit('why')", "SystemExit: why"), ("raise KeyboardInterrupt", "KeyboardInterrupt"),
])
def test_a_call_cannot_end_the_pod(start: Start, plane: Platform, kind: str, raised: str,
                                   text: str) -> None:
    source = f"import sys\n{kind} handle(input):\n    {raised}\n"
    pod = start(source).ready()
    worker = pod.worker()
    for _ in range(2):
        assert pod.invoke().json() == {"code": "HANDLER_ERROR", "message": text}
    assert pod.worker() == worker
    start(source, EXECUTION_ID="e", INVOCATION_PAYLOAD='{"input":1}', CALLBACK_URL=plane.url)
    assert b'"code": "HANDLER_ERROR", "message": "%b"' % text.encode() in plane.next()[2]
