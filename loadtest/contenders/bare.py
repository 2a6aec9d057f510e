"""A server for the least time that the first answer of a Python function can take. It makes the
imports of the runtime's worker and of the function, listens, and answers one call after another."""

import importlib
import json
import os
import socket

import resource  # noqa: F401
from nanofaas_runtime import log, plainloop, pod, settings, watchdog, worker  # noqa: F401


def serve(path, handle):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                answer(connection, handle)


def answer(connection, handle):
    """Answers one request. One read gets its head and body, because the load tool sends both
    in one write."""
    _, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    output = json.dumps(handle(json.loads(body)["input"])).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % len(output) + output)


if __name__ == "__main__":
    function = importlib.import_module(os.environ["HANDLER_MODULE"])
    serve(os.environ["BARE_SOCKET"], function.handle)
