"""The parent process: holds the listening socket, and sees to it that a sound worker serves it.

Never runs the function, parses a call or imports asyncio. It learns what runs from the board, and
from its own descriptor of each connection when a caller left; it signals the call that has to
end, and kills and replaces the worker that does not listen. Called by `__main__`.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time

from . import log
from .board import ASLEEP, BEAT, CONNECTION, FINISHED, READY, SEQ, STOP, new_board
from .listen import bind, unbind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings
    from .standin import StandIn
    from .watch import Watch

# The worker's own: see `worker`.
LOAD_FAILED = 3

# How often the watchdog looks at the board while calls come; asleep after so many idle looks.
LOOK_S = 0.025
IDLE_LOOKS_MAX = 40
# While a worker loads, connections wait this long in the backlog before they get a 503.
STAND_IN_AFTER_S = 0.5
# A worker that died young is replaced after a pause that doubles.
YOUNG_S = 10.0
PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 5.0
UNREADY_DEATHS_MAX = 5
# From "finished" to the process's end; threads of the function may hold it up.
EXIT_GRACE_S = 1.0
FINISHED_WHY = "finished"
# All slots, and as many for the function itself.
DESCRIPTORS = 4096
# A Job that was told to stop while it posts its result may finish that.
JOB_STOP_S = 5.0


class Link:
    """What a worker inherits: its end of the link, the board, the listener, the lifeline."""

    __slots__ = ("lifeline", "listener", "sock", "words")

    def __init__(self, sock: socket.socket, words: memoryview, listener: socket.socket | None,
                 lifeline: int) -> None:
        self.sock = sock
        self.words = words
        self.listener = listener
        self.lifeline = lifeline


class Watchdog:
    """One pod. `run` returns its exit status, or None in a freshly forked worker."""

    link: Link

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._words = new_board()
        self._listener: socket.socket | None = None
        self._worker = 0
        self._sock: socket.socket | None = None
        self._watch: Watch | None = None
        self._ready = False
        self._announced = False
        self._stopping = False
        self._born_at = 0.0
        self._spawn_at: float | None = None
        self._pause_s = 0.0
        self._unready_deaths = 0
        self._kill_at: float | None = None
        self._killed_for: str | None = None
        self._killed = False
        self._finish_status = 0
        self._idle_looks = 0
        self._standin: StandIn | None = None

    def run(self) -> int | None:
        """Serves until told to stop, or until the function turns out not to load."""
        settings = self._settings
        if settings.job is None:
            try:
                self._listener = bind(settings)
            except OSError as error:
                where = settings.socket_path or f"port {settings.port}"
                log.line("error", f"cannot listen on {where}: {error}")
                return 1
        raise_descriptor_limit()
        self._lifeline_read, self._lifeline_write = os.pipe()
        if self._spawn():
            return None
        self._begin()
        while True:
            for fd, event in self._epoll.poll(self._wait_s()):
                status = self._on_event(fd, event)
                if status is not None:
                    return self._leave(status)
            if self._spawn_at is not None and time.monotonic() >= self._spawn_at:
                if self._spawn():
                    return None
                self._adopt()
            self._look()

    def _begin(self) -> None:
        """Sets up what only the parent has; after the first fork, so that it costs no start."""
        self._epoll = select.epoll()
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        self._wake, self._wake_write = wake_read, wake_write
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._epoll.register(wake_read.fileno(), select.EPOLLIN)
        wake_write.send(b"\0")  # A signal may have come before there was anybody to wake.
        if self._listener is not None:
            from .standin import StandIn

            self._standin = StandIn(self._epoll, self._listener)
        self._adopt()

    # --- workers ---

    def _spawn(self) -> bool:
        """Forks a worker; True in the worker."""
        self._spawn_at = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        words = self._words
        for at in range(SEQ, BEAT + 1):
            words[at] = 0
        words[ASLEEP] = 0
        if self._settings.job is not None:
            from .job import publish

            publish(self._settings, words)
        if self._worker == 0 and self._sock is None:
            # Before the first fork: the worker ignores these too, until it can drain.
            self._stop_asked = False
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, self._on_stop_signal)
        pid = os.fork()
        if pid == 0:
            self._become_worker(ours, theirs)
            return True
        theirs.close()
        self._worker, self._sock = pid, ours
        self._ready = self._settings.job is not None
        self._born_at = time.monotonic()
        self._kill_at = None
        self._killed_for = None
        self._killed = False
        return False

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        self._stop_asked = True

    def _become_worker(self, ours: socket.socket, theirs: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda *_: None)
        ours.close()
        os.close(self._lifeline_write)
        if self._standin is not None:
            self._epoll.close()
            self._standin.close()
            self._wake.close()
            self._wake_write.close()
        self.link = Link(theirs, self._words, self._listener, self._lifeline_read)

    def _adopt(self) -> None:
        """Starts to watch the worker that was just forked."""
        from .watch import Watch  # Here and not above: the worker starts without it.

        self._epoll.register(self._sock.fileno(), select.EPOLLIN)
        self._watch = Watch(self._epoll, self._words, self._worker)

    def _on_event(self, fd: int, event: int) -> int | None:
        """The exit status, when it is time."""
        if self._sock is not None and fd == self._sock.fileno():
            self._read_link()
        elif fd == self._wake.fileno():
            try:
                self._wake.recv(4096)
            except BlockingIOError:
                pass
            if self._stop_asked and not self._stopping:
                status = self._stop()
                if status is not None:
                    return status
            return self._reap()
        elif self._standin is not None and self._standin.owns(fd):
            self._standin.on_event(fd)
        elif self._watch is not None:
            self._watch.hung_up(fd)
        return None

    def _read_link(self) -> None:
        """Takes all messages: a connection's must be known before its worker's death is."""
        if self._sock is None:
            return
        while True:
            try:
                message, rights, _, _ = self._sock.recvmsg(64, 64)
            except BlockingIOError:
                return
            except OSError:
                message, rights = b"", []
            if not message:
                self._drop_link()
                if self._kill_at is None and self._killed_for is None:
                    # Dead, as a rule; where it is not, nobody could tell it anything any more.
                    self._kill_at = time.monotonic() + EXIT_GRACE_S
                return
            kind = message[:1]
            if kind == CONNECTION and rights:
                self._watch.add(message[1:], rights)
            elif kind == READY:
                self._worker_ready(message[1:])
            elif kind == FINISHED:
                self._kill_at = time.monotonic() + EXIT_GRACE_S
                self._killed_for = FINISHED_WHY
                self._finish_status = int(message[1:])
            self._idle_looks = 0

    def _drop_link(self) -> None:
        if self._sock is not None:
            self._epoll.unregister(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _worker_ready(self, times: bytes) -> None:
        self._ready = True
        self._unready_deaths = 0
        if self._standin is not None:
            self._standin.end()
        if self._stopping:
            self._tell_stop()
        if self._settings.ready_url and not self._announced:
            self._announced = True
            from .announce import announce

            loaded_at, ready_at = map(int, times.split())
            announce(self._settings.ready_url, int(self._settings.started_at * 1000),
                     loaded_at, ready_at)

    def _reap(self) -> int | None:
        """Buries what has died; as process 1 of a container, orphans of the function too."""
        status = None
        while True:
            try:
                pid, how = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return status
            if pid == 0:
                return status
            if pid == self._worker:
                status = self._worker_died(os.waitstatus_to_exitcode(how))

    def _worker_died(self, how: int) -> int | None:
        self._read_link()
        self._worker = 0
        was_ready, self._ready = self._ready, False
        killed_for, self._killed_for, self._kill_at = self._killed_for, None, None
        oom = how == -signal.SIGKILL and killed_for is None
        watch, self._watch = self._watch, None
        watch.bury(oom)
        self._drop_link()
        if self._settings.job is not None:
            from .job import after_worker

            if killed_for == FINISHED_WHY:
                return self._finish_status
            return after_worker(self._settings, how, watch.told_why, self._words[SEQ] != 0,
                                killed_for is not None)
        if how == LOAD_FAILED and not was_ready:
            return 1
        if self._stopping:
            return 0
        if killed_for is None:
            what = "was killed, most likely for want of memory (OOM)" if oom else (
                f"died of signal {-how}" if how < 0 else f"exited with status {how}")
            log.line("error", f"the worker {what} and is replaced")
        return self._plan_next(was_ready, killed_for is not None)

    def _plan_next(self, was_ready: bool, by_us: bool) -> int | None:
        """When the next worker starts; at once, unless they keep dying by themselves."""
        now = time.monotonic()
        if not was_ready:
            self._unready_deaths += 1
            if self._unready_deaths >= UNREADY_DEATHS_MAX:
                log.line("error", f"gave up: {UNREADY_DEATHS_MAX} workers died while loading")
                return 1
        if by_us or (was_ready and now - self._born_at >= YOUNG_S):
            self._pause_s = 0.0
        self._spawn_at = now + self._pause_s
        if not by_us:
            self._pause_s = min(max(self._pause_s * 2, PAUSE_FIRST_S), PAUSE_MAX_S)
        return None

    # --- looking ---

    def _wait_s(self) -> float:
        """Until something has to be done unasked; -1: nothing has."""
        now = time.monotonic()
        wait = -1.0
        if self._ready and (self._words[ASLEEP] == 0 or self._watch.pending()):
            wait = self._watch.look_again_s(LOOK_S)
        stand_in_at = self._standin and self._standin.next_at(self._stand_in_from())
        for at in (self._kill_at, self._spawn_at, stand_in_at):
            if at is not None:
                left = max(0.0, at - now)
                wait = left if wait < 0 else min(wait, left)
        return wait

    def _stand_in_from(self) -> float | None:
        """From when on this process answers by itself; None while a worker does."""
        if self._ready:
            return None
        return 0.0 if self._spawn_at is not None else self._born_at + STAND_IN_AFTER_S

    def _look(self) -> None:
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._killed_for = self._killed_for or "its link to the watchdog is closed"
            self._kill()
        if self._standin is not None:
            self._standin.turn(self._stand_in_from(), now)
        if not self._ready or self._worker == 0:
            return
        verdict = self._watch.look()
        if verdict is not None and not self._killed:
            self._killed = True
            self._killed_for = verdict
            log.line("warn", f"the worker is replaced: {verdict}")
            self._kill()
        if self._watch.busy:
            self._idle_looks = 0
            self._words[ASLEEP] = 0
        elif self._words[ASLEEP] == 0:
            self._idle_looks += 1
            if self._idle_looks >= IDLE_LOOKS_MAX:
                self._idle_looks = 0
                self._words[ASLEEP] = 1
                # A call may have begun between the look and the word.
                self._watch.look_soon()

    def _kill(self) -> None:
        if self._worker:
            os.kill(self._worker, signal.SIGKILL)

    # --- the end ---

    def _stop(self) -> int | None:
        """SIGTERM: the worker drains; one that is not ready has nothing to drain."""
        self._stopping = True
        if self._settings.job is not None:
            self._watch.stop_call()
            self._kill_at = time.monotonic() + JOB_STOP_S
            self._killed_for = "stopped"
            return None
        if self._ready:
            self._tell_stop()
            return None
        if self._worker == 0:
            return 0
        self._killed_for = "stopped while loading"
        self._kill()
        return None

    def _tell_stop(self) -> None:
        try:
            os.kill(self._worker, signal.SIGTERM)
            if self._sock is not None:
                self._sock.send(STOP)
        except OSError:
            pass  # It is gone: its death is on its way here.

    def _leave(self, status: int) -> int:
        """Tells who still waits in the backlog that nothing was run."""
        if self._standin is not None:
            self._standin.refuse_all()
        unbind(self._settings, self._listener)
        return status


def raise_descriptor_limit() -> None:
    """Room for all slots in both processes, where the hard limit gives it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < DESCRIPTORS:
        wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
