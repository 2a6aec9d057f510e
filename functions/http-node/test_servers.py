"""Tests of the three servers without a runtime: http-node, http-go and http-java answer alike. A server
whose toolchain is not on this machine is skipped, with the reason."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = 120  # `go run` and `java` compile the server first.


def command(folder: Path) -> list[str]:
    """Returns the command with which the local backend starts the function."""
    line = re.search(r"^ {4}command: \[(.*)\]$", (folder / "function.yaml").read_text(), re.MULTILINE)
    assert line is not None
    return [word.strip() for word in line[1].split(",")]


@pytest.fixture(scope="module", params=["node", "go", "java"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    folder = Path(__file__).parent.parent / f"http-{request.param}"
    words = command(folder)
    if shutil.which(words[0]) is None:
        pytest.skip(f"NOT RUN: http-{request.param}, because {words[0]} is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    server = subprocess.Popen(words, cwd=folder, env=os.environ | {"PORT": str(free)},
                              start_new_session=True)
    try:
        wait_until_served(server, free)
        yield free
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(PATIENCE_S)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_until_served(server: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        assert server.poll() is None, "the server ended"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    pytest.fail("the server does not listen")


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)


def test_the_root_names_the_request(port: int) -> None:
    client = connect(port)
    client.request("GET", "/?a=%20b")
    answer = client.getresponse()
    told = json.loads(answer.read())
    assert (answer.status, told["method"], told["url"]) == (200, "GET", "/?a=%20b")
    client.request("HEAD", "/")
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    client.request("GET", "/health")
    assert client.getresponse().status == 404


def test_echo_returns_pieces_as_they_come(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        client.sendall(b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/x\r\n"
                       b"Transfer-Encoding: chunked\r\n\r\n")
        seen = b""
        for piece in (b"first", b"second"):
            client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            while piece not in seen:
                came = client.recv(4096)
                assert came, seen
                seen += came
        client.sendall(b"0\r\n\r\n")
        while not seen.endswith(b"0\r\n\r\n"):
            seen += client.recv(4096)
    assert b"content-type: text/x\r\n" in seen.lower()


def test_invoke_is_echo(port: int) -> None:
    client = connect(port)
    body = b'{"input": 1}'
    client.request("POST", "/invoke", body, {"Content-Type": "application/json"})
    answer = client.getresponse()
    assert (answer.read(), answer.headers["Content-Type"]) == (body, "application/json")


def test_events_come_one_by_one(port: int) -> None:
    client = connect(port)
    client.request("GET", "/events")
    answer = client.getresponse()
    assert answer.headers["Content-Type"] == "text/event-stream"
    pieces = []
    while piece := answer.read1(4096):
        pieces.append(piece)
    assert pieces == [b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"]
