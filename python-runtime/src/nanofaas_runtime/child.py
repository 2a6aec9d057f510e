"""Keeps a process that the function forked (`os.fork`, `multiprocessing`) from answering calls.

In the child, Python runs `_after_fork` before `os.fork` returns. It closes the worker's
descriptors, sends nothing on any connection, and replaces shared state by copies. A child ends when
it returns from the function or raises. `worker` and `job` call `guard` before the function is
loaded.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from _thread import _local

from . import log
from .pod import Pod
from .stopsignal import StopHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .call import Call
    from .connection import Connection
    from .process import Link
    from .wire import Head

_exit = os._exit


class Belongings:
    """The descriptors and objects of a worker that its children must not keep."""

    __slots__ = ("epoll", "link", "loop", "pod")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.pod: Pod | None = None
        self.epoll: select.epoll | None = None  # The epoll of the plain loop.
        self.loop: Any = None  # The loop of asyncio or uvloop.


DEFAULTS = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}

_masks = _local()
_own: Belongings | None = None
_is_child = False


def guard(link: Link) -> Belongings:
    """Ensures that no later child of this process keeps `link` or the fields of the result."""
    global _own
    _own = Belongings(link)
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent,
                        after_in_child=_after_fork)
    return _own


def leave_if_child(status: int = 0) -> None:
    """Ends this process if it is a forked child. The runtime calls this wherever the function
    returns to it outside a call."""
    if _is_child:
        _leave(status)


def leave_if_child_for(error: BaseException, call: Call | None = None) -> None:
    """Ends this process if it is a forked child, in which the function raised `error`."""
    if _is_child:
        _leave_for(error, call)


def _before_fork() -> None:
    """Blocks SIGTERM and SIGINT until the child has its own handlers. Python would lose a signal
    that arrives before that, and `Process.terminate` would have no effect."""
    if not _is_child:
        _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, DEFAULTS)


def _after_fork_in_parent() -> None:
    if not _is_child:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _after_fork() -> None:
    global _is_child
    if _is_child or _own is None:
        return  # A child forked this process, and has already closed everything.
    _is_child = True
    own = _own
    _close_all(own)
    for each, default in DEFAULTS.items():
        if isinstance(signal.getsignal(each), StopHandler):  # Handlers of the function stay.
            signal.signal(each, default)
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)
    if own.loop is not None:
        _stop_loop(own.loop)


def _close_all(own: Belongings) -> None:
    """Closes the child's descriptors, and gives it copies of the shared state. `shutdown` would end
    the worker's connections."""
    link, pod = own.link, own.pod
    link.words = memoryview(bytearray(link.words)).cast("Q")
    socks = [link.sock]
    if link.listener is not None:
        socks.append(link.listener)
    if pod is not None:
        pod.words = link.words
        pod.control_block = link.words.cast("B")
        for connection in pod.connections.values():
            connection.control_block = pod.control_block
            socks.append(connection.sock)
        pod.__class__ = ChildPod
    for sock in socks:
        fd = sock.detach()  # The object must not close this number again after its reuse.
        if fd >= 0:
            os.close(fd)
    os.close(link.lifeline)
    if own.epoll is not None:
        own.epoll.close()


def _stop_loop(loop: Any) -> None:
    """Replaces the loop's epoll by an empty one, and ends the child at the loop's next step. Only
    the worker may run the tasks of other calls."""
    selector = getattr(loop, "_selector", None)
    number = selector.fileno() if selector is not None else loop._get_backend_id()
    empty = select.epoll()
    os.dup2(empty.fileno(), number, inheritable=False)
    empty.close()
    signal.set_wakeup_fd(-1)  # The worker reads uvloop's wake-up socket.
    ready = getattr(loop, "_ready", None)
    if ready is not None:  # uvloop hides this list; its ready callbacks run without effect.
        ready.clear()
    loop.call_soon(_leave_loop)


def _leave_loop() -> None:
    log.line("warn", "a forked child of the function came back to the event loop, which is its "
             "parent's: the child ends")
    _leave(1)


def _leave_for(error: BaseException, call: Call | None) -> NoReturn:
    if type(error) is SystemExit:
        code = error.code
        if code is None or type(code) is int:
            _leave(code or 0)
    log.failure("a forked child of the function raised", error, call)
    _leave(1)


def _leave(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass
    _exit(status & 0xFF)


class ChildPod(Pod):
    """The pod in a forked child. The process ends when a call ends in it."""

    def finish(self, connection: Connection, call: Call, value: object) -> None:
        _leave(0)

    def fail(self, connection: Connection, call: Call, error: BaseException) -> None:
        _leave_for(error, call)

    def stopped(self, connection: Connection, call: Call, why: int) -> None:
        _leave(1)

    def bad_input(self, connection: Connection, call: Call, error: BaseException) -> None:
        _leave(1)

    def request(self, connection: Connection, head: Head, body: bytes | bytearray) -> None:
        _leave(1)

    def connection_gone(self, connection: Connection) -> None:
        pass

    def ended(self, *_: object) -> None:
        pass

    def begin_stop(self) -> None:
        _leave(143)
