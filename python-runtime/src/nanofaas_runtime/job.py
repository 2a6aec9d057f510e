"""Job mode: runs one call, posts its result to the platform, and ends.

The deadline counts from the process's start, so it includes the time of loading. If the worker was
killed or exited before it posted a result, the watchdog posts one. `__main__` calls this module in
the worker, and `watchdog` calls it in the parent.

This module binds all names that it needs after the function ran. The function may replace
`os.close`, `__import__` or `sys.modules`, and its result must still be posted.
"""

from __future__ import annotations

import os
import signal
from os import close
from time import monotonic_ns, sleep, time
from types import AsyncGeneratorType, GeneratorType

from . import CallStopped, child, log, paths
from .control_block import CONN, DEADLINE, SEQ, WHY_DEADLINE
from .call import BadInput, Call, Context, code_of, describe, is_json, output
from .client import Unreachable, request
from .output import checked
from .process import OOM_TEXT, how_ended, is_oom
from .stopping import PlainRun, message_of
from .wire import failure_body, parse_head
from .worker import (LoadFailed, finish, init_failed, initialise, initialise_plain, load,
                     tie_to)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .child import Belongings
    from .function import Function
    from .process import Link, Worker
    from .settings import Job, Settings
    from .stream import Whole

TRIES = 3
PAUSES_S = (0.2, 1.0)
TRY_TIMEOUT_S = 10.0
JOB_SEQ = 1  # The call's number in the control block.
STATUS_STOPPED = 128 + signal.SIGTERM
STATUS_LOST = 1
# The number of descriptors that are kept free for the post: one for the name look-up, one for the
# connection, two spare.
SPARE = 4


class Outcome:
    """The result to post: a JSON output, a raw output with its content type, or an error."""

    __slots__ = ("body", "content_type", "error")

    def __init__(self, body: bytes = b"null", content_type: str | None = None,
                 error: tuple[str, str] | None = None) -> None:
        self.body = body
        self.content_type = content_type
        self.error = error


def publish(settings: Settings, job: Job, words: memoryview) -> None:
    """Puts the call and its deadline into the control block. The watchdog calls this before it
    forks the worker."""
    timeout_ms = job.timeout_ms
    age_ns = int((time() - settings.started_at) * 1e9)
    words[CONN] = 0
    words[DEADLINE] = monotonic_ns() - age_ns + timeout_ms * 1_000_000 if timeout_ms else 0
    words[SEQ] = JOB_SEQ


def run_job(settings: Settings, job: Job, link: Link) -> int:
    """Runs the Job in the worker. Returns the exit status: 0 if the platform accepted the result,
    or will never accept it."""
    tie_to(link.lifeline)
    own = child.guard(link)
    spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(SPARE)]
    run = PlainRun(link.words)
    times = {b"startedAt": settings.started_at}
    try:
        function = load(settings)
        times[b"loadedAt"] = time()
        if not function.is_async:
            try:
                initialise_plain(function)
            except BaseException as error:
                raise init_failed(error) from None
            times[b"readyAt"] = time()
        call = _call(job)
        call.deadline_ns = link.words[DEADLINE]
        if function.is_async:
            outcome = _run_async(function, call, times, own)
        else:
            outcome = _run_plain(run, function, call)
    except LoadFailed as error:
        outcome = Outcome(error=("HANDLER_ERROR", f"cannot load the function: {error}"))
    except Unreachable as error:
        log.line("error", f"cannot get the call's input: {error}", executionId=job.execution_id)
        return finish(link, STATUS_LOST)
    if outcome is None:
        child.leave_if_child(1)
        return finish(link, STATUS_STOPPED)
    child.leave_if_child(0 if outcome.error is None else 1)
    link.words[SEQ] = 0
    _release(spare)
    return finish(link, 0 if post(job, outcome, times) else STATUS_LOST)


def _release(spare: list[int]) -> None:
    for each in spare:
        try:
            close(each)
        except OSError:
            pass  # The function may have closed the descriptor.


def _call(job: Job) -> Call:
    # The inline payload is JSON without a content encoding.
    content_type, encoding, body = "application/json", None, (job.payload or "").encode()
    if job.payload_url is not None and job.payload is None:
        content_type, encoding, body = _fetch(job.payload_url)
    lines = ["POST /invoke HTTP/1.1", "Host: job", f"Content-Type: {content_type}",
             f"X-Execution-Id: {job.execution_id}", f"X-Dispatch-Attempt: {job.attempt}"]
    if encoding:
        lines.append(f"Content-Encoding: {encoding}")
    if job.trace_id is not None:
        lines.append(f"X-Trace-Id: {job.trace_id}")
    raw = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "replace")
    return Call(parse_head(raw, len(raw)), body)


def _fetch(url: str) -> tuple[str, str | None, bytes]:
    """Returns content type, content encoding and body of the input. Raises Unreachable."""
    status, headers, body = _retried("GET", url, b"", None)
    if status != 200:
        raise Unreachable(f"the platform answered {status}")
    content_type = headers.get("content-type") or "application/octet-stream"
    return content_type, headers.get("content-encoding"), body


def _retried(method: str, url: str, body: bytes,
             content_type: str | None) -> tuple[int, dict[str, str], bytes]:
    """Sends a request up to three times, if no answer comes or the answer is 408, 429 or 5xx.
    Raises Unreachable."""
    for pause in (*PAUSES_S, None):
        try:
            answer = request(method, url, body, content_type, TRY_TIMEOUT_S)
        except Unreachable:
            if pause is None:
                raise
        else:
            if pause is None or not (answer[0] in (408, 429) or answer[0] >= 500):
                return answer
        sleep(pause)
    raise AssertionError("the last try returns or raises")


