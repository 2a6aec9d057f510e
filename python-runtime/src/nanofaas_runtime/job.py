"""Job mode: one call, its result posted to the platform, and the end.

The deadline runs from the process's start, so loading counts. What the worker can no longer post
(killed over its deadline, or for want of memory) the watchdog posts. Called by `__main__` in the
worker and by `watchdog` in the parent.
"""

from __future__ import annotations

import signal
import sys
import time

from . import CallStopped, log
from .board import CONN, DEADLINE, FINISHED, SEQ, WHY_DEADLINE
from .client import Unreachable, request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .call import Call
    from .function import Function
    from .settings import Job, Settings
    from .stopping import PlainRun
    from .watchdog import Link

TRIES = 3
PAUSES_S = (0.2, 1.0)
TRY_TIMEOUT_S = 10.0
JOB_SEQ = 1  # The one call's number on the board.
STATUS_STOPPED = 128 + signal.SIGTERM
STATUS_LOST = 1


class Outcome:
    """What is posted: a JSON output, a raw one under its content type, or an error."""

    __slots__ = ("body", "content_type", "error")

    def __init__(self, body: bytes = b"null", content_type: str | None = None,
                 error: tuple[str, str] | None = None) -> None:
        self.body = body
        self.content_type = content_type
        self.error = error


def publish(settings: Settings, job: Job, words: memoryview) -> None:
    """The watchdog, before it forks: the call begins here, with its deadline."""
    timeout_ms = job.timeout_ms
    age_ns = int((time.time() - settings.started_at) * 1e9)
    words[CONN] = 0
    words[DEADLINE] = time.monotonic_ns() - age_ns + timeout_ms * 1_000_000 if timeout_ms else 0
    words[SEQ] = JOB_SEQ


def run_job(settings: Settings, job: Job, link: Link) -> int:
    """The worker's exit status: 0 once the result was posted or finally refused."""
    from .stopping import PlainRun
    from .worker import LoadFailed, initialise_plain, init_failed, load, tie_to

    tie_to(link.lifeline)
    run = PlainRun(link.words)
    times = [settings.started_at, 0.0, 0.0]
    try:
        function = load(settings)
        times[1] = time.time()
        if not function.is_async:
            try:
                initialise_plain(function)
            except BaseException as error:
                raise init_failed(error) from None
            times[2] = time.time()
        call = _call(job)
        call.deadline_ns = link.words[DEADLINE]
        if function.is_async:
            outcome = _run_async(function, call, times)
        else:
            outcome = _run_plain(run, function, call)
    except LoadFailed as error:
        outcome = Outcome(error=("HANDLER_ERROR", f"cannot load the function: {error}"))
    except Unreachable as error:
        log.line("error", f"cannot get the call's input: {error}", executionId=job.execution_id)
        return STATUS_LOST
    except CallStopped:
        return STATUS_STOPPED
    link.words[SEQ] = 0
    status = 0 if post(job, outcome, times) else STATUS_LOST
    link.sock.send(FINISHED + b"%d" % status)
    sys.stdout.flush()
    return status


def _call(job: Job) -> Call:
    from .call import Call
    from .wire import parse_head

    content_type, body = "application/json", (job.payload or "").encode()
    if job.payload_url is not None and job.payload is None:
        content_type, body = _fetch(job.payload_url)
    lines = ["POST /invoke HTTP/1.1", "Host: job", f"Content-Type: {content_type}",
             f"X-Execution-Id: {job.execution_id}", f"X-Dispatch-Attempt: {job.attempt}"]
    if job.trace_id is not None:
        lines.append(f"X-Trace-Id: {job.trace_id}")
    raw = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "replace")
    return Call(parse_head(raw, len(raw)), body)


def _fetch(url: str) -> tuple[str, bytes]:
    """Content type and body of the input. Raises Unreachable."""
    status, content_type, body = _retried("GET", url, b"", None)
    if status != 200:
        raise Unreachable(f"the platform answered {status}")
    return content_type or "application/octet-stream", body


