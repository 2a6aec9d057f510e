"""The parser alone: what it accepts and refuses, however the bytes are split."""

from __future__ import annotations

import random

import pytest
from nanofaas_runtime import wire
from nanofaas_runtime.wire import Chunks, Malformed, parse_head


def head(text: str) -> wire.Head:
    data = text.encode("latin-1")
    return parse_head(data, len(data))


GOOD = "POST /invoke HTTP/1.1\r\nHost: a\r\n"


def test_a_plain_head() -> None:
    it = head(GOOD + "Content-Length: 12\r\nX-Execution-Id:  abc \r\n\r\n")
    assert (it.method, it.target, it.length, it.keep) == (b"POST", b"/invoke", 12, True)
    assert it.header(b"x-execution-id") == b"abc"
    assert it.header(b"x-trace-id") is None


def test_header_names_are_caseless_and_values_kept() -> None:
    it = head(GOOD + "x-TRACE-id: AbC\r\nX-Two: 1\r\nx-two: 2\r\n\r\n")
    assert it.header(b"x-trace-id") == b"AbC"
    assert it.headers() == {"host": "a", "x-trace-id": "AbC", "x-two": "1, 2"}


def test_a_name_within_a_value_is_no_header() -> None:
    it = head(GOOD + "X-A: content-length: 5\r\n\r\n")
    assert it.length == 0


@pytest.mark.parametrize(("line", "keep"), [
    ("", True), ("Connection: close\r\n", False), ("Connection: Keep-Alive, Close\r\n", False),
    ("Connection: upgrade\r\n", True),
])
def test_keep_alive_in_1_1(line: str, keep: bool) -> None:
    assert head(GOOD + line + "\r\n").keep is keep


@pytest.mark.parametrize(("line", "keep"), [("", False), ("Connection: keep-alive\r\n", True)])
def test_keep_alive_in_1_0(line: str, keep: bool) -> None:
    assert head("GET /health HTTP/1.0\r\n" + line + "\r\n").keep is keep


@pytest.mark.parametrize(("text", "status"), [
    ("POST /invoke HTTP/1.1\r\n\r\n", 400),  # no Host
    (GOOD + "Host: b\r\n\r\n", 400),
    (GOOD + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
    (GOOD + "Content-Length: 1, 1\r\n\r\n", 400),
    (GOOD + "Content-Length: -1\r\n\r\n", 400),
    (GOOD + "Content-Length: +1\r\n\r\n", 400),
    (GOOD + "Content-Length: 0x1\r\n\r\n", 400),
    (GOOD + "Content-Length:\r\n\r\n", 400),
    (GOOD + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (GOOD + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (GOOD + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (GOOD + "Content-Length: 99999999999\r\n\r\n", 413),
    (GOOD + "Content-Length: 9999999999999999999999\r\n\r\n", 413),
    (GOOD + "Content-Length : 1\r\n\r\n", 400),  # space before the colon
    (GOOD + "X-A: 1\r\n folded\r\n\r\n", 400),
    (GOOD + "X-A: 1\n\r\n\r\n", 400),
    (GOOD + "X-A: 1\rX-B: 2\r\n\r\n", 400),
    (GOOD + "X-A: \0\r\n\r\n", 400),
    (GOOD + ": 1\r\n\r\n", 400),
    (GOOD + "nothing\r\n\r\n", 400),
    (GOOD + "Expect: magic\r\n\r\n", 417),
    ("POST  /invoke HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("POST /in voke HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("POST /invoke HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ("POST /invoke\r\nHost: a\r\n\r\n", 400),
    ("\r\n\r\n", 400),
])
def test_refused(text: str, status: int) -> None:
    with pytest.raises(Malformed) as caught:
        head(text)
    assert caught.value.status == status


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\nHost: a\n\n", b"\n", b"x" * 40_000])
def test_a_hopeless_head_is_refused_early(data: bytes) -> None:
    with pytest.raises(Malformed):
        wire.check_partial_head(data)


CHUNKED = b"4\r\nWiki\r\n6;a=b\r\npedia \r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n"


def test_chunks_however_they_are_split() -> None:
    for seed in range(300):
        dice = random.Random(seed)
        chunks, data = Chunks(), CHUNKED + b"REST"
        rest = None
        while rest is None:
            size = dice.randint(1, 9)
            piece, data = data[:size], data[size:]
            assert piece, seed
            rest = chunks.feed(piece)
        assert bytes(chunks.body) == b"Wikipedia 0123456789", seed
        assert rest + data == b"REST", seed


@pytest.mark.parametrize("data", [
    b"x\r\n", b"-1\r\n", b"0x4\r\nWiki\r\n", b"4\r\nWikiX\r\n", b"4\nWiki\r\n", b"\r\n",
    b"FFFFFFFFF\r\n", b"0\r\nbad trailer\r\n\r\n", b"4" * 5000,
    b"0\r\n" + b"X-T: 12345678\r\n" * 2000, b"4\r\nWiki\n\n",
])
def test_malformed_chunks(data: bytes) -> None:
    with pytest.raises(Malformed):
        Chunks().feed(data)


def test_a_chunked_body_is_bounded() -> None:
    chunks = Chunks()
    with pytest.raises(Malformed) as caught:
        chunks.feed(b"%x\r\n" % (wire.BODY_BYTES_MAX + 1))
    assert caught.value.status == 413


def test_mutated_heads_never_raise_anything_else() -> None:
    lines = "Content-Length: 3\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n"
    good = (GOOD + lines).encode()
    for seed in range(3000):
        dice = random.Random(seed)
        data = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            try:
                parse_head(bytes(data), end + 4)
            except Malformed:
                pass


def test_the_id_is_echoed_line_for_line() -> None:
    line = "x-Execution-ID:  e 1\t\r\n"
    it = head(GOOD + line + "X-Execution-Id: second\r\n\r\n")
    assert it.echo() == line.encode()
    assert head(GOOD + "\r\n").echo() == b""
    assert wire.echo_of(it.raw + b"X-Execution-Id: in the body\r\n\r\n") == line.encode()
    for data in (b"", b"\r\n\r\n", it.raw[:-2], it.raw[:-1], head(GOOD + "\r\n").raw + it.raw,
                 it.raw.replace(b" 1", b"\n1").replace(b"second", b"\0")):
        assert wire.echo_of(data) == b"", data


def test_answers() -> None:
    echo = b"X-Execution-Id: e\r\n"
    text = wire.failure(echo, 503, "NOT_READY", "later", wire.NOT_STARTED, close=True)
    lines = text.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 503 Service Unavailable"
    assert b"X-Not-Started: true" in lines and b"X-Execution-Id: e" in lines
    assert b"Connection: close" in lines
    assert lines[-1] == b'{"code": "NOT_READY", "message": "later"}'
    assert wire.failure_body("C", "a\ud800b") == b'{"code": "C", "message": "a?b"}'
