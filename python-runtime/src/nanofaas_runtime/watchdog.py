"""The parent process: holds the listening socket, and replaces a worker that died or hangs.

This process does not run the function, parse a call or import asyncio. It reads the running call
from the control block, and its duplicate of each connection's descriptor shows when a caller has
left. It signals a call that has to end, and kills and replaces a worker that does not stop.
`__main__` runs `Watchdog`.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time

from . import log
from .control_block import (ASLEEP, BEAT, CONNECTION, FINISHED, READY, SEQ, SERVES, STOP,
                            STREAMING, new_control_block)
from .listen import bind, unbind
from .process import OOM_TEXT, Link, Worker, how_ended, is_oom
from .stopsignal import STOP_SIGNAL, StopHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .busy import BusyResponder
    from .settings import Settings
    from .not_ready import NotReadyResponder
    from .watch import Watch

# The exit status of a worker that cannot load the function.
LOAD_FAILED = 3

# While calls come, the watchdog polls the control block every POLL_S. After IDLE_POLLS_MAX polls
# without a call it sleeps.
POLL_S = 0.025
IDLE_POLLS_MAX = 40
# While a worker loads, connections wait this long in the backlog before they get a 503.
NOT_READY_AFTER_S = 0.5
# If a worker died outside a call and within this time of its start, the next one starts after
# PAUSE_FIRST_S. Without this pause, a function that always ends its worker would keep the machine
# busy with forks.
YOUNG_S = 1.0
# The pauses after workers that died while they loaded: none after the first death, PAUSE_FIRST_S
# after the second, and twice as long after each further death, up to PAUSE_MAX_S.
PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 5.0
UNREADY_DEATHS_MAX = 5
# The time that a worker has to end after its FINISHED message. Threads of the function may delay
# its end.
EXIT_GRACE_S = 1.0
# A Job that is stopped has this time to finish posting its result.
JOB_STOP_S = 5.0
# The limit of descriptors: one for each slot, and about 3,000 for the function.
DESCRIPTORS = 4096


class Watchdog:
    """One pod. `run` returns the pod's exit status, or None in a worker that was just forked."""

    link: Link

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._words = new_control_block()
        self._listener: socket.socket | None = None
        self._worker: Worker | None = None
        self._not_ready: NotReadyResponder | None = None
        self._busy: BusyResponder | None = None
        self._epoll: select.epoll | None = None
        self._announced = False
        self._stop_asked = False
        self._stopping = False
        self._spawn_at: float | None = None
        self._pause_s = 0.0
        self._unready_deaths = 0
        self._idle_polls = 0

    def run(self) -> int | None:
        """Runs workers until the pod is stopped, the Job is done, or the function cannot be
        loaded."""
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
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._on_stop_signal)
        # The worker inherits this setting. A stop signal must not kill a worker before it has set
        # its handler.
        signal.signal(STOP_SIGNAL, signal.SIG_IGN)
        worker = self._spawn()
        if worker is None:
            return None
        epoll = self._begin()
        while True:
            if worker is not None:
                self._adopt(epoll, worker)
            while self._spawn_at is None or self._pause_left_s() > 0:
                for fd, _ in epoll.poll(self._wait_s()):
                    status = self._on_event(fd)
                    if status is not None:
                        return self._leave(status)
                self._look()
            worker = self._spawn()
            if worker is None:
                return None

    def _begin(self) -> select.epoll:
        """Sets up the parent's own state. `run` calls this after the first fork, so that the first
        worker does not wait for it."""
        self._epoll = epoll = select.epoll()
        self._wake, self._wake_write = socket.socketpair()
        self._wake.setblocking(False)
        self._wake_write.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        epoll.register(self._wake.fileno(), select.EPOLLIN)
        self._wake_write.send(b"\0")  # A signal may have come before the wake-up fd was set.
        if self._listener is not None:
            from .not_ready import NotReadyResponder

            self._not_ready = NotReadyResponder(epoll, self._listener, self._words)
        return epoll

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        self._stop_asked = True

    # --- workers ---

    def _spawn(self) -> Worker | None:
        """Forks a worker. Returns it in the parent, and None in the worker."""
        self._spawn_at = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        words = self._words
        for at in (*range(SEQ, BEAT + 1), SERVES, ASLEEP, STREAMING):
            words[at] = 0
        if self._settings.job is not None:
            from .job import publish

            publish(self._settings, self._settings.job, words)
        pid = os.fork()
        if pid == 0:
            self._become_worker(ours, theirs)
            return None
        try:
            os.setpgid(pid, pid)  # The child does this, too, because either may run first.
        except OSError:
            pass
        theirs.close()
        self._worker = Worker(pid, ours, self._settings.job is not None)
        return self._worker

    def _become_worker(self, ours: socket.socket, theirs: socket.socket) -> None:
        os.setpgid(0, 0)  # The worker leads a group, so that the function's children end with it.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (signal.SIGTERM, signal.SIGINT):  # A worker ignores them while it loads.
            signal.signal(each, StopHandler(lambda: None))
        ours.close()
        os.close(self._lifeline_write)
        if self._epoll is not None:
            self._epoll.close()
            self._wake.close()
            self._wake_write.close()
        if self._not_ready is not None:
            self._not_ready.close()
        if self._busy is not None:
            self._busy.close()
        self.link = Link(theirs, self._words, self._lifeline_read, self._listener)

    def _adopt(self, epoll: select.epoll, worker: Worker) -> None:
        """Starts to watch the worker that was just forked."""
        from .watch import Watch  # The worker does not need this import.

        if worker.sock is not None:
            epoll.register(worker.sock.fileno(), select.EPOLLIN)
        worker.watch = Watch(epoll, self._words, worker.pid)

    def _on_event(self, fd: int) -> int | None:
        """Handles an event of a descriptor. Returns the exit status if this process has to end,
        else None."""
        worker = self._worker
        if fd == self._wake.fileno():
            try:
                self._wake.recv(4096)
            except BlockingIOError:
                pass
            if self._stop_asked and not self._stopping:
                self._stopping = True
                if self._worker is None:
                    return 0
                self._read_link(self._worker)  # The worker's READY message may be unread.
                self._stop(self._worker)
            return self._reap()
        if self._busy is not None and self._busy.owns(fd):
            self._busy.on_event(fd, worker, self._stopping)
        elif self._not_ready is not None and self._not_ready.owns(fd):
            self._not_ready.on_event(fd)
        elif worker is not None and worker.sock is not None and fd == worker.sock.fileno():
            self._read_link(worker)
        elif worker is not None and worker.watch is not None:
            worker.watch.hung_up(fd)
        return None

    def _read_link(self, worker: Worker) -> None:
        """Reads all messages, so that every connection is known before the worker is reaped."""
        while worker.sock is not None:
            try:
                message, rights, _, _ = worker.sock.recvmsg(64, 64)
            except BlockingIOError:
                return
            except OSError:
                message, rights = b"", []
            kind = message[:1]
            if not kind:
                self._drop_link(worker)
                # The worker is usually dead. If not, it must be killed, because it can receive no
                # message.
                worker.kill_after(EXIT_GRACE_S, "its link to the watchdog was closed")
                return
            if kind == CONNECTION and rights and worker.watch is not None:
                worker.watch.add(message[1:], rights)
            elif kind == READY:
                self._worker_ready(worker, message[1:])
            elif kind == FINISHED:
                worker.finished = int(message[1:])
                worker.kill_after(EXIT_GRACE_S, "finished")
            self._idle_polls = 0

    def _drop_link(self, worker: Worker) -> None:
        if worker.sock is not None and self._epoll is not None:
            self._epoll.unregister(worker.sock.fileno())
            worker.sock.close()
            worker.sock = None

    def _worker_ready(self, worker: Worker, times: bytes) -> None:
        worker.ready = True
        self._unready_deaths = 0
        if self._not_ready is not None:
            self._not_ready.end()
        if self._stopping:
            self._tell_stop(worker)
        if self._settings.ready_url and not self._announced:
            self._announced = True
            from .announce import announce

            loaded_at, ready_at = map(int, times.split())
            announce(self._settings.ready_url, int(self._settings.started_at * 1000),
                     loaded_at, ready_at)

    def _reap(self) -> int | None:
        """Reaps all children that have ended. As process 1 of a container, this process also adopts
        and reaps orphans."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return None
            if ended is None:
                return None
            worker = self._worker
            if worker is None or ended.si_pid != worker.pid:
                os.waitpid(ended.si_pid, 0)
                continue
            worker.kill_group()  # The reap below frees the PID that names the group.
            _, how = os.waitpid(worker.pid, 0)
            status = self._worker_died(worker, os.waitstatus_to_exitcode(how))
            if status is not None:
                return status

    def _worker_died(self, worker: Worker, how: int) -> int | None:
        self._worker = None
        self._read_link(worker)
        self._drop_link(worker)
        stopped_why = 0
        if worker.watch is not None:
            stopped_why = worker.watch.stopped_why
            worker.watch.bury(*self._fate(worker, worker.watch, how))
        if self._settings.job is not None:
            if worker.finished is not None:
                return worker.finished
            from .job import after_worker

            return after_worker(self._settings, self._settings.job, how, stopped_why, worker)
        if worker.finished == LOAD_FAILED:
            return 1
        if self._stopping:
            return 0
        if worker.killed_for is None and worker.finished is None:
            what = "the worker was killed, most likely for want of memory (OOM)," if is_oom(
                how, worker) else how_ended(how)
            log.line("error", f"{what} and is replaced")
        return self._plan_next(worker)

    def _fate(self, worker: Worker, watch: Watch, how: int) -> tuple[int, str, str]:
        """Returns status, code and message for the calls of a dead worker. Status 0 means that they
        get no answer."""
        if is_oom(how, worker):
            return 500, "OOM", OOM_TEXT
        if worker.killed_for is None:
            return 502, "POD_LOST", how_ended(how)
        if watch.has_told():
            return 0, "", ""
        return 502, "POD_LOST", f"the worker was replaced: {worker.killed_for}"

    def _plan_next(self, dead: Worker) -> int | None:
        """Plans the start of the next worker, with a pause after an early death. Returns an exit
        status if too many workers in a row died while they loaded."""
        now = time.monotonic()
        if dead.ready:
            self._pause_s = 0.0
            by_itself = dead.killed_for is None and self._words[SEQ] == 0
            rests = by_itself and now - dead.born_at < YOUNG_S
            self._spawn_at = now + PAUSE_FIRST_S if rests else now
            return None
        self._unready_deaths += 1
        if self._unready_deaths >= UNREADY_DEATHS_MAX:
            log.line("error", f"gave up: {UNREADY_DEATHS_MAX} workers died while loading")
            return 1
        self._spawn_at = now + self._pause_s
        self._pause_s = min(max(self._pause_s * 2, PAUSE_FIRST_S), PAUSE_MAX_S)
        return None

    # --- polling ---

    def _wait_s(self) -> float:
        """Returns the seconds until the next timed action; -1 if none is planned."""
        now = time.monotonic()
        wait = -1.0
        worker = self._worker
        if worker is not None and worker.ready and worker.watch is not None:
            if self._words[ASLEEP] == 0 or worker.watch.pending():
                wait = worker.watch.look_again_s(POLL_S)
        times = [worker.kill_at if worker is not None else None, self._spawn_at]
        if self._not_ready is not None:
            times.append(self._not_ready.next_at(self._not_ready_from()))
        for at in times:
            if at is not None:
                left = max(0.0, at - now)
                wait = left if wait < 0 else min(wait, left)
        return wait

    def _not_ready_from(self) -> float | None:
        """Returns when the not-ready responder begins to answer; None if a worker answers or starts
        at once."""
        worker = self._worker
        if worker is None:
            return 0.0 if self._pause_left_s() > 0 else None
        return None if worker.ready else worker.born_at + NOT_READY_AFTER_S

    def _pause_left_s(self) -> float:
        return 0.0 if self._spawn_at is None else self._spawn_at - time.monotonic()

    def _look(self) -> None:
        now = time.monotonic()
        self._look_for_streams()
        if self._not_ready is not None:
            self._not_ready.turn(self._not_ready_from(), now)
        worker = self._worker
        if worker is None:
            return
        worker.kill_if_due(now)
        watch = worker.watch
        if watch is None or not worker.ready:
            return
        verdict = watch.poll()
        if verdict is not None and worker.killed_for is None:
            log.line("warn", f"the worker is replaced: {verdict}")
            worker.kill_now(verdict)
        self._fall_asleep(watch)

    def _look_for_streams(self) -> None:
        if self._busy is None:
            if not self._words[STREAMING] or self._epoll is None or self._listener is None:
                return
            from .busy import BusyResponder

            self._busy = BusyResponder(self._epoll, self._listener, self._words)
        self._busy.turn(self._worker)

    def _fall_asleep(self, watch: Watch) -> None:
        """Lets the watchdog sleep after IDLE_POLLS_MAX polls without a call. The BELL of the next
        call wakes it."""
        if watch.busy:
            self._idle_polls = 0
            self._words[ASLEEP] = 0
        elif self._words[ASLEEP] == 0:
            self._idle_polls += 1
            if self._idle_polls >= IDLE_POLLS_MAX:
                self._idle_polls = 0
                self._words[ASLEEP] = 1
                watch.poll_soon()  # A call may have begun after the poll.

    # --- the end ---

    def _stop(self, worker: Worker) -> None:
        """Handles a stop signal: stops a Job's call, or makes a ready worker drain. A worker that
        is not ready has no calls and is killed."""
        if self._settings.job is not None:
            if worker.watch is not None:
                worker.watch.stop_call()
            worker.kill_after(JOB_STOP_S, "stopped")
        elif worker.ready:
            self._tell_stop(worker)
        else:
            worker.kill_after(0.0, "stopped while loading")

    def _tell_stop(self, worker: Worker) -> None:
        try:
            os.kill(worker.pid, signal.SIGTERM)
            if worker.sock is not None:
                worker.sock.send(STOP)
        except OSError:
            pass  # The worker has ended; SIGCHLD will be handled next.

    def _leave(self, status: int) -> int:
        """Answers 503 to the clients in the backlog, and closes the listener. Returns `status`."""
        if self._not_ready is not None:
            self._not_ready.refuse_all()
        unbind(self._settings, self._listener)
        return status


def raise_descriptor_limit() -> None:
    """Raises the soft limit to DESCRIPTORS, or to the hard limit if that is lower."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < DESCRIPTORS:
        wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
