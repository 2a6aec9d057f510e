"""Writes JSON lines to stderr, each in one write, with the execution id of the running call.

The function can replace nothing that `line` uses: the module has its own descriptor, and binds its
names before the function is loaded. `adopt_logging` configures `logging` if the function imported
it. The platform reads the lines from stderr.
"""

from __future__ import annotations

import fcntl
import os
import sys
from contextvars import ContextVar
from json.encoder import encode_basestring_ascii as quote
from os import write
from time import gmtime, strftime, time

from .faults import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call

# The call of the current async task. A plain call runs alone and is in `plain_call`.
CURRENT: ContextVar[Call | None] = ContextVar("nanofaas_call", default=None)
plain_call: Call | None = None

LINE_BYTES_MAX = 64 * 1024

_function = os.environ.get("FUNCTION_NAME")
_stderr = 2


def reserve_stderr() -> None:
    """Keeps a descriptor of stderr that the function cannot close or redirect by accident."""
    global _stderr
    try:
        _stderr = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        _stderr = -1  # There is no stderr; descriptor 2 may later belong to another file.


def line(level: str, message: str, call: Call | None = None, **fields: object) -> None:
    """Writes one line without the `fields` that are None. Never raises an Exception."""
    try:
        now = time()
        stamp = strftime("%Y-%m-%dT%H:%M:%S", gmtime(now))
        record: dict[str, object] = {
            "time": f"{stamp}.{int(now * 1000) % 1000:03d}Z",
            "level": level,
            "message": message[:LINE_BYTES_MAX],
        }
        call = call or plain_call or CURRENT.get()
        if call is not None:
            record["executionId"] = call.execution_id
            record["traceId"] = call.logged_trace_id
            record["attempt"] = call.attempt
        record["function"] = _function
        record.update(fields)
        pairs = [f"{quote(name)}: {value if type(value) is int else quote(str(value))}"
                 for name, value in record.items() if value is not None]
        write_line("{" + ", ".join(pairs) + "}")
    except Exception:
        pass  # A log line that fails must not stop a call.


def write_line(text: str) -> None:
    """Writes a line to stderr by one system call, so that the lines of two processes do not mix."""
    try:
        write(_stderr, text.encode("utf-8", "backslashreplace") + b"\n")
    except (OSError, ValueError):
        pass  # A closed stderr must not stop a call.


def failure(message: str, error: BaseException, call: Call | None = None) -> None:
    """Writes one line with the traceback, without the runtime's own frames."""
    line("error", message, call, traceback=trace(error)[-LINE_BYTES_MAX:])


_adopted = False


def adopt_logging() -> None:
    """Makes `logging` write JSON lines with the execution id. If the function has set `logging` up,
    this does nothing."""
    global _adopted
    if _adopted or "logging" not in sys.modules:
        return
    _adopted = True
    try:
        _adopt()
    except Exception as error:  # The function may have its own `logging.py`.
        line("warn", f"logging is left as it is: {type(error).__name__}")


def _adopt() -> None:
    import logging

    root = logging.getLogger()
    if root.handlers:
        return

    class JsonLines(logging.Handler):
        """Writes each record through `line`."""

        def emit(self, record: logging.LogRecord) -> None:
            try:
                trace = None
                if record.exc_info and record.exc_info[0]:
                    trace = logging.Formatter().formatException(record.exc_info)
                line(record.levelname.lower(), record.getMessage(), logger=record.name,
                     traceback=trace)
            except Exception:
                self.handleError(record)

    root.addHandler(JsonLines())
    if root.level == logging.WARNING:
        root.setLevel(logging.INFO)
