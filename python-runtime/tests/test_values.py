"""The conversion of inputs and outputs, without a process."""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path

import pytest
from nanofaas_runtime import Response, pod
from nanofaas_runtime.call import BadInput, Call, Context, decode, describe, is_json, output
from nanofaas_runtime.function import Function, NoFunction, is_async
from nanofaas_runtime.output import BadOutput, encode
from nanofaas_runtime.wire import parse_head


def call(body: bytes, *lines: str, content_type: str = "application/json") -> Call:
    text = "\r\n".join(["POST /invoke HTTP/1.1", "Host: a", f"Content-Type: {content_type}",
                        *lines, "", ""]).encode()
    return Call(parse_head(text, len(text)), body)


@pytest.mark.parametrize("value", [
    None, True, 0, -1.5, "", "é\u2028", [], {}, [1, [2, {"a": None}]], (1, 2), 1e300, 10**40,
    {"1": 2}, collections.OrderedDict(a=1),
])
def test_output_is_json(value: object) -> None:
    assert json.loads(encode(value)) == json.loads(json.dumps(value))


def test_output_is_compact_and_utf_8() -> None:
    assert encode({"a": ["é", 1]}) == '{"a":["é",1]}'.encode()


def test_keys_that_json_has_become_text() -> None:
    assert encode({1: 1, None: 2, False: 3}) == b'{"1":1,"null":2,"false":3}'


def cycle() -> list[object]:
    value: list[object] = [1]
    value.append({"self": value})
    return value


def deep() -> object:
    value: object = 1
    for _ in range(100_000):
        value = [value]
    return value


class Odd(dict):
    """A dict that cannot be iterated."""

    def items(self):
        raise ValueError("no items today")


@dataclasses.dataclass
class Point:
    x: int


@pytest.mark.parametrize(("value", "place"), [
    (float("nan"), "output is nan"),
    ({"a": [1, float("-inf")]}, "output.a[1] is -inf"),
    ({"a": {"b": b"raw"}}, "output.a.b is of type bytes"),
    (cycle(), "output[1].self contains itself"),
    ({(1, 2): 3}, "output has a key of type tuple"),
    ({b"k": 3}, "output has a key of type bytes"),
    ("\ud800", "output holds a lone surrogate"),
    (["ok", "\udfff"], "output[1] holds a lone surrogate"),
    ({"\udc00": 1}, "output has a key with a lone surrogate"),
    (deep(), "nested too deeply"),
    ({1, 2}, "output is of type set"),
    (Point(1), "output is of type Point"),
    (Odd(a=1), "no items today"),
    ([10**5000], "Exceeds the limit"),
])
def test_what_json_cannot_carry_is_named(value: object, place: str) -> None:
    with pytest.raises(BadOutput) as caught:
        encode(value)
    assert place in str(caught.value)
    assert encode({"a": [1]}) == b'{"a":[1]}', "the encoder must work after a failure"


def test_raw_outputs() -> None:
    assert output(b"x") == ("application/octet-stream", b"x")
    assert output(bytearray(b"x")) == ("application/octet-stream", b"x")
    assert output("x") == (None, b'"x"')
    assert output(Response(b"x", "image/png")) == ("image/png", b"x")
    assert output(Response("é")) == ("text/plain; charset=utf-8", "é".encode())


def test_a_response_is_checked_where_it_is_made() -> None:
    with pytest.raises(TypeError):
        Response({"a": 1})
    with pytest.raises(ValueError):
        Response(b"", "text/plain\r\nX-Evil: 1")


@pytest.mark.parametrize(("body", "value"), [
    (b'{"input":1}', 1), (b' {"input" : [1,"a"] } \n', [1, "a"]), (b'{"input":null}', None),
    (b'{"metadata":null,"input":{}}', {}), (b'{"input":"\\ud83d\\ude00"}', "\U0001f600"),
])
def test_input_of_the_envelope(body: bytes, value: object) -> None:
    assert call(body).input() == value


@pytest.mark.parametrize("body", [
    b"", b"{", b"{}", b"[]", b"1", b'"input"', b'{"input":1}x', b'{"input":NaN}',
    b'{"input":-Infinity}', b'{"input":"\xff"}', b'{"input":1,"metadata":[]}',
    b'{"input":' + b"[" * 100_000, b"{'input':1}",
])
def test_bad_input(body: bytes) -> None:
    with pytest.raises(BadInput):
        call(body).input()


