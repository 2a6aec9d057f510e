"""The worker's life: load the function, initialise it, serve, go.

Never holds the listener alone (the watchdog does) and never outlives the watchdog. Called by
`__main__` in the process that the watchdog has forked.
"""

from __future__ import annotations

import fcntl
import gc
import io
import os
import signal
import sys
import time

from . import log
from .board import FINISHED, READY, SERVES
from .function import Function, NoFunction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .settings import Settings
    from .watchdog import Link

F_SETSIG = 10  # Linux; `fcntl` does not name it in Python 3.11.
LOAD_FAILED = 3


class LoadFailed(Exception):
    """The function could not be loaded; the reason is in the log already."""


def tie_to(lifeline: int) -> None:
    """The kernel kills this process when the watchdog, the pipe's only writer, is gone.

    It holds while the interpreter is held by C code, and needs no ctypes for `prctl`.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    try:
        if os.read(lifeline, 1) == b"":  # It went before the kernel was told.
            os._exit(1)
    except BlockingIOError:
        pass


def load(settings: Settings) -> Function:
    """The function, imported. Raises LoadFailed."""
    # What the function prints shows at once, also where stdout is a pipe.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        function = Function(settings.module, settings.entry)
    except NoFunction as error:
        log.line("error", f"cannot load the function: {error}")
        raise LoadFailed(str(error)) from None
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        log.failure(f"cannot load the function: importing {settings.module!r} raised {text}",
                    error)
        raise LoadFailed(text) from None
    log.adopt_logging()
    return function


async def initialise(function: Function) -> None:
    """Runs `init`, plain or async, on the loop that the calls will run on."""
    if function.init is not None:
        result = function.init()
        if hasattr(result, "__await__"):
            await result


def initialise_plain(function: Function) -> None:
    """Runs `init` without a loop; an async one gets a loop for its own time."""
    if function.init is not None:
        result = function.init()
        if hasattr(result, "__await__"):
            import asyncio

            async def wait() -> None:
                await result

            asyncio.run(wait())


def init_failed(error: BaseException) -> LoadFailed:
    """Logs what `init` raised."""
    text = f"{type(error).__name__}: {error}"
    log.failure(f"cannot load the function: init() raised {text}", error)
    return LoadFailed(f"init() raised {text}")


def run_worker(settings: Settings, link: Link) -> int:
    """The exit status: 0 after a drain, LOAD_FAILED where there is no function to run."""
    tie_to(link.lifeline)
    try:
        function = load(settings)
        loaded_at = time.time()
        if function.is_async:
            _serve_async(settings, link, function, loaded_at)
        else:
            _serve_plain(settings, link, function, loaded_at)
    except LoadFailed:
        return LOAD_FAILED
    link.sock.send(FINISHED + b"0")
    sys.stdout.flush()
    return 0


def _say_ready(link: Link, pod: Any, loaded_at: float) -> None:
    signal.signal(signal.SIGTERM, lambda *_: pod.begin_stop())
    # What was loaded lives as long as the process: no collection has to look at it again.
    gc.freeze()
    link.words[SERVES] = 1
    link.sock.send(READY + b"%d %d" % (loaded_at * 1000, time.time() * 1000))


def _init_ms(settings: Settings) -> float:
    return (time.time() - settings.started_at) * 1000


def _serve_plain(settings: Settings, link: Link, function: Function, loaded_at: float) -> None:
    assert link.listener is not None
    try:
        initialise_plain(function)
    except BaseException as error:
        raise init_failed(error) from None
    from .plainloop import PlainLoop
    from .pod import PlainPod

    pod = PlainPod(function, link.words, link.sock, _init_ms(settings))
    loop = PlainLoop(pod, link.listener, link.sock)
    _say_ready(link, pod, loaded_at)
    loop.run()


def _serve_async(settings: Settings, link: Link, function: Function, loaded_at: float) -> None:
    import asyncio

    from .asyncloop import Server, new_loop
    from .pod import AsyncPod

    assert link.listener is not None
    loop = new_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(initialise(function))
    except BaseException as error:
        raise init_failed(error) from None
    pod = AsyncPod(function, link.words, link.sock, _init_ms(settings), loop)
    server = Server(pod, link.listener, link.sock)
    _say_ready(link, pod, loaded_at)
    loop.run_until_complete(server.run())
