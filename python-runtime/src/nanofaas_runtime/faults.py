"""Formats an exception as text, whatever the function has changed in this process.

Formatting imports nothing, works without a free descriptor, and catches all that the exception's
own methods raise. Importing `traceback` at the start would take 5 ms, and later it may fail.
"""

from __future__ import annotations

import importlib
import stat
from os import O_CLOEXEC, O_NONBLOCK, O_RDONLY, close, fstat, open as open_file, path, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

# The limit, in characters, of an error text that the client gets. The log has more.
MESSAGE_MAX = 8192
# The limits of a traceback: causes, members and depth of groups, frames, equal frames in a row, and
# the bytes that are read of a source file.
CHAIN_MAX = 16
GROUP_MAX = 16
GROUP_DEPTH_MAX = 4
FRAMES_MAX = 64
SAME_FRAME_MAX = 3
SOURCE_BYTES_MAX = 1024 * 1024

# The files of the runtime and of the import. Leading frames from these files are not shown.
NOT_SHOWN = (path.join(path.dirname(__file__), ""), "<frozen importlib", str(importlib.__file__))
HEADING = "Traceback (most recent call last):\n"
CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def describe(error: BaseException) -> str:
    """Returns a text such as `ValueError: bad`, whatever the exception's `__str__` does."""
    try:
        name = str(type(error).__name__)
        text = str(error)
        return f"{name}: {text}"[:MESSAGE_MAX] if text else name
    except BaseException:
        return _name(error)


def _name(error: BaseException) -> str:
    try:
        return str(type(error).__name__)
    except BaseException:
        return "an exception that cannot be shown"


def trace(error: BaseException) -> str:
    """Returns the traceback in Python's form, without the runtime's own leading frames."""
    try:
        return _chain(error, 0)
    except BaseException:  # An attribute of the exception may raise anything.
        return describe(error)


def _chain(error: BaseException, depth: int) -> str:
    blocks: list[str] = []
    sources: dict[str, list[str]] = {}
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen and len(seen) < CHAIN_MAX:
        seen.add(id(at))
        blocks.append(_one(at, sources, depth))
        cause, context = at.__cause__, at.__context__
        if cause is not None:
            blocks.append(CAUSE)
            at = cause
        elif context is not None and not at.__suppress_context__:
            blocks.append(CONTEXT)
            at = context
        else:
            at = None
    if len(blocks) % 2 == 0:  # The chain was too long, or is a cycle.
        blocks.pop()
    return "".join(reversed(blocks))


def _one(error: BaseException, sources: dict[str, list[str]], depth: int) -> str:
    lines = [HEADING if error.__traceback__ is not None else ""]
    lines += _frames(error.__traceback__, sources)
    if isinstance(error, SyntaxError):
        lines += _place(error)
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except BaseException:
        text = "<exception str() failed>"
    lines.append(f"{name}: {text}\n" if text else f"{name}\n")
    lines += [f"{note}\n" for note in getattr(error, "__notes__", ())]
    if isinstance(error, BaseExceptionGroup) and depth < GROUP_DEPTH_MAX:
        for number, each in enumerate(error.exceptions[:GROUP_MAX], 1):
            block = f"---------------- {number} ----------------\n" + _chain(each, depth + 1)
            lines += [f"  | {line}\n" for line in block.splitlines()]
        if len(error.exceptions) > GROUP_MAX:
            lines.append(f"  and {len(error.exceptions) - GROUP_MAX} more\n")
    return "".join(lines)


def _frames(frames: TracebackType | None, sources: dict[str, list[str]]) -> list[str]:
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(NOT_SHOWN):
        frames = frames.tb_next
    shown: list[str] = []
    last = ""
    same = 0
    while frames is not None:
        code = frames.tb_frame.f_code
        text = f'  File "{code.co_filename}", line {frames.tb_lineno}, in {code.co_name}\n'
        same = same + 1 if text == last else 1
        last = text
        if same <= SAME_FRAME_MAX:
            shown.append(text + _source(code.co_filename, frames.tb_lineno, sources))
        elif same == SAME_FRAME_MAX + 1:
            shown.append("")
        if same > SAME_FRAME_MAX:
            more = same - SAME_FRAME_MAX
            shown[-1] = f"  [Previous line repeated {more} more time{'s' if more > 1 else ''}]\n"
        frames = frames.tb_next
    if len(shown) > FRAMES_MAX:
        half = FRAMES_MAX // 2
        shown[half:-half] = [f"  [{len(shown) - FRAMES_MAX} more frames]\n"]
    return shown


def _source(name: str, number: int | None, sources: dict[str, list[str]]) -> str:
    """Returns the source line, indented; empty if the file cannot be read."""
    if name not in sources:
        sources[name] = [] if name.startswith("<") else _read(name)
    lines = sources[name]
    text = lines[number - 1].strip() if number and number <= len(lines) else ""
    return f"    {text}\n" if text else ""


def _read(name: str) -> list[str]:
    try:
        descriptor = open_file(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        try:
            if not stat.S_ISREG(fstat(descriptor).st_mode):
                return []
            return read(descriptor, SOURCE_BYTES_MAX).decode("utf-8", "replace").split("\n")
        finally:
            close(descriptor)
    except (OSError, ValueError):
        return []


def _place(error: SyntaxError) -> list[str]:
    lines = [f'  File "{error.filename or "<string>"}", line {error.lineno or "?"}\n']
    if isinstance(error.text, str):
        text = error.text.rstrip("\n")
        bare = text.lstrip()
        lines.append(f"    {bare}\n")
        at = (error.offset or 0) - 1 - (len(text) - len(bare))
        if 0 <= at <= len(bare):
            lines.append(f"    {' ' * at}^\n")
    return lines
