"""Finds the function, and checks it before the first call.

This module does not catch what the import of the function's module raises: `worker` does, and
reports it.
"""

from __future__ import annotations

from importlib import import_module

from . import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CO_GENERATOR = 0x20
CO_COROUTINE = 0x80
CO_ASYNC_GENERATOR = 0x200


class NoFunction(Exception):
    """The module has no usable function of that name. The message says what is needed."""


class Function:
    """The function and its `init`, with the facts of its signature."""

    __slots__ = ("entry", "generates", "init", "is_async", "methods", "streams", "takes_context")

    def __init__(self, module: str, name: str, methods: tuple[bytes, ...]) -> None:
        paths.show_folder()
        loaded = import_module(module)
        entry = getattr(loaded, name, None)
        if not callable(entry):
            raise NoFunction(f"module {module!r} has no function {name!r}: "
                             f"define `def {name}(input)` or set HANDLER_FUNCTION")
        self.entry: Callable[..., Any] = entry
        self.is_async = is_async(entry)
        self.generates = _has_flag(entry, CO_GENERATOR | CO_ASYNC_GENERATOR)
        self.streams = _has_flag(entry, CO_ASYNC_GENERATOR)
        self.takes_context = _parameters(entry, name) >= 2
        self.methods = methods  # HTTP calls may have these methods.
        init = getattr(loaded, "init", None)
        self.init: Callable[[], Any] | None = init if callable(init) else None


# A module that needs asyncio usually has one of these at the start of a line.
ASYNC = (b"\nasync def ", b"\nimport asyncio", b"\nfrom asyncio")


def mentions_asyncio(module: str) -> bool:
    """Whether the source in the handler's folder will probably need asyncio. A wrong guess costs
    only time: asyncio is then loaded later, or without need."""
    parts = module.split(".")
    for path in (paths.folder_file(*parts) + ".py", paths.folder_file(*parts, "__init__.py")):
        try:
            with open(path, "rb") as source:
                text = b"\n" + source.read()
                return any(each in text for each in ASYNC)
        except OSError:
            pass
    return False


def is_async(function: Any) -> bool:
    """Whether `function` needs an event loop, because it returns a coroutine or an async generator.
    The `async def` may be behind a partial or in `__call__`."""
    return _has_flag(function, CO_COROUTINE | CO_ASYNC_GENERATOR)


def _has_flag(function: Any, flags: int) -> bool:
    while hasattr(function, "func") and hasattr(function, "keywords"):
        function = function.func
    code = _code(function)
    if code is None and not isinstance(function, type):
        code = _code(getattr(function, "__call__", None))
    return bool(code is not None and code.co_flags & flags)


def _code(function: Any) -> Any:
    return getattr(getattr(function, "__func__", function), "__code__", None)


def _parameters(function: Any, name: str) -> int:
    """Returns the number of arguments for the function, 1 or 2. Raises NoFunction for another
    signature."""
    if type(function) is type(is_async) and not hasattr(function, "__wrapped__"):
        code = function.__code__
        if code.co_argcount in (1, 2) and not code.co_kwonlyargcount:
            return code.co_argcount
    with paths.Standard():
        import inspect  # Only unusual signatures need this import.

    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return 1
    positional = [each for each in signature.parameters.values()
                  if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    count = 2 if len(positional) >= 2 else 1
    try:
        signature.bind(*range(count))
    except TypeError:
        raise NoFunction(f"{name}{signature} must be callable as {name}(input) "
                         f"or {name}(input, context)") from None
    return count
