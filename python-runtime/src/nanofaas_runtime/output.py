"""Encodes a function's output as JSON, and explains an output that JSON cannot represent.

The module uses the C encoder of `json`. If that fails, slower Python code searches the part of the
output that JSON cannot represent.
"""

from __future__ import annotations

import json
from json.encoder import c_make_encoder, encode_basestring
from math import isfinite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DEPTH_SHOWN_MAX = 200


class BadOutput(Exception):
    """The message names the part of the output that JSON cannot represent."""


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} cannot be JSON")


_python = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_refuse
)


def _fresh_encoder():  # noqa: ANN202 - the C encoder's type has no name
    if c_make_encoder is None:
        return None
    return c_make_encoder({}, _refuse, encode_basestring, None, ":", ",", False, False, False)


_encoder = _fresh_encoder()


def encode(value: object) -> bytes:
    """Encodes a value as JSON. Raises BadOutput."""
    global _encoder
    try:
        if _encoder is None:
            return _python.encode(value).encode()
        chunks = _encoder(value, 0)
        return (chunks[0] if len(chunks) == 1 else "".join(chunks)).encode()
    except (TypeError, ValueError, RecursionError, AttributeError, OverflowError) as error:
        _encoder = _fresh_encoder()  # A failed encoder still marks containers as open.
        raise BadOutput(_explain(value, error)) from error
    except BaseException:
        _encoder = _fresh_encoder()
        raise


def encode_text(text: str) -> bytes:
    """Encodes text as UTF-8. Raises BadOutput."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadOutput("the output is not text: it holds a lone surrogate") from None


def checked(body: bytes) -> bytes:
    """Checks JSON that the function wrote and returns it unchanged; an empty body becomes `null`.
    Raises BadOutput.

    The parser makes bools of numbers, because `int` limits their digits and JSON does not.
    """
    if not body:
        return b"null"
    try:
        text = body.decode().strip(" \t\r\n")
        end = _scan(text, 0)[1]
    except StopIteration as error:
        raise BadOutput(f"the output is not JSON: no value at character {error.value}") from None
    except RecursionError:
        raise BadOutput("the output is not JSON: output is nested too deeply") from None
    except Exception as error:
        raise BadOutput(f"the output is not JSON: {error}") from None
    if end < len(text):
        raise BadOutput(f"the output is not JSON: a second value at character {end}")
    return body


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


# `scan_once` is a C function, so the function cannot replace a name that it uses.
_scan: Callable[[str, int], tuple[Any, int]] = getattr(
    json.JSONDecoder(parse_constant=_refuse_constant, parse_int=bool, parse_float=bool),
    "scan_once")


def _explain(value: object, error: BaseException) -> str:
    try:
        place = _find(value, "output", set(), 0)
    except Exception:  # A container class of the function may raise anything.
        place = None
    if place is None and isinstance(error, RecursionError):
        place = "output is nested too deeply"
    return f"the output is not JSON: {place or error}"


def _find(value: object, path: str, above: set[int], depth: int) -> str | None:
    """Returns the first part that JSON cannot represent, for example `output.a[3] is nan`."""
    if value is None or isinstance(value, (bool, int)):
        return None
    if isinstance(value, float):
        return None if isfinite(value) else f"{path} is {value}"
    if isinstance(value, str):
        return f"{path} holds a lone surrogate" if _torn(value) else None
    if not isinstance(value, (dict, list, tuple)):
        return f"{path} is of type {type(value).__name__}"
    if id(value) in above:
        return f"{path} contains itself"
    if depth > DEPTH_SHOWN_MAX:
        return "output is nested too deeply"
    above.add(id(value))
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int, float, bool, type(None))):
                return f"{path} has a key of type {type(key).__name__}"
            if isinstance(key, str) and _torn(key):
                return f"{path} has a key with a lone surrogate"
        inner = ((f"{path}.{key}", item) for key, item in value.items())
    else:
        inner = ((f"{path}[{at}]", item) for at, item in enumerate(value))
    for name, item in inner:
        found = _find(item, name, above, depth + 1)
        if found:
            return found
    above.discard(id(value))
    return None


def _torn(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)
