"""The environment, parsed one time into checked values.

This module uses no socket, and reads no file but /proc/self/stat. `__main__` calls it at the start.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET_PATH_MAX = 107
TIMEOUT_MS_MAX = 3_600_000
WITHOUT_MARKS = str.maketrans("", "", "!#$%&'*+-.^_`|~")  # The marks of a token in HTTP.


class BadSetting(Exception):
    """A variable that cannot be used. The message names the variable and its allowed values."""


class Job:
    """One call in Job mode: the source of its input and the address for its result."""

    __slots__ = ("attempt", "callback_url", "execution_id", "payload", "payload_url",
                 "timeout_ms", "trace_id")

    def __init__(self, env: Mapping[str, str]) -> None:
        self.callback_url = env["CALLBACK_URL"].rstrip("/")
        self.execution_id = env.get("EXECUTION_ID", "")
        if not self.execution_id:
            raise BadSetting("EXECUTION_ID must be set where CALLBACK_URL is (Job mode)")
        self.trace_id = env.get("TRACE_ID") or None
        self.attempt = _integer(env, "DISPATCH_ATTEMPT", 1, 0, 1_000_000)
        name = "INVOCATION_TIMEOUT_MS" if env.get("INVOCATION_TIMEOUT_MS") else "TIMEOUT_MS"
        self.timeout_ms = _integer(env, name, 0, 0, TIMEOUT_MS_MAX)
        self.payload = env.get("INVOCATION_PAYLOAD")
        self.payload_url = env.get("INVOCATION_PAYLOAD_URL") or None
        if self.payload is None and self.payload_url is None:
            raise BadSetting("Job mode needs INVOCATION_PAYLOAD or INVOCATION_PAYLOAD_URL")


class Settings:
    """How this pod runs. `started_at` is the process's start, in epoch seconds."""

    __slots__ = ("entry", "is_application", "job", "methods", "module", "port", "ready_url", "socket_path",
                 "started_at")

    entry: str
    is_application: bool
    job: Job | None
    methods: tuple[bytes, ...]
    module: str
    port: int
    ready_url: str | None
    socket_path: str | None
    started_at: float

    def _name_function(self, env: Mapping[str, str]) -> None:
        self.module = env.get("HANDLER_MODULE") or "handler"
        self.entry = env.get("HANDLER_FUNCTION") or "handle"
        if not _is_dotted(self.module):
            raise BadSetting(f"HANDLER_MODULE must be a module name: {self.module!r}")
        if not self.entry.isidentifier():
            raise BadSetting(f"HANDLER_FUNCTION must be a function name: {self.entry!r}")

    def _name_application(self, name: str, env: Mapping[str, str]) -> None:
        self.module, _, self.entry = name.partition(":")
        if not (_is_dotted(self.module) and _is_dotted(self.entry)):
            raise BadSetting(f"HANDLER_APP must be module:attribute: {name!r}")
        if env.get("CALLBACK_URL"):
            raise BadSetting("HANDLER_APP serves HTTP calls, and a Job (CALLBACK_URL) has none")

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Settings:
        """Parses the variables. Raises BadSetting."""
        self = cls()
        self.started_at = process_birth()
        application = env.get("HANDLER_APP") or ""
        self.is_application = application != ""
        if application:
            self._name_application(application, env)
        else:
            self._name_function(env)
        self.methods = _methods(env.get("HANDLER_METHODS") or "POST")
        self.socket_path = env.get("NANOFAAS_SOCKET") or None
        if self.socket_path and len(self.socket_path.encode()) > SOCKET_PATH_MAX:
            raise BadSetting(f"NANOFAAS_SOCKET may be {SOCKET_PATH_MAX} bytes long at most")
        self.port = _integer(env, "PORT", 8080, 0, 65535)
        self.ready_url = env.get("NANOFAAS_READY_URL") or None
        self.job = Job(env) if env.get("CALLBACK_URL") else None
        return self


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _methods(text: str) -> tuple[bytes, ...]:
    """Parses the methods of HTTP calls that the function takes. Raises BadSetting."""
    names = [name.strip(" ") for name in text.split(",")]
    for name in names:
        bare = name.translate(WITHOUT_MARKS)
        if not name or bare and not (bare.isascii() and bare.isalnum()):
            raise BadSetting(f"HANDLER_METHODS must be methods, such as GET,POST: {text!r}")
    return tuple([name.encode() for name in names])


def _integer(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name)
    if not text:
        return default
    if text.isascii() and text.isdigit() and len(text) < 16 and low <= int(text) <= high:
        return int(text)
    raise BadSetting(f"{name} must be a whole number from {low} to {high}: {text!r}")


def process_birth() -> float:
    """Returns the start of this process in epoch seconds, with the kernel's resolution of 10 ms. If
    the start is not known, returns the present time."""
    now = time.time()
    try:
        with open("/proc/self/stat", "rb") as stat:
            ticks = int(stat.read().rpartition(b")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / 100
    except (OSError, ValueError, IndexError):
        return now
    return now - age if 0 <= age < 60 else now
