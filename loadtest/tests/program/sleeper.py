"""A server that answers after the milliseconds in its first argument, on the port in its second.
If there is a third argument, the server starts a child and writes both pids into the file that the
argument names."""

import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DELAY_S = float(sys.argv[1]) / 1000


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path != "/ready":
            time.sleep(DELAY_S)
        body = self.path.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


if len(sys.argv) > 3:
    child = subprocess.Popen(["sleep", "300"])
    with open(sys.argv[3], "w") as file:
        file.write(f"{__import__('os').getpid()} {child.pid}")
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
