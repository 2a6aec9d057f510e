"""The names that a function may import: an answer with a content type, exceptions that stop a call.

This module imports nothing. The process starts in `__main__`.
"""

from __future__ import annotations


class Response:
    """An answer with a content type of its own. The platform passes `body` on unchanged.

    `body` is bytes, or text that is sent as UTF-8. The constructor raises TypeError or ValueError
    for an answer that cannot be sent, so that the traceback names the function's line.
    """

    __slots__ = ("body", "content_type")

    def __init__(
        self, body: bytes | bytearray | memoryview | str, content_type: str | None = None
    ) -> None:
        if isinstance(body, str):
            self.body = body.encode()
            content_type = content_type or "text/plain; charset=utf-8"
        elif isinstance(body, (bytes, bytearray, memoryview)):
            self.body = bytes(body)
            content_type = content_type or "application/octet-stream"
        else:
            raise TypeError(f"Response.body must be bytes or str, not {type(body).__name__}")
        if not content_type.isascii() or not content_type.isprintable():
            raise ValueError(f"Response.content_type must be printable ASCII: {content_type!r}")
        self.content_type = content_type


class Event:
    """An event of a `text/event-stream`, which a generator yields.

    `data` is text, which may have several lines, or a value that is sent as JSON. The constructor
    raises TypeError or ValueError for an event that cannot be sent.
    """

    __slots__ = ("data", "event", "id", "retry")

    def __init__(self, data: object = None, event: str | None = None, id: str | None = None,
                 retry: int | None = None) -> None:
        for name, text in (("event", event), ("id", id)):
            if text is None:
                continue
            if not isinstance(text, str):
                raise TypeError(f"Event.{name} must be str, not {type(text).__name__}")
            if "\n" in text or "\r" in text or "\0" in text:
                raise ValueError(f"Event.{name} must be one line: {text!r}")
        if retry is not None and (not isinstance(retry, int) or retry < 0):
            raise ValueError(f"Event.retry must be whole milliseconds: {retry!r}")
        self.data = data
        self.event = event
        self.id = id
        self.retry = retry


class CallStopped(BaseException):
    """The runtime raises this in a plain function that has to end now. The class does not derive
    from `Exception`, so that a broad `except Exception` does not catch it. If the function still
    runs 100 ms later, its worker is killed."""


class DeadlineExceeded(CallStopped):
    """The call's deadline passed."""


class CallerLeft(CallStopped):
    """The caller closed the connection, so the caller will not read the answer."""


__all__ = ["CallStopped", "CallerLeft", "DeadlineExceeded", "Event", "Response"]