def _retried(method: str, url: str, body: bytes,
             content_type: str | None) -> tuple[int, str | None, bytes]:
    """Tries TRIES times while trying may help: no answer, 408, 429, 5xx."""
    for pause in (*PAUSES_S, None):
        try:
            answer = request(method, url, body, content_type, TRY_TIMEOUT_S)
        except Unreachable:
            if pause is None:
                raise
        else:
            if pause is None or not (answer[0] in (408, 429) or answer[0] >= 500):
                return answer
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _run_plain(run: PlainRun, function: Function, call: Call) -> Outcome:
    from .call import BadInput, Context

    log.plain_call = call
    try:
        argument = call.input()
        if function.takes_context:
            return _returned(run(JOB_SEQ, function.entry, argument, Context(call)), call)
        return _returned(run(JOB_SEQ, function.entry, argument), call)
    except CallStopped as stop:
        return _stopped(stop, call)
    except BadInput as error:
        return Outcome(error=("BAD_INPUT", str(error)))
    except BaseException as error:
        return _raised(error, call)


def _run_async(function: Function, call: Call, times: list[float]) -> Outcome:
    import asyncio

    from .asyncloop import new_loop
    from .call import BadInput, Context
    from .worker import init_failed, initialise

    async def run() -> Outcome:
        try:
            await initialise(function)
        except BaseException as error:
            raise init_failed(error) from None
        times[2] = time.time()
        argument = call.input()
        log.CURRENT.set(call)
        arguments = (argument, Context(call)) if function.takes_context else (argument,)
        try:
            async with asyncio.timeout(_left_s(call)) as limit:
                value = await function.entry(*arguments)
        except TimeoutError as error:
            if limit.expired():
                return Outcome(error=("TIMEOUT", DEADLINE_TEXT))
            return _raised(error, call)
        except BaseException as error:
            return _raised(error, call)
        return _returned(value, call)

    loop = new_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(run())
    except BadInput as error:
        return Outcome(error=("BAD_INPUT", str(error)))


DEADLINE_TEXT = "the call's deadline passed while it was running"


def _left_s(call: Call) -> float | None:
    return max(0.0, (call.deadline_ns - time.monotonic_ns()) / 1e9) if call.deadline_ns else None


def _stopped(stop: CallStopped, call: Call) -> Outcome:
    from . import DeadlineExceeded

    log.line("warn", f"call stopped: {stop}", call)
    if isinstance(stop, DeadlineExceeded):
        return Outcome(error=("TIMEOUT", DEADLINE_TEXT))
    raise stop


def _raised(error: BaseException, call: Call) -> Outcome:
    from .call import describe

    log.failure("the function raised", error, call)
    return Outcome(error=("HANDLER_ERROR", describe(error)))


def _returned(value: object, call: Call) -> Outcome:
    from .call import output

    try:
        content_type, body = output(value)
    except BaseException as error:
        return _raised(error, call)
    return Outcome(body, content_type)


def post(job: Job, outcome: Outcome, times: list[float]) -> bool:
    """Whether the platform said anything final; what is left to say goes to the log."""
    from .wire import failure_body

    body, content_type = outcome.body, outcome.content_type
    if outcome.error is not None or content_type is None:
        content_type = "application/json"
        error = failure_body(*outcome.error) if outcome.error else b"null"
        output = b"null" if outcome.error else body
        stamps = b"".join(
            b',"%b":%b' % (name, b"%d" % (at * 1000) if at else b"null")
            for name, at in zip((b"startedAt", b"loadedAt", b"readyAt"), times, strict=True))
        success = b"false" if outcome.error else b"true"
        body = b'{"success":%b,"output":%b,"error":%b%b}' % (success, output, error, stamps)
    url = f"{job.callback_url}/{job.execution_id}:complete"
    try:
        status, _, _ = _retried("POST", url, body, content_type)
    except Unreachable as error:
        log.line("error", f"could not post the result: {error}", executionId=job.execution_id)
        return False
    if status >= 300:
        log.line("warn", f"the platform refused the result: {status}",
                 executionId=job.execution_id)
    return status < 500 and status not in (408, 429)


def after_worker(settings: Settings, job: Job, how: int, told_why: int, ran: bool,
                 killed: bool) -> int:
    """The parent's exit status, when its worker ended with `how`; posts what it could not.

    `ran` is whether the call was still without a result, `killed` whether it was by us.
    """
    if how >= 0:
        return how
    times = [settings.started_at, 0.0, 0.0]
    if killed and told_why == WHY_DEADLINE:
        outcome = Outcome(error=("TIMEOUT", DEADLINE_TEXT))
    elif killed:
        return STATUS_STOPPED
    elif how == -signal.SIGKILL and ran:
        outcome = Outcome(error=("OOM", "the worker was killed (SIGKILL), most likely because "
                                 "it ran out of memory"))
    else:
        log.line("error", f"the worker died of signal {-how}",
                 executionId=job.execution_id)
        return STATUS_LOST
    return 0 if post(job, outcome, times) else STATUS_LOST
