"""Starts real pods for the tests, exchanges bytes with them, and fakes the platform.

This module does not import the runtime. A pod is a process and a socket here, as it is for the
platform.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"
PATIENCE_S = 30.0


class Answer:
    """A whole HTTP answer."""

    def __init__(self, status: int, lines: list[str], body: bytes) -> None:
        pairs = [line.partition(":")[::2] for line in lines]
        self.status = status
        self._all = [(name.lower(), value.strip()) for name, value in pairs]
        self.headers = dict(self._all)
        self.body = body

    def all(self, name: str) -> list[str]:
        """Returns all values of a header, which may occur several times."""
        return [value for known, value in self._all if known == name]

    def json(self) -> object:
        return json.loads(self.body)


class Client:
    """One connection. Each wait has a time limit."""

    def __init__(self, address: str | int, host: str = "127.0.0.1") -> None:
        if isinstance(address, int):
            self.sock = socket.create_connection((host, address), PATIENCE_S)
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(PATIENCE_S)
            self.sock.connect(address)
        self._data = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def more(self) -> bytes:
        data = self.sock.recv(1 << 20)
        self._data += data
        return data

    def answer(self, head_only: bool = False) -> Answer:
        """Reads the next answer. Raises ConnectionError if the pod closes the connection before
        that."""
        while b"\r\n\r\n" not in self._data:
            if not self.more():
                raise ConnectionError(f"closed after {self._data!r}")
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        assert lines[0].startswith("HTTP/1.1 "), lines[0]
        answer = Answer(int(lines[0].split(" ")[1]), lines[1:], b"")
        if not head_only and "transfer-encoding" in answer.headers:
            pieces = self.pieces()
            if pieces.pop() is None:
                raise ConnectionError("closed within a body")
            answer.body = b"".join(pieces)
            return answer
        length = 0 if head_only else int(answer.headers.get("content-length", 0))
        while len(self._data) < length:
            if not self.more():
                raise ConnectionError("closed within a body")
        answer.body, self._data = self._data[:length], self._data[length:]
        return answer

    def head(self) -> Answer:
        """The head of the next answer, whose body `piece` reads."""
        return self.answer(head_only=True)

    def piece(self) -> bytes | None:
        """The next chunk of a body; empty at its end, None if the body was cut."""
        try:
            while b"\r\n" not in self._data:
                if not self.more():
                    return None
            size, _, self._data = self._data.partition(b"\r\n")
            while len(self._data) < int(size, 16) + 2:
                if not self.more():
                    return None
        except ConnectionResetError:
            return None
        data, self._data = self._data[:int(size, 16)], self._data[int(size, 16) + 2:]
        return data

    def pieces(self) -> list[bytes | None]:
        """All chunks up to the end of the body; the last is None if the body was cut."""
        found = [self.piece()]
        while found[-1]:
            found.append(self.piece())
        return found

    def at_end(self) -> bool:
        """Waits for the pod to close the connection. Returns False if the pod sends bytes
        instead."""
        if self._data:
            return False
        try:
            return not self.more()
        except ConnectionResetError:
            return True

    def invoke(self, value: object = None, **headers: object) -> Answer:
        self.send(request(value, **headers))
        return self.answer()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def http(method: str = "POST", path: str = "/", body: bytes = b"",
         content_type: str | None = None, **headers: object) -> bytes:
    """The bytes of an HTTP call, as the platform sends it for `/fn/`."""
    lines = [f"{method} {path} HTTP/1.1", "Host: pod", "X-Nanofaas-Call: http"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def request(value: object = None, body: bytes | None = None, method: str = "POST",
            path: str = "/invoke", content_type: str = "application/json",
            metadata: object = None, **headers: object) -> bytes:
    """Returns the bytes of a request. `x_deadline_ms=5` becomes a header `X-Deadline-Ms: 5`."""
    if body is None:
        envelope = {"input": value}
        if metadata is not None:
            envelope["metadata"] = metadata
        body = json.dumps(envelope).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: pod", f"Content-Type: {content_type}",
             f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Pod:
    """A running `python3 -m nanofaas_runtime`."""

    def __init__(self, folder: Path, source: str, env: dict[str, str],
                 site: str | None = None, tcp: bool = False) -> None:
        self.folder = folder
        (folder / "handler.py").write_text(textwrap.dedent(source))
        self.stderr_path = folder / "stderr"
        paths = [str(SRC)] + ([site] if site else [])
        whole = {name: value for name, value in os.environ.items()
                 if not name.startswith(("NANOFAAS_", "HANDLER_"))}
        whole |= {"PYTHONPATH": os.pathsep.join(paths), "FUNCTION_NAME": "fn"}
        self.address: str | int
        if tcp:
            self.address = free_port()
            whole["PORT"] = str(self.address)
        else:
            self._short = tempfile.TemporaryDirectory(prefix="pod")
            self.address = os.path.join(self._short.name, "s")
            whole["NANOFAAS_SOCKET"] = self.address
        whole |= env
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen([sys.executable, "-m", "nanofaas_runtime"],
                                            cwd=folder, env=whole, stderr=stderr)

    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def logs(self) -> list[dict[str, object]]:
        """Returns the stderr lines that are JSON objects."""
        found = []
        for line in self.stderr().splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
        return found

    def log_with(self, **fields: object) -> dict[str, object]:
        """Waits for a log line with these fields. A given value may be a part of the logged
        value."""
        def matches(line: dict[str, object]) -> bool:
            return all(str(text) in str(line.get(name)) for name, text in fields.items())
        return wait_for(lambda: next((line for line in self.logs() if matches(line)), None))

    def connect(self) -> Client:
        """Connects, as soon as the pod listens."""
        def attempt() -> Client | None:
            try:
                return Client(self.address)
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None, self.stderr()
                return None
        return wait_for(attempt)

    def health(self) -> int:
        with self.connect() as client:
            client.send(b"GET /health HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
            return client.answer().status

    def ready(self) -> Pod:
        wait_for(lambda: self.health() == 200)
        return self

    def invoke(self, value: object = None, **headers: object) -> Answer:
        with self.connect() as client:
            return client.invoke(value, **headers)

    def invoke_when_ready(self, value: object = None) -> Answer:
        """Repeats the call while the pod answers 503, because on a busy machine a pod may take long
        to be ready."""
        answers: list[Answer] = []

        def is_answered() -> bool:
            answers.append(self.invoke(value))
            return answers[-1].status != 503

        wait_for(is_answered)
        return answers[-1]

    def worker(self) -> int:
        """Returns the worker's process id."""
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return wait_for(lambda: next((int(pid) for pid in Path(path).read_text().split()), None))

    def term(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_status(self) -> int:
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        if hasattr(self, "_short"):
            self._short.cleanup()


def wait_for(look: object, patience_s: float = PATIENCE_S) -> object:
    """Calls `look` until its result is true, and returns that result."""
    until = time.monotonic() + patience_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until, "the condition was not met in time"
        time.sleep(0.005)


def gone(pid: int) -> bool:
    """Whether that process has ended. A zombie has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Platform:
    """An HTTP listener that records requests of pods, and sends scripted answers."""

    def __init__(self) -> None:
        self.got: queue.Queue[tuple[str, dict[str, str], bytes]] = queue.Queue()
        self.statuses: list[int] = []
        self.inputs: dict[str, tuple[str, bytes]] = {}
        self.encoding: str | None = None  # The content encoding of the inputs.
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(PATIENCE_S)
                self._one(sock)

    def _one(self, sock: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65536)
            if not piece:
                return
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip()
                   for line in lines[1:]}
        while len(body) < int(headers.get("content-length", 0)):
            body += sock.recv(1 << 20)
        method, path, _ = lines[0].split(" ")
        self.got.put((f"{method} {path}", headers, body))
        if path in self.inputs:
            content_type, text = self.inputs[path]
            encoding = f"Content-Encoding: {self.encoding}\r\n" if self.encoding else ""
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n%b"
                         % (content_type.encode(), encoding.encode(), len(text), text))
            return
        status = self.statuses.pop(0) if self.statuses else 204
        if status:
            sock.sendall(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)

    def next(self) -> tuple[str, dict[str, str], bytes]:
        return self.got.get(timeout=PATIENCE_S)

    def close(self) -> None:
        self._listener.close()


# The type of the fixture `start` in conftest.py, which starts a pod.
Start = Callable[..., Pod]


@contextlib.contextmanager
def platform() -> Iterator[Platform]:
    it = Platform()
    try:
        yield it
    finally:
        it.close()
