"""Tests of the application alone: the page, a new entry, and refused requests."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("guestbook", Path(__file__).with_name("handler.py"))
guestbook = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guestbook)


def call(method: str, path: str = "/", body: bytes = b"") -> tuple[str, dict[str, str], str]:
    heads: list[tuple[str, list[tuple[str, str]]]] = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": "/fn/guestbook",
               "wsgi.input": io.BytesIO(body)}
    answer = guestbook.app(environ, lambda status, headers: heads.append((status, headers)))
    status, headers = heads[0]
    return status[:3], dict(headers), b"".join(answer).decode()


def test_an_entry_is_shown() -> None:
    status, headers, _ = call("POST", body=b"text=%3Cb%3Ehi+you")
    assert (status, headers["Location"]) == ("303", "/fn/guestbook/")
    status, headers, page = call("GET")
    assert (status, headers["Content-Type"]) == ("200", "text/html")
    assert "<li>&lt;b&gt;hi you</li>" in page and 'action="/fn/guestbook/"' in page


@pytest.mark.parametrize(("method", "path", "body", "status"), [
    ("POST", "/", b"", "400"), ("POST", "/", b"text=" + b"x" * 201, "400"),
    ("POST", "/", b"text=a&x=" + b"x" * 5000, "400"), ("GET", "/other", b"", "404"),
    ("PUT", "/", b"", "405"),
])
def test_refused_requests(method: str, path: str, body: bytes, status: str) -> None:
    assert call(method, path, body)[0] == status
