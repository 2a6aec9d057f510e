"""WSGI applications (PEP 3333) on a real pod: the environ, bodies in pieces, `write`, `close`,
faults, clients that leave."""

from __future__ import annotations

import pytest
from pods import Answer, Pod, Start, http, request, wait_for

SOURCE = """
    import json, os, signal, sys, time

    def mark(text):
        with open("marks", "a") as marks:
            marks.write(text + "\\n")

    class Closed:
        def __init__(self, values): self.values = iter(values)
        def __iter__(self): return self
        def __next__(self): return next(self.values)
        def close(self): mark("closed")

    def late():
        yield b"one"
        raise ValueError("late")

    def gate():
        yield b"one"
        while not os.path.exists("go"): time.sleep(0.005)
        yield b"two"

    def flood():
        while True:
            mark("sent")
            yield b"x" * 65536

    def ticks():
        while True:
            time.sleep(0.005)
            yield b"x"

    def killed():
        yield b"one"
        os.kill(os.getpid(), signal.SIGKILL)

    def app(environ, start_response):
        do = environ["PATH_INFO"].rpartition("/")[2]
        start = lambda *headers, status="200 OK": start_response(status, list(headers))
        match do:
            case "environ":
                found = {k: v for k, v in environ.items() if not k.startswith("wsgi.")}
                found |= {k: environ[k] for k in ("wsgi.version", "wsgi.url_scheme",
                          "wsgi.multithread", "wsgi.run_once", "wsgi.input_terminated")}
                start(("Content-Type", "application/json"))
                return [json.dumps(found).encode()]
            case "read":
                data = environ["wsgi.input"].read()
                start()
                return [str(len(data)).encode()]
            case "lines":
                start()
                lines = environ["wsgi.input"]
                return [repr([lines.readline(), lines.read(2), list(lines)]).encode()]
            case "echo":
                start()
                return Closed(iter(lambda: environ["wsgi.input"].read1(), b""))
            case "unread":
                start(status="403 Forbidden")
                return [b"no"]
            case "write":
                write = start()
                write(b"one")
                while not os.path.exists("go"): time.sleep(0.005)
                write(b"")
                write(b"two")
                return [b"three"]
            case "closed":
                start(("Content-Length", "6"))
                return Closed([b"one", b"", b"two"])
            case "pieces":
                start()
                return [b"a", b"", b"b"]
            case "gate":
                start()
                return Closed(gate())
            case "late":
                start()
                return Closed(late())
            case "oom":
                start()
                return killed()
            case "flood" | "ticks":
                start()
                return Closed(flood() if do == "flood" else ticks())
            case "slow_close":
                start()
                answer = Closed([b"x"])
                def close():
                    time.sleep(0.3)
                    mark("closed")
                answer.close = close
                return answer
            case "raise": raise ValueError("bad")
            case "no_start": return [b"x"]
            case "twice":
                start()
                start()
            case "text":
                start()
                return ["text"]
            case "inject": start(("X-A", "1\\r\\nX-Nanofaas-Answer: forged"))
            case "status": start(status="abc")
            case "forge":
                start(("X-Nanofaas-Answer", "forged"), ("Set-Cookie", "a"), ("Set-Cookie", "b"),
                      ("Connection", "close"))
                return [b"x"]
            case "exc_info":
                start(("X-First", "1"))
                try: raise ValueError("bad")
                except ValueError:
                    start_response("500 Oops", [("X-Second", "2")], sys.exc_info())
                return [b"mended"]
            case "exc_info_late":
                write = start()
                write(b"one")
                try: raise ValueError("too late")
                except ValueError:
                    start_response("500 Oops", [], sys.exc_info())
            case "empty":
                start(status="204 No Content")
                return []
            case "sleep":
                mark("sleeps")
                try: time.sleep(60)
                except BaseException as error:
                    mark(type(error).__name__)
                    raise
            case "wait":
                mark("waits")
                try: environ["wsgi.input"].read()
                except BaseException as error:
                    mark(type(error).__name__)
                    raise
            case "short":
                start(("Content-Length", "5"))
                return [b"four"]
            case "fork":
                start()
                if os.fork() == 0: return [b"of the child"]
                time.sleep(0.2)
                return [b"of the parent"]
        start(("Content-Type", "text/plain"))
        return [do.encode()]
"""


@pytest.fixture
def pod(start: Start) -> Pod:
    return start(SOURCE, HANDLER_APP="handler:app").ready()


def call(pod: Pod, *args: object, head_only: bool = False, **headers: object) -> Answer:
    with pod.connect() as client:
        client.send(http(*args, **headers))
        return client.answer(head_only)


def marks(pod: Pod) -> list[str]:
    path = pod.folder / "marks"
    return path.read_text().split() if path.exists() else []