def _run_plain(run: PlainRun, function: Function, call: Call) -> Outcome | None:
    """Runs the call. Returns None if the pod is being stopped: no result is posted, and the
    platform runs the call again."""
    log.plain_call = call
    try:
        argument = call.input()
        arguments = (argument, Context(call)) if function.takes_context else (argument,)
        value = run(JOB_SEQ, function.entry, *arguments)
        if type(value) is GeneratorType:
            value = run(JOB_SEQ, _whole().gather, value)
        return _returned(value, call)
    except CallStopped as error:
        # Without a stop by the run, the function raised CallStopped itself.
        return _stopped(run.why, call) if run.stopped == JOB_SEQ else _raised(error, call)
    except BadInput as error:
        return Outcome(error=("BAD_INPUT", str(error)))
    except BaseException as error:
        return _raised(error, call)


def _run_async(function: Function, call: Call, times: dict[bytes, float],
               own: Belongings) -> Outcome:
    with paths.Standard():
        import asyncio

        from .asyncloop import new_loop, run_to_end

    async def run() -> Outcome:
        try:
            await initialise(function)
        except BaseException as error:
            raise init_failed(error) from None
        times[b"readyAt"] = time()
        argument = call.input()
        log.CURRENT.set(call)
        arguments = (argument, Context(call)) if function.takes_context else (argument,)
        try:
            async with asyncio.timeout(_left_s(call)) as limit:
                value = function.entry(*arguments)
                if not function.streams:
                    value = await value
                if type(value) is AsyncGeneratorType:
                    value = await _whole().gather_async(value)
                elif type(value) is GeneratorType:
                    value = _whole().gather(value)
        except TimeoutError as error:
            if limit.expired():
                return Outcome(error=("TIMEOUT", DEADLINE_TEXT))
            return _raised(error, call)
        except BaseException as error:
            child.leave_if_child_for(error, call)
            return _raised(error, call)
        child.leave_if_child()
        return _returned(value, call)

    own.loop = loop = new_loop()
    asyncio.set_event_loop(loop)
    try:
        return run_to_end(loop, run())
    except BadInput as error:
        return Outcome(error=("BAD_INPUT", str(error)))


def _whole() -> Whole:
    """Makes the collector of a generator's values, which few functions need."""
    with paths.Standard():
        from .stream import Whole
    return Whole()


DEADLINE_TEXT = "the call's deadline passed while it was running"


def _left_s(call: Call) -> float | None:
    return max(0.0, (call.deadline_ns - monotonic_ns()) / 1e9) if call.deadline_ns else None


def _stopped(why: int, call: Call) -> Outcome | None:
    log.line("warn", f"call stopped: {message_of(why)}", call)
    return Outcome(error=("TIMEOUT", DEADLINE_TEXT)) if why == WHY_DEADLINE else None


def _raised(error: BaseException, call: Call) -> Outcome:
    child.leave_if_child_for(error, call)
    log.failure("the function raised", error, call)
    return Outcome(error=(code_of(error), describe(error)))


def _returned(value: object, call: Call) -> Outcome:
    """Returns the outcome of a call whose function returned `value`. The platform would take a body
    of type `application/json` for the result itself, so such an output is put inside the result. An
    output of another JSON type is posted with its type."""
    try:
        content_type, body = output(value)
        if content_type is not None:
            essence = content_type.partition(";")[0].strip(" \t")
            # The platform reads a body with a blank type as JSON.
            is_result = is_json(content_type.encode()) and not essence.lower().endswith("+json")
            if is_result or not content_type.strip(" "):
                content_type, body = None, checked(body)
    except BaseException as error:
        return _raised(error, call)
    return Outcome(body, content_type)


def post(job: Job, outcome: Outcome, times: dict[bytes, float]) -> bool:
    """Posts the result. Returns whether the platform's answer was final. Logs a failed post and a
    refused result."""
    body, content_type = outcome.body, outcome.content_type
    if outcome.error is not None or content_type is None:
        content_type = "application/json"
        error = failure_body(*outcome.error) if outcome.error else b"null"
        value = b"null" if outcome.error else body
        stamps = b"".join([b',"%b":%d' % (name, at * 1000) for name, at in times.items()])
        success = b"false" if outcome.error else b"true"
        body = b'{"success":%b,"output":%b,"error":%b%b}' % (success, value, error, stamps)
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


def after_worker(settings: Settings, job: Job, how: int, stopped_why: int, worker: Worker) -> int:
    """Posts a result for a worker that ended with `how` and sent no FINISHED. Returns the parent's
    exit status. If the worker had posted a result, the platform ignores this one."""
    if worker.killed_for is not None and stopped_why != WHY_DEADLINE:
        return STATUS_STOPPED
    if worker.killed_for is not None:
        error = ("TIMEOUT", DEADLINE_TEXT)
    elif is_oom(how, worker):
        error = ("OOM", OOM_TEXT)
    else:
        error = ("POD_LOST", how_ended(how))
        log.line("error", how_ended(how), executionId=job.execution_id)
    times = {b"startedAt": settings.started_at}
    return 0 if post(job, Outcome(error=error), times) else STATUS_LOST
