"""One call: the function's arguments, and the bytes of its result.

This module uses no socket. Most calls need neither the ids nor the map of headers, so these are
read only on request.
"""

from __future__ import annotations

import json
from time import monotonic_ns

from . import Response, faults
from .output import BadOutput, encode, encode_text
from .wire import Head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

JSON_TYPE = b"application/json"
DEADLINE_NAME = b"\r\nx-deadline-ms:"
TEXT_TYPE = "text/plain; charset=utf-8"
# The charset parameters with which the platform reads a body as JSON.
UTF_8 = frozenset(b"charset=" + each for name in (b"utf-8", b"utf8", b"us-ascii")
                  for each in (name, b'"%b"' % name))


class BadInput(Exception):
    """A body that cannot be passed to the function. The message gives the reason."""


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
# `scan_once` is the C function inside `decode`. A direct call saves two searches for white space.
_scan: Callable[[str, int], tuple[Any, int]] = getattr(_decoder, "scan_once")
_decode = _decoder.decode


def decode(body: bytes | bytearray) -> Any:
    """Parses JSON text. Raises BadInput."""
    try:
        text = body.decode()
        try:
            value, end = _scan(text, 0)
            if end == len(text):
                return value
        except StopIteration:
            pass
        return _decode(text.strip(" \t\r\n"))
    except RecursionError:
        raise BadInput("the body's JSON is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"the body is not UTF-8 (at byte {error.start})") from None
    except ValueError as error:
        raise BadInput(f"the body is not JSON: {error}") from None


def is_json(content_type: bytes) -> bool:
    """Whether the platform reads a body of this type as JSON: `application/json`, or
    `application/*+json` (RFC 6839), in UTF-8."""
    kind, *parameters = [each.strip(b" \t") for each in content_type.lower().split(b";")]
    if kind != JSON_TYPE:
        tree, _, subtype = kind.partition(b"/")
        if tree != b"application" or not subtype.endswith(b"+json") or subtype == b"+json":
            return False
    return all(each in UTF_8 for each in parameters if each.startswith(b"charset="))


def output(value: object) -> tuple[str | None, bytes]:
    """Returns the content type (None for JSON) and the body of a function's result. Raises
    BadOutput."""
    if isinstance(value, Response):
        return value.content_type, value.body
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "application/octet-stream", bytes(value)
    return None, encode(value)


class Call:
    """A call as it arrived. `deadline_ns` is on the monotonic clock, and 0 if there is no deadline.
    `echo` is `Head.echo`, taken before the function runs, which could change it."""

    __slots__ = ("body", "deadline_ns", "echo", "head", "metadata", "stopped", "task")

    def __init__(self, head: Head, body: bytes | bytearray) -> None:
        self.head = head
        self.body = body
        self.echo = head.echo()
        self.metadata: dict[str, Any] | None = None
        self.stopped = 0
        self.task: Any = None
        self.deadline_ns = 0
        start = head.lower.find(DEADLINE_NAME)
        if start >= 0:
            start += len(DEADLINE_NAME)
            left = head.raw[start:head.raw.index(b"\r\n", start)].strip(b" \t")
            if left.isdigit() and len(left) < 10:
                self.deadline_ns = monotonic_ns() + int(left) * 1_000_000

    @property
    def execution_id(self) -> str | None:
        return self._text(b"x-execution-id")

    @property
    def trace_id(self) -> str | None:
        return self._text(b"x-trace-id")

    @property
    def logged_trace_id(self) -> str | None:
        """The id that links log lines of one trace: `X-Trace-Id`, or the trace in `traceparent`."""
        parts = (self._text(b"traceparent") or "").split("-")
        of_parent = parts[1] if len(parts) > 2 and len(parts[1]) == 32 else None
        return self.trace_id or of_parent

    @property
    def attempt(self) -> int:
        text = self.head.header(b"x-dispatch-attempt") or b""
        return int(text) if text.isdigit() and len(text) < 10 else 1

    @property
    def headers(self) -> dict[str, str]:
        return self.head.headers()

    def _text(self, name: bytes) -> str | None:
        value = self.head.header(name)
        return None if value is None else value.decode("latin-1")

    output = staticmethod(output)

    def input(self) -> Any:
        """Returns the function's input: the envelope's `input`, or the unchanged bytes. Raises
        BadInput."""
        content_type = self.head.header(b"content-type") or b""
        if content_type != JSON_TYPE and not is_json(content_type):
            return bytes(self.body)
        envelope = decode(self.body)
        try:
            value = envelope["input"]
        except (KeyError, TypeError, IndexError):
            raise BadInput('the body must be {"input": …, "metadata": {…}}') from None
        metadata = envelope.get("metadata")
        if metadata is not None:
            if not isinstance(metadata, dict):
                raise BadInput("metadata must be an object")
            self.metadata = metadata
        return value


class HttpCall(Call):
    """A call by `/fn/`, whose input and output have no envelope."""

    __slots__ = ()

    def input(self) -> Any:
        """Returns a JSON body as its value, an empty body as None, and any other body as bytes.
        Raises BadInput."""
        head, body = self.head, self.body
        if not body:
            return None
        if is_json(head.header(b"content-type") or b"") and not head.header(b"content-encoding"):
            return decode(body)
        return bytes(body)

    @staticmethod
    def output(value: object) -> tuple[str | None, bytes]:
        """Returns the content type and the body of a function's result. Raises BadOutput."""
        if isinstance(value, str):
            return TEXT_TYPE, encode_text(value)
        content_type, body = output(value)
        return content_type or "application/json", body


class Context:
    """The second argument of a function with two parameters."""

    __slots__ = ("_call", "_headers")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._headers: dict[str, str] | None = None

    @property
    def execution_id(self) -> str | None:
        """The platform's id of this call."""
        return self._call.execution_id

    @property
    def trace_id(self) -> str | None:
        """The client's `X-Trace-Id`."""
        return self._call.trace_id

    @property
    def attempt(self) -> int:
        """1 for the first attempt, 2 for the second."""
        return self._call.attempt

    @property
    def method(self) -> str:
        """The request's method; `POST` for a call by `:invoke`."""
        return self._call.head.method.decode("latin-1")

    @property
    def path(self) -> str:
        """The request's path as the client sent it, percent-encoded, without the query."""
        return self._call.head.target.partition(b"?")[0].decode("latin-1")

    @property
    def query(self) -> str:
        """The request's query as the client sent it, without the `?`."""
        return self._call.head.target.partition(b"?")[2].decode("latin-1")

    @property
    def metadata(self) -> dict[str, Any]:
        """The envelope's `metadata`; empty if the envelope has none."""
        if self._call.metadata is None:
            self._call.metadata = {}
        return self._call.metadata

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers, with their names in lower case."""
        if self._headers is None:
            self._headers = self._call.headers
        return self._headers

    def remaining_ms(self) -> float | None:
        """Returns the milliseconds until the deadline, and 0 after it; None if there is no
        deadline."""
        deadline = self._call.deadline_ns
        if not deadline:
            return None
        return max(0.0, (deadline - monotonic_ns()) / 1e6)


def code_of(error: BaseException) -> str:
    """Returns the error code for an exception of the function or for an output that is not JSON."""
    return "BAD_OUTPUT" if type(error) is BadOutput else "HANDLER_ERROR"


def describe(error: BaseException) -> str:
    """Returns a text such as `ValueError: bad`, whatever the exception's `__str__` does."""
    if type(error) is BadOutput:
        return str(error)[:faults.MESSAGE_MAX]
    return faults.describe(error)