def test_the_environ_has_the_request(pod: Pod) -> None:
    answer = call(pod, "PUT", "/a%2Fb/%C3%A9//environ?q=%20", b"x", "text/plain",
                  x_forwarded_prefix="/fn/x", x_forwarded_for="1.2.3.4", x_a="1",
                  cookie="a=1", x_execution_id="e1")
    assert answer.json() == {
        "REQUEST_METHOD": "PUT", "SCRIPT_NAME": "/fn/x", "PATH_INFO": "/a/b/\u00c3\u00a9//environ",
        "QUERY_STRING": "q=%20", "REQUEST_URI": "/fn/x/a%2Fb/%C3%A9//environ?q=%20",
        "SERVER_NAME": "pod", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "1.2.3.4", "CONTENT_TYPE": "text/plain", "CONTENT_LENGTH": "1",
        "HTTP_HOST": "pod", "HTTP_X_NANOFAAS_CALL": "http", "HTTP_X_FORWARDED_PREFIX": "/fn/x",
        "HTTP_X_FORWARDED_FOR": "1.2.3.4", "HTTP_X_A": "1", "HTTP_COOKIE": "a=1",
        "HTTP_X_EXECUTION_ID": "e1", "wsgi.version": [1, 0], "wsgi.url_scheme": "http",
        "wsgi.multithread": False, "wsgi.run_once": False, "wsgi.input_terminated": True}
    assert answer.all("x-nanofaas-answer") == ["e1"]


