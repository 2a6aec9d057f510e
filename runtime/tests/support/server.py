"""An HTTP server that uses nothing of the platform. Tests of the watchdog start it as the program.
It listens on PORT only."""

import json
import os
import select
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(os.environ["D"])
PATIENCE_S = 60


def wait_for(name: str) -> None:
    """Waits until the test creates the file."""
    end = time.monotonic() + PATIENCE_S
    while not (FOLDER / name).exists():
        if time.monotonic() > end:
            sys.exit(f"{name} did not come")
        time.sleep(0.005)


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunk(self, body: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))

    def begin_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def read_chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        body = self.rfile.read(size)
        self.rfile.readline()
        return body

    def tell(self) -> None:
        """Answers with the parts of the request, as JSON."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told = {"method": self.command, "target": self.path, "body": body.decode("latin-1"),
                "headers": [[name.lower(), value] for name, value in self.headers.items()]}
        self.send(int(self.headers.get("X-Status", 200)), json.dumps(told).encode(),
                  X_Nanofaas_Answer="forged", X_Execution_Id="own", X_Own="1")

    def stream(self) -> None:
        """Sends the second piece when the test has created a file."""
        self.begin_chunks()
        self.chunk(b"first")
        wait_for("gate")
        self.chunk(b"second")
        self.wfile.write(b"0\r\n\r\n")

    def upload(self) -> None:
        """Answers each chunk of the body as it comes."""
        self.begin_chunks()
        while body := self.read_chunk():
            self.chunk(body.upper())
        self.wfile.write(b"0\r\n\r\n")

    def until_close(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"to the end")

    def early(self) -> None:
        self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Nanofaas-Answer: f\r\n\r\n")
        self.send(200, b"late")

    def die(self) -> None:
        """Ends the process before the answer, or within a body in chunks or of known length."""
        where = self.path.partition("?")[2]
        if where == "chunked":
            self.begin_chunks()
            self.chunk(b"half")
        elif where == "length":
            self.send_response(200)
            self.send_header("Content-Length", "9")
            self.end_headers()
            self.wfile.write(b"half")
        os._exit(3)

    def hang(self) -> None:
        """Waits until the connection ends. Without a query, it sends the answer's head before;
        with `silent` it sends nothing; with `unread` it also leaves the body unread."""
        how = self.path.partition("?")[2]
        if not how:
            self.begin_chunks()
        (FOLDER / "began").touch()
        if how != "unread":
            # The read of an incomplete body ends with the connection.
            with suppress(ConnectionResetError):
                self.rfile.read(int(self.headers["Content-Length"]))
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        if poll.poll(PATIENCE_S * 1000):
            (FOLDER / "left").touch()

    def serve(self) -> None:
        path = self.path.partition("?")[0]
        special = {"/stream": self.stream, "/upload": self.upload, "/early": self.early,
                   "/until-close": self.until_close, "/die": self.die, "/hang": self.hang}
        special.get(path, self.tell)()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_BREW = serve


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Server).serve_forever()
