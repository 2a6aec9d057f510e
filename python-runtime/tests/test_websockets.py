"""WebSockets of an ASGI application: the handshake, messages, the close, faults."""

from __future__ import annotations

import struct

import pytest
from pods import Answer, Client, Pod, Start, http, wait_for

SOURCE = """
    import asyncio

    def mark(text):
        with open("marks", "a") as marks:
            marks.write(text + "\\n")

    async def app(scope, receive, send):
        if scope["type"] != "websocket": raise ValueError(scope["type"])
        assert (await receive())["type"] == "websocket.connect"
        do = scope["path"].rpartition("/")[2]
        if do == "refuse":
            await send({"type": "websocket.close"})
            return
        if do == "nothing": return
        if do == "raise": raise ValueError("bad")
        await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[0],
                    "headers": [(b"X-Path", scope["path"].encode())]})
        if do == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        if do == "late": raise ValueError("late")
        if do == "flood":
            while True:
                mark("sent")
                await send({"type": "websocket.send", "bytes": b"x" * 65536})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                mark(f"{message['code']}:{message['reason']}")
                return
            await send({"type": "websocket.send", **{name: message[name] for name in (
                "text", "bytes") if name in message}})
"""
HANDSHAKE = {"connection": "keep-alive, Upgrade", "upgrade": "websocket",
             "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==", "sec_websocket_version": "13"}
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@pytest.fixture
def pod(start: Start, loop: str) -> Pod:
    return start(SOURCE, loop=loop, HANDLER_APP="handler:app").ready()


def shake(client: Client, path: str = "/", **headers: object) -> Answer:
    client.send(http("GET", path, **HANDSHAKE | headers))
    return client.head()


def frame(opcode: int, data: bytes, last: bool = True, mask: bytes = b"\1\2\3\4") -> bytes:
    size = len(data)
    head = struct.pack("!B", opcode | (0x80 if last else 0))
    if size < 126:
        head += struct.pack("!B", 0x80 | size)
    elif size < 65536:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


def take(client: Client, count: int) -> bytes:
    while len(client._data) < count:
        if not client.more():
            raise ConnectionError("closed within a frame")
    data, client._data = client._data[:count], client._data[count:]
    return data


def read(client: Client) -> tuple[int, bytes]:
    first, size = take(client, 2)
    if size >= 126:
        size = int.from_bytes(take(client, 2 if size == 126 else 8), "big")
    return first & 0x0F, take(client, size)


def marks(pod: Pod) -> list[str]:
    path = pod.folder / "marks"
    return path.read_text().split() if path.exists() else []


def test_messages_go_both_ways(pod: Pod) -> None:
    with pod.connect() as client:
        answer = shake(client, "/x", x_execution_id="e1", sec_websocket_protocol="a, b",
                       x_forwarded_prefix="/fn/f", x_deadline_ms=2000)
        assert answer.status == 101
        # The example of RFC 6455.
        assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert answer.headers["upgrade"] == "websocket"
        assert answer.headers["sec-websocket-protocol"] == "a"
        assert answer.headers["x-path"] == "/fn/f/x"
        assert answer.all("x-nanofaas-answer") == ["e1"]
        for text in (b"", b"one", b"\xc3\xa9" * 100, b"x" * 70_000):
            client.send(frame(TEXT, text))
            assert read(client) == (TEXT, text)
        client.send(frame(BINARY, b"\xff" * 300) + frame(PING, b"p"))
        assert sorted([read(client), read(client)]) == [(BINARY, b"\xff" * 300), (PONG, b"p")]
        client.send(frame(TEXT, b"on", last=False) + frame(PING, b"") + frame(0, b"e"))
        assert sorted([read(client), read(client)]) == [(TEXT, b"one"), (PONG, b"")]
        client.send(frame(CLOSE, struct.pack("!H", 1000) + b"bye"))
        assert read(client) == (CLOSE, struct.pack("!H", 1000)) and client.at_end()
    wait_for(lambda: marks(pod) == ["1000:bye"])


def test_a_frame_may_come_in_pieces(pod: Pod) -> None:
    with pod.connect() as client:
        shake(client)
        for byte in frame(TEXT, b"x" * 200):
            client.send(bytes([byte]))
        assert read(client) == (TEXT, b"x" * 200)


def test_an_application_may_refuse_or_close(pod: Pod) -> None:
    with pod.connect() as client:
        answer = shake(client, "/refuse", x_execution_id="e1")
        assert (answer.status, answer.all("x-nanofaas-answer")) == (403, ["e1"])
        assert client.at_end()
    with pod.connect() as client:
        assert shake(client, "/close").status == 101
        assert read(client) == (CLOSE, struct.pack("!H", 4001) + b"enough")
        client.send(frame(CLOSE, struct.pack("!H", 4001)))
        assert client.at_end()


@pytest.mark.parametrize("path", ["/nothing", "/raise"])
def test_a_fault_before_the_handshake(pod: Pod, path: str) -> None:
    with pod.connect() as client:
        assert shake(client, path).status == 500


def test_a_fault_after_the_handshake(pod: Pod) -> None:
    with pod.connect() as client:
        assert shake(client, "/late").status == 101
        assert read(client) == (CLOSE, struct.pack("!H", 1011))
        assert client.at_end()
    pod.log_with(message="the application raised in a WebSocket", traceback="late")


@pytest.mark.parametrize("headers", [
    {"sec_websocket_key": "short"}, {"sec_websocket_version": "8"}])
def test_a_bad_handshake_is_refused(pod: Pod, headers: dict[str, str]) -> None:
    with pod.connect() as client:
        assert shake(client, **headers).status == 400


@pytest.mark.parametrize(("data", "code"), [
    (b"\x81\x03abc", 1002), (frame(0, b"x"), 1002), (frame(3, b"x"), 1002),
    (frame(PING, b"x" * 126), 1002), (frame(PING, b"x", last=False), 1002),
    (b"\xc1" + frame(TEXT, b"x")[1:], 1002), (frame(TEXT, b"\xff"), 1007),
    (b"\x82\xff" + struct.pack("!Q", 1 << 40), 1009),
    (frame(TEXT, b"a", last=False) + frame(TEXT, b"b"), 1002),
])
def test_broken_frames_close_the_connection(pod: Pod, data: bytes, code: int) -> None:
    with pod.connect() as client:
        shake(client)
        client.send(data)
        assert read(client) == (CLOSE, struct.pack("!H", code)) and client.at_end()
    wait_for(lambda: marks(pod) and marks(pod)[0].startswith(f"{code}:"))


def test_an_application_hears_that_its_client_left(pod: Pod) -> None:
    with pod.connect() as client:
        shake(client)
    wait_for(lambda: marks(pod) == ["1006:"])


def test_a_slow_client_stops_the_messages(pod: Pod) -> None:
    with pod.connect() as client:
        shake(client, "/flood")
        counts = [-1]

        def stands_still() -> bool:
            counts.append(len(marks(pod)))
            return pod.health() == 200 and len(counts) > 60 and counts[-1] == counts[-50]

        wait_for(stands_still)
        assert counts[-1] < 100
    with pod.connect() as client:
        assert shake(client).status == 101