def test_repeated_headers_are_joined(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(b"GET /environ HTTP/1.1\r\nHost: a\r\nX-Nanofaas-Call: http\r\nX-A: 1\r\n"
                    b"X-A: 2\r\nX_A: forged\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n")
        found = client.answer().json()
        assert (found["HTTP_X_A"], found["HTTP_COOKIE"]) == ("1,2", "a=1; b=2")


def test_reserved_paths_reach_the_application(pod: Pod) -> None:
    with pod.connect() as client:
        for path in ("/invoke", "/health"):
            client.send(http("GET", path))
            assert client.answer().body == path[1:].encode()
        client.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.answer().json() == {"status": "UP"}
        client.send(request(1))
        assert client.answer().status == 404


def test_the_body_is_a_file(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("POST", "/lines", b"one\ntwo\nthree\nfour"))
        assert client.answer().body == repr([b"one\n", b"tw", [b"o\n", b"three\n", b"four"]]
                                            ).encode()
        for _ in range(2):
            client.send(http("POST", "/read", b"x" * 3_000_000))
            assert client.answer().body == b"3000000"
        client.send(http("GET", "/read") + http("POST", "/read", content_length=3,
                                                expect="100-continue"))
        assert client.answer().body == b"0" and client.head().status == 100
        client.send(b"123")
        assert client.answer().body == b"3"


def test_bodies_stream_both_ways(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nX-Nanofaas-Call: http\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        client.head()
        assert client.piece() == b"one"
        client.send(b"3\r\ntwo\r\n")
        assert client.piece() == b"two"
        assert pod.health() == 200
        client.send(b"0\r\n\r\n")
        assert client.pieces() == [b""]
    wait_for(lambda: marks(pod) == ["closed"])


def test_a_large_body_may_stay_unread(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("POST", "/unread", content_length=10_000_000))
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (403, "close")
        client.send(b"x" * 1_000_000)
        assert client.at_end()


def test_a_malformed_body_ends_the_call(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("POST", "/read", transfer_encoding="chunked", x_execution_id="e1")
                    + b"zz\r\n")
        answer = client.answer()
        assert (answer.status, answer.json()["error"]) == (400, "BAD_REQUEST")
        assert answer.all("x-nanofaas-answer") == ["e1"] and client.at_end()
    assert call(pod, "GET", "/next").body == b"next"


def test_write_sends_at_once(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/write"))
        client.head()
        assert client.piece() == b"one"
        (pod.folder / "go").touch()
        assert client.pieces() == [b"two", b"three", b""]


def test_each_piece_is_sent_at_once(pod: Pod) -> None:
    with pod.connect() as client, pod.connect() as other:
        client.send(http("GET", "/gate", x_deadline_ms=2000))
        client.head()
        assert client.piece() == b"one"
        other.send(http("GET", "/next"))  # It waits, because calls run one at a time.
        assert pod.health() == 200
        (pod.folder / "go").touch()
        assert client.pieces() == [b"two", b""]
        assert other.answer().body == b"next"


def test_lengths_are_kept_or_known(pod: Pod) -> None:
    with pod.connect() as client:
        for path, body in (("/closed", b"onetwo"), ("/pieces", b"ab"), ("/next", b"next")):
            client.send(http("GET", path))
            answer = client.answer()
            assert (answer.body, answer.headers["content-length"]) == (body, str(len(body)))
        assert marks(pod) == ["closed"]
        client.send(http("HEAD", "/closed"))
        assert client.answer(head_only=True).headers["content-length"] == "6"
        client.send(http("GET", "/empty"))
        answer = client.answer(head_only=True)
        assert (answer.status, answer.all("content-length")) == (204, [])
        client.send(http("GET", "/next"))
        assert client.answer().body == b"next"


@pytest.mark.parametrize(("path", "message"), [
    ("/raise", "ValueError: bad"), ("/no_start", "did not call start_response"),
    ("/twice", "start_response was called twice"), ("/text", "a bytes-like object, str found"),
    ("/inject", "has a line break"), ("/status", "not the status"),
])
def test_faults_before_the_head_are_errors(pod: Pod, path: str, message: str) -> None:
    worker = pod.worker()
    with pod.connect() as client:
        client.send(http("GET", path, x_execution_id="e1"))
        answer = client.answer()
        assert (answer.status, answer.json()["error"]) == (500, "HANDLER_ERROR")
        assert message in answer.json()["message"]
        assert answer.all("x-nanofaas-answer") == ["e1"]
        client.send(http("GET", "/next"))
        assert client.answer().body == b"next"
    assert pod.worker() == worker


@pytest.mark.parametrize("path", ["/late", "/exc_info_late", "/oom"])
def test_faults_after_the_head_cut_the_answer(pod: Pod, path: str) -> None:
    with pod.connect() as client:
        client.send(http("GET", path))
        client.head()
        assert client.pieces() == [b"one", None]
    if path == "/late":
        wait_for(lambda: marks(pod) == ["closed"])
        pod.log_with(message="the function raised after its answer had begun")


def test_a_short_body_is_cut(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/short"))
        with pytest.raises(ConnectionError):
            client.answer()


def test_exc_info_replaces_the_head(pod: Pod) -> None:
    answer = call(pod, "GET", "/exc_info")
    assert (answer.status, answer.body) == (500, b"mended")
    assert answer.headers["x-second"] == "2" and "x-first" not in answer.headers


def test_no_header_of_the_runtime_is_forged(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/forge", x_execution_id="e1"))
        answer = client.answer()
        assert answer.all("x-nanofaas-answer") == ["e1"]
        assert answer.all("set-cookie") == ["a", "b"]
        assert answer.all("connection") == ["close"] and client.at_end()


@pytest.mark.parametrize(("path", "begun"), [("/sleep", "sleeps"), ("/wait", "waits")])
def test_deadlines_and_clients_that_leave(pod: Pod, path: str, begun: str) -> None:
    worker = pod.worker()
    answer = call(pod, "POST", path, x_deadline_ms=200, x_execution_id="e1", content_length=9)
    assert (answer.status, answer.json()["error"]) == (504, "TIMEOUT")
    with pod.connect() as client:
        client.send(http("POST", path, content_length=9))
        wait_for(lambda: marks(pod)[2:] == [begun])
    wait_for(lambda: marks(pod) == [begun, "DeadlineExceeded", begun, "CallerLeft"])
    assert call(pod, "GET", "/next").body == b"next" and pod.worker() == worker


def test_a_slow_client_stops_the_application(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/flood"))
        client.head()
        counts = [-1]

        def stands_still() -> bool:
            counts.append(len(marks(pod)))
            return pod.health() == 200 and len(counts) > 60 and counts[-1] == counts[-50]

        wait_for(stands_still)
        assert counts[-1] < 100
    wait_for(lambda: marks(pod)[-1] == "closed")
    assert call(pod, "GET", "/next").body == b"next"


def test_a_client_that_leaves_closes_the_iterable(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/ticks"))
        client.head()
        assert client.piece() == b"x"
    wait_for(lambda: marks(pod) == ["closed"])
    assert call(pod, "GET", "/next").body == b"next"


def test_close_may_outlive_its_client(pod: Pod) -> None:
    worker = pod.worker()
    with pod.connect() as client:
        client.send(http("GET", "/slow_close"))
        client.head()
        assert client.pieces() == [b"x", b""]
    wait_for(lambda: marks(pod) == ["closed"])
    assert pod.worker() == worker


def test_pipelined_calls_keep_their_order(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(b"".join(http("POST", f"/{number}", b"x" * number) for number in range(600)))
        for number in range(600):
            assert client.answer().body == str(number).encode()


def test_a_forked_child_answers_nobody(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/fork"))
        assert client.answer().body == b"of the parent"
        client.send(http("GET", "/next"))
        assert client.answer().body == b"next"


def test_a_body_that_came_may_stay_unread(pod: Pod) -> None:
    with pod.connect() as client:
        for _ in range(2):
            client.send(http("POST", "/raise", b"x" * 200_000))
            if client.answer().headers.get("connection") == "close":
                return  # The pod answered before the body had come.
            client.send(http("GET", "/next"))
            assert client.answer().body == b"next"


def test_a_small_body_may_stay_unread(pod: Pod) -> None:
    """The connection goes on after the rest of the body, which came after the answer."""
    with pod.connect() as client:
        for _ in range(2):
            client.send(http("POST", "/unread", content_length=60_000) + b"x" * 10)
            answer = client.answer()
            assert (answer.status, answer.all("connection")) == (403, [])
            client.send(b"x" * 29_990)
            client.send(b"x" * 30_000 + http("GET", "/next"))
            assert client.answer().body == b"next"


def test_a_drain_waits_for_the_answer(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/gate"))
        client.head()
        assert client.piece() == b"one"
        pod.term()
        wait_for(lambda: pod.health() == 503)
        (pod.folder / "go").touch()
        assert client.pieces() == [b"two", b""]
        assert client.at_end()
    assert pod.exit_status() == 0
