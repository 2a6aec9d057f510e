"""JSON lines on stderr, one write each, with the execution id of the call that is running.

Never imports `logging` by itself: `adopt_logging` speaks up for a function that did. Called by
everything else here; the platform reads the lines from the pod's stderr.
"""

from __future__ import annotations

import os
import sys
import time
from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call

# The async calls' own; a plain call is alone and found in `plain_call`.
CURRENT: ContextVar[Call | None] = ContextVar("nanofaas_call", default=None)
plain_call: Call | None = None

LINE_BYTES_MAX = 64 * 1024


def line(level: str, message: str, call: Call | None = None, **fields: object) -> None:
    """Writes one line; `fields` with None are left out. Never raises."""
    import json

    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    record: dict[str, object] = {
        "time": f"{stamp}.{int(now * 1000) % 1000:03d}Z",
        "level": level,
        "message": message[:LINE_BYTES_MAX],
    }
    call = call or plain_call or CURRENT.get()
    if call is not None:
        record["executionId"] = call.execution_id
        record["traceId"] = call.trace_id
        record["attempt"] = call.attempt
    record["function"] = os.environ.get("FUNCTION_NAME")
    record.update(fields)
    kept = {name: value for name, value in record.items() if value is not None}
    write_line(json.dumps(kept, default=str))


def write_line(text: str) -> None:
    """Puts a line on stderr in one write, so that the lines of two processes do not mix."""
    try:
        sys.stderr.flush()
        os.write(2, text.encode("utf-8", "backslashreplace") + b"\n")
    except (OSError, ValueError):
        pass  # A closed stderr must not stop a call.


def failure(message: str, error: BaseException, call: Call | None = None) -> None:
    """One line with the traceback, the runtime's own frames left out."""
    import traceback

    frames = error.__traceback__
    here = os.path.dirname(__file__)
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(here):
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # A __str__ of the function's own may raise.
        text = type(error).__name__
    line("error", message, call, traceback=text[-LINE_BYTES_MAX:])


_adopted = False


def adopt_logging() -> None:
    """Gives `logging` JSON lines with the execution id, unless the function set it up itself."""
    global _adopted
    if _adopted or "logging" not in sys.modules:
        return
    _adopted = True
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
