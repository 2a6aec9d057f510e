"""Finds the application that HANDLER_APP names, and whether it is an ASGI or a WSGI application.

`worker` makes an `Application` in place of a `Function`.
"""

from __future__ import annotations

from importlib import import_module

from . import paths
from .function import NoFunction, is_async
from .wire import failure, for_method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .connection import Connection
    from .pod import Pod
    from .wire import Head


class Application:
    """The application. `is_async` is true for ASGI, and false for WSGI."""

    __slots__ = ("entry", "is_async")

    generates = False

    def __init__(self, module: str, attribute: str) -> None:
        paths.show_folder()
        entry: Any = import_module(module)
        for name in attribute.split("."):
            entry = getattr(entry, name, None)
        if not callable(entry):
            raise NoFunction(f"HANDLER_APP: module {module!r} has no application {attribute!r}")
        self.entry: Callable[..., Any] = entry
        self.is_async = is_async(entry) or _is_asgi_by_parameters(entry, attribute)


def _is_asgi_by_parameters(entry: Any, name: str) -> bool:
    """Returns whether the parameters are `(scope, receive, send)`, not `(environ, start_response)`.
    Raises NoFunction for any other signature."""
    with paths.Standard():
        import inspect

    try:
        signature = inspect.signature(entry)
    except (TypeError, ValueError):
        return False
    for count in (2, 3):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count == 3
    raise NoFunction(f"HANDLER_APP: {name}{signature} is neither an ASGI application "
                     "(scope, receive, send) nor a WSGI application (environ, start_response)")


def refuse_invoke(pod: Pod, connection: Connection, head: Head) -> None:
    """Answers a call by `:invoke`, for which an application has no handler."""
    keep = pod.keeps(head)
    text = failure(head.echo(), 404, "NOT_FOUND",
                   "this function is an HTTP application: call it at /fn/", close=not keep)
    connection.send(for_method(head, text), keep)