@pytest.mark.parametrize("body", [b"null", b"1 ", b"\n[1, 2]\t"])
def test_decode(body: bytes) -> None:
    assert decode(body) == json.loads(body)


def test_other_content_types_are_bytes() -> None:
    assert call(b"\0\xff", content_type="image/png").input() == b"\0\xff"
    assert call(b'{"input":1}', content_type="application/json; charset=utf-8").input() == 1
    assert call(b'{"input":1}', content_type="Application/JSON").input() == 1


@pytest.mark.parametrize(("content_type", "is_it"), [
    ("application/json", True), ("Application/JSON ; charset=UTF-8", True),
    ('application/json;charset="utf-8"', True), ("application/json; v=1", True),
    ("application/json; charset=utf-16", False), ("application/json, text/plain", False),
    ("application/problem+json", True), ("application/a+json;charset=utf-16", False),
    ('Application/Vnd.Api+JSON; ext="a"; charset=us-ascii', True), ("application/+json", False),
    ("application/json+xml", False), ("application/jsonl", False), ("image/a+json", False),
    ("text/plain", False), ("", False),
])
def test_json_is_told_by_its_type(content_type: str, is_it: bool) -> None:
    """The runtime and the platform (`http1/src/media_type.rs`) have the same rules for content
    types."""
    assert is_json(content_type.encode()) is is_it
    it = call(b'{"input":1,"metadata":{"k":"v"}}', content_type=content_type)
    assert it.input() == (1 if is_it else it.body)
    assert it.metadata == ({"k": "v"} if is_it else None)


def test_context() -> None:
    it = call(b'{"input":1,"metadata":{"k":"v"}}', "X-Execution-Id: e1", "X-Trace-Id: t1",
              "X-Dispatch-Attempt: 3", "X-Deadline-Ms: 5000")
    assert it.input() == 1
    context = Context(it)
    assert (context.execution_id, context.trace_id, context.attempt) == ("e1", "t1", 3)
    assert context.metadata == {"k": "v"}
    assert context.headers["x-execution-id"] == "e1"
    assert 0 < context.remaining_ms() <= 5000
    bare = Context(call(b""))
    assert (bare.execution_id, bare.trace_id, bare.attempt) == (None, None, 1)
    assert bare.metadata == {} and bare.remaining_ms() is None


def test_describe_survives_a_bad_str() -> None:
    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(ValueError("bad")) == "ValueError: bad"
    assert describe(ValueError()) == "ValueError"
    assert describe(Bad()) == "Bad"


def test_async_is_seen_through_wrappers() -> None:
    import functools

    async def one(value):
        return value

    class Callable:
        async def __call__(self, value):
            return value

        async def method(self, value):
            return value

    assert is_async(one) and is_async(functools.partial(one)) and is_async(Callable())
    assert is_async(Callable().method) and not is_async(len) and not is_async(Callable)


@pytest.mark.parametrize(("source", "context"), [
    ("def handle(a): pass", False), ("def handle(a, b): pass", True),
    ("def handle(a, b=None): pass", True), ("def handle(*a): pass", False),
    ("def handle(a, *, b=1): pass", False), ("handle = str", False),
    ("class F:\n    def m(self, a, b): pass\nhandle = F().m", True),
    ("import functools\ndef f(a, b): pass\n@functools.wraps(f)\n"
     "def handle(*a, **k): return f(*a, **k)", True),
])
def test_signatures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str,
                    context: bool) -> None:
    module = _module(tmp_path, monkeypatch, source)
    assert Function(module, "handle", (b"POST",)).takes_context is context


@pytest.mark.parametrize("source", [
    "", "handle = 1", "def handle(): pass", "def handle(a, b, c): pass",
    "def handle(a, *, b): pass",
])
def test_signatures_that_cannot_be_called(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    module = _module(tmp_path, monkeypatch, source)
    with pytest.raises(NoFunction):
        Function(module, "handle", (b"POST",))


def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> str:
    name = f"module_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_idle_connections_are_kept_for_a_minute() -> None:
    assert (pod.QUIET_SWEEPS_MAX - 1) * pod.SWEEP_S >= 60
