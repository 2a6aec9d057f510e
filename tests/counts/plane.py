"""The processes of the counts: nanofaas under a tool that counts, the echo that it calls, and a
client with a known number of connections. This module counts nothing."""

import atexit
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
PATIENCE_S = 60
PORTS_MAX = 10
INPUT = json.dumps("x" * 256)


def eventually(what, look):
    """Calls `look` until its result is true, and returns that result."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.01)
    raise SystemExit(f"counts: not within {PATIENCE_S} s: {what}")


def clean_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("NANOFAAS_")}


class Echo:
    """The echo function as two pods, on a port and on a Unix socket."""

    def __init__(self, folder):
        self.path = str(pathlib.Path(folder) / "echo.sock")
        self.pods = [self.start_on_a_port(), self.start({"NANOFAAS_SOCKET": self.path})]
        eventually("echo listens on its socket", pathlib.Path(self.path).exists)

    def start_on_a_port(self):
        """Tries several ports, because another process may take a free port before echo."""
        for _ in range(PORTS_MAX):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            pod = self.start({"PORT": str(self.port)})
            if eventually("echo listens, or has ended", lambda: self.listens(pod)) == "yes":
                return pod
            pod.wait()
        raise SystemExit(f"counts: echo found no port in {PORTS_MAX} tries")

    def listens(self, pod):
        if pod.poll() is not None:
            return "no"
        try:
            socket.create_connection(("127.0.0.1", self.port), PATIENCE_S).close()
        except ConnectionRefusedError:
            return None
        return "yes"

    @staticmethod
    def start(variables):
        return subprocess.Popen(
            [PROGRAMS / "echo"],
            env=clean_environment() | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def functions(self):
        """Yields a LOCAL function, a POOL function for each socket of echo, and the POOL function
        `http`, which is called at `/fn/`."""
        yield {"name": "local", "executionMode": "LOCAL", "concurrency": 64}
        urls = {
            "tcp": f"http://127.0.0.1:{self.port}/invoke",
            "unix": f"http+unix://{self.path}:/invoke",
        }
        urls["http"] = f"http://127.0.0.1:{self.port}/"
        for name, url in urls.items():
            yield {
                "name": name,
                "executionMode": "POOL",
                "endpointUrl": url,
                "concurrency": 64,
                "http": name == "http",
            }

    def stop(self):
        for pod in self.pods:
            pod.terminate()
            pod.wait()


class Plane:
    """nanofaas under `tool`, with the functions of an echo."""

    def __init__(self, folder, tool, flags, echo):
        functions = pathlib.Path(folder) / "functions"
        functions.mkdir(exist_ok=True)
        for function in echo.functions():
            (functions / f"{function['name']}.function.yaml").write_text(json.dumps(function))
        self.log = tempfile.TemporaryFile("w+", dir=folder)
        self.process = subprocess.Popen(
            [*tool, PROGRAMS / "nanofaas", "serve"]
            + ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0", "--backend", "none"]
            + ["--rate-max-per-second", "off", "--functions", functions, *flags],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.log,
        )
        # A count that fails does not call `stop`, so `end` also runs at exit.
        atexit.register(self.end)
        self.listen = eventually(f"{' '.join(map(str, tool[:1]))} nanofaas is ready", self.address)
        self.pid = self.find_pid()

    def lines(self):
        self.log.seek(0)
        return self.log.read().splitlines()

    def address(self):
        if self.process.poll() is not None:
            raise SystemExit("counts: nanofaas did not start:\n" + "\n".join(self.lines()))
        for line in self.lines():
            if line.startswith("{") and '"nanofaas is ready"' in line:
                host, port = json.loads(line)["listen"].rsplit(":", 1)
                return host, int(port)
        return None

    def find_pid(self):
        """Returns the PID of nanofaas: valgrind's own PID, or the PID of strace's child."""
        pid = self.process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else pid

    def end(self):
        if self.process.poll() is None:
            os.kill(self.find_pid(), signal.SIGTERM)
            self.process.wait(PATIENCE_S)

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)
        self.process.wait(PATIENCE_S)
        self.log.close()


class Client:
    """Connections to one function, each with one call at a time."""

    def __init__(self, plane, function, connections, pause_s=0):
        self.pause_s = pause_s
        body = f'{{"input":{INPUT}}}'
        # The function `http` is called as an HTTP server.
        target = "/fn/http/invoke" if function == "http" else f"/v1/functions/{function}:invoke"
        self.request = (
            f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self.connections = [self.connect(plane.listen) for _ in range(connections)]

    @staticmethod
    def connect(address):
        connection = socket.create_connection(address, timeout=PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def call(self, calls):
        """Makes the calls in rounds: sends on all connections, reads all answers, pauses."""
        for _ in range(calls // len(self.connections)):
            for connection in self.connections:
                connection.sendall(self.request)
            for connection in self.connections:
                self.answer(connection)
            if self.pause_s:
                time.sleep(self.pause_s)

    @staticmethod
    def answer(connection):
        received = b""
        while True:
            more = connection.recv(65536)
            received += more
            head, _, body = received.partition(b"\r\n\r\n")
            if not more or not head.startswith(b"HTTP/1.1 200 "[: len(head)]):
                raise SystemExit(f"counts: not an answer: {received!r}")
            if b"\r\n\r\n" in received:
                length = head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0]
                if len(body) == int(length):
                    return

    def close(self):
        for connection in self.connections:
            connection.close()
