"""The worker: loads the function, initialises it, serves, and ends.

It shares the listener with the watchdog, and ends with it. `__main__` calls this module in the
process that the watchdog has forked.
"""

from __future__ import annotations

import fcntl
import gc
import io
import os
import signal
import sys
from time import time

from . import child, faults, log, paths
from .control_block import FINISHED, READY, SERVES
from .function import Function, NoFunction, mentions_asyncio
from .plainloop import PlainLoop
from .pod import PlainPod
from .process import end_with_watchdog
from .stopsignal import StopHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .application import Application
    from .process import Link
    from .settings import Settings

F_SETSIG = 10  # The number on Linux. `fcntl` does not name it in Python 3.11.
LOAD_FAILED = 3


class LoadFailed(Exception):
    """The function could not be loaded. The reason is already in the log."""


def tie_to(lifeline: int) -> None:
    """Makes the kernel kill this process's group when the watchdog, the only writer of the pipe
    `lifeline`, ends. A negative F_SETOWN names a group, to which the function's children belong.

    This also works while C code blocks the interpreter. `prctl` would need ctypes.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    try:
        if os.read(lifeline, 1) == b"":  # The watchdog has already ended.
            os._exit(1)
    except BlockingIOError:
        pass


def load(settings: Settings) -> Any:
    """Imports the function. Raises LoadFailed."""
    if mentions_asyncio(settings.module):
        import asyncio  # noqa: F401 - before the function's modules, which may replace parts of it
    # Line buffering shows the function's output at once, even if stdout is a pipe.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        function: Any
        if settings.is_application:
            function = _load_application(settings)
        else:
            function = Function(settings.module, settings.entry, settings.methods)
    except NoFunction as error:
        child.leave_if_child_for(error)
        log.line("error", f"cannot load the function: {error}")
        raise LoadFailed(str(error)) from None
    except BaseException as error:
        child.leave_if_child_for(error)
        text = faults.describe(error)
        log.failure(f"cannot load the function: importing {settings.module!r} raised {text}",
                    error)
        raise LoadFailed(text) from None
    child.leave_if_child()
    log.adopt_logging()
    return function


def _load_application(settings: Settings) -> Application:
    with paths.Standard():
        from .application import Application

    return Application(settings.module, settings.entry)


async def initialise(function: Function) -> None:
    """Runs `init`, plain or async, on the loop of the calls."""
    if function.init is not None:
        result = function.init()
        if hasattr(result, "__await__"):
            await result
        child.leave_if_child()


def initialise_plain(function: Function) -> None:
    """Runs `init` without a loop; an async `init` gets a temporary loop."""
    if function.init is not None:
        result = function.init()
        if hasattr(result, "__await__"):
            with paths.Standard():
                import asyncio

            async def wait() -> None:
                await result

            asyncio.run(wait())


def init_failed(error: BaseException, what: str = "init()") -> LoadFailed:
    """Logs what `init` raised, and returns the exception to raise for it."""
    child.leave_if_child_for(error)
    text = faults.describe(error)
    log.failure(f"cannot load the function: {what} raised {text}", error)
    return LoadFailed(f"{what} raised {text}")


def run_worker(settings: Settings, link: Link) -> int:
    """Runs the worker. Returns the exit status: 0 after a drain, LOAD_FAILED if the function cannot
    be loaded."""
    tie_to(link.lifeline)
    own = child.guard(link)
    try:
        function = load(settings)
        loaded_at = time()
        if settings.is_application:
            _serve_application(settings, own, function, loaded_at)
        elif function.is_async:
            _serve_async(settings, own, function, loaded_at)
        else:
            _serve_plain(settings, own, function, loaded_at)
    except LoadFailed:
        return finish(link, LOAD_FAILED)
    return finish(link, 0)


def finish(link: Link, status: int) -> int:
    """Reports to the watchdog that this process is about to exit with `status`, and returns it."""
    try:
        link.sock.send(FINISHED + b"%d" % status)
    except BlockingIOError:
        pass  # The watchdog is busy, but sees how this process ended.
    except OSError:
        end_with_watchdog()
    try:
        sys.stdout.flush()
    except Exception:
        pass  # The function may have replaced `stdout`.
    return status


def _say_ready(own: child.Belongings, pod: Any, loaded_at: float) -> None:
    link = own.link
    own.pod = pod
    signal.signal(signal.SIGTERM, StopHandler(pod.begin_stop))
    # Loaded objects live as long as the process, so the garbage collector need not search them.
    gc.freeze()
    link.words[SERVES] = 1
    link.sock.send(READY + b"%d %d" % (loaded_at * 1000, time() * 1000))


def _init_ms(settings: Settings) -> float:
    return (time() - settings.started_at) * 1000


def _serve_plain(settings: Settings, own: child.Belongings, function: Function,
                 loaded_at: float) -> None:
    link = own.link
    assert link.listener is not None
    try:
        initialise_plain(function)
    except BaseException as error:
        raise init_failed(error) from None
    child.leave_if_child()
    _run_plain(settings, own, function, loaded_at, PlainPod)


def _run_plain(settings: Settings, own: child.Belongings, function: Any, loaded_at: float,
               kind: type[PlainPod]) -> None:
    link = own.link
    assert link.listener is not None
    pod = kind(function, link.words, link.sock, _init_ms(settings))
    loop = PlainLoop(pod, link.listener, link.sock)
    own.epoll = loop.epoll
    _say_ready(own, pod, loaded_at)
    loop.run()


def _serve_async(settings: Settings, own: child.Belongings, function: Function,
                 loaded_at: float) -> None:
    with paths.Standard():
        import asyncio

        from .asyncloop import Server, new_loop, run_to_end
        from .asyncpod import AsyncPod

    link = own.link
    assert link.listener is not None
    own.loop = loop = new_loop()
    asyncio.set_event_loop(loop)
    try:
        run_to_end(loop, initialise(function))
    except BaseException as error:
        raise init_failed(error) from None
    child.leave_if_child()
    pod = AsyncPod(function, link.words, link.sock, _init_ms(settings), loop)
    server = Server(pod, link.listener, link.sock)
    _say_ready(own, pod, loaded_at)
    server.run()


def _serve_application(settings: Settings, own: child.Belongings, application: Any,
                       loaded_at: float) -> None:
    if application.is_async:
        _serve_asgi(settings, own, application, loaded_at)
    else:
        with paths.Standard():
            from .wsgi import WsgiPod

        _run_plain(settings, own, application, loaded_at, WsgiPod)


def _serve_asgi(settings: Settings, own: child.Belongings, application: Any,
                loaded_at: float) -> None:
    with paths.Standard():
        import asyncio

        from .asgi import AsgiPod
        from .asyncloop import Server, new_loop, run_to_end
        from .lifespan import Lifespan

    link = own.link
    assert link.listener is not None
    own.loop = loop = new_loop()
    asyncio.set_event_loop(loop)
    lifespan = Lifespan(application.entry)
    try:
        run_to_end(loop, lifespan.startup())
    except BaseException as error:
        raise init_failed(error, "the application's startup") from None
    child.leave_if_child()
    pod = AsgiPod(application, link.words, link.sock, _init_ms(settings), loop)
    pod.state = lifespan.state
    server = Server(pod, link.listener, link.sock)
    _say_ready(own, pod, loaded_at)
    server.run()
    run_to_end(loop, lifespan.shutdown())
