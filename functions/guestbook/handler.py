"""A guestbook: a page with a form, as a WSGI application without a framework.

The entries are in memory, so they are lost with the pod, and every pod has its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from html import escape
from typing import Any
from urllib.parse import parse_qs

ENTRIES_MAX = 100
ENTRY_LENGTH_MAX = 200
BODY_BYTES_MAX = 4096

entries: deque[str] = deque(maxlen=ENTRIES_MAX)

PAGE = """<!doctype html><meta charset=utf-8><title>Guestbook</title><h1>Guestbook</h1>
<form method=post action="{root}/"><input name=text maxlength={length} required>
<button>Sign</button></form><ul>{entries}</ul>
"""


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """`GET /` shows the entries, `POST /` adds one."""
    method, root = environ["REQUEST_METHOD"], environ["SCRIPT_NAME"]
    if environ["PATH_INFO"] != "/":
        return _answer(start_response, "404 Not Found", "no such page")
    if method in ("GET", "HEAD"):
        items = "".join(f"<li>{escape(entry)}</li>" for entry in entries)
        page = PAGE.format(root=escape(root), length=ENTRY_LENGTH_MAX, entries=items)
        return _answer(start_response, "200 OK", page, ("Content-Type", "text/html"))
    if method != "POST":
        return _answer(start_response, "405 Method Not Allowed", "", ("Allow", "GET, HEAD, POST"))
    body = environ["wsgi.input"].read(BODY_BYTES_MAX + 1)
    text = parse_qs(body.decode("utf-8", "replace")).get("text", [""])[0].strip()
    if len(body) > BODY_BYTES_MAX or not 0 < len(text) <= ENTRY_LENGTH_MAX:
        return _answer(start_response, "400 Bad Request",
                       f"an entry has 1 to {ENTRY_LENGTH_MAX} characters")
    entries.appendleft(text)
    # The browser shows the page again, so that a reload does not send the form again.
    return _answer(start_response, "303 See Other", "", ("Location", f"{root}/"))


def _answer(start_response: Callable[..., object], status: str, text: str,
            *headers: tuple[str, str]) -> list[bytes]:
    start_response(status, list(headers) or [("Content-Type", "text/plain")])
    return [text.encode()]
