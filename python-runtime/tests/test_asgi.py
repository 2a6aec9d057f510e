"""ASGI applications on a real pod: the scope, bodies in pieces, faults, clients that leave, the
lifespan."""

from __future__ import annotations

import pytest
from pods import Answer, Client, Pod, Start, gone, http, request, wait_for

SOURCE = """
    import asyncio, json, os, signal, time

    def mark(text):
        with open("marks", "a") as marks:
            marks.write(text + "\\n")

    async def lifespan(scope, receive, send):
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["from"] = "startup"
        mark("up")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        mark("down")
        await send({"type": "lifespan.shutdown.complete"})

    async def body(receive):
        found = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect": raise OSError("left")
            found += message["body"]
            if not message["more_body"]: return found

    def start(*headers, status=200):
        return {"type": "http.response.start", "status": status, "headers": headers}

    def piece(data=b"", more=False):
        return {"type": "http.response.body", "body": data, "more_body": more}

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return await lifespan(scope, receive, send)
        do = scope["path"].rpartition("/")[2]
        if do == "scope":
            found = dict(scope, raw_path=scope["raw_path"].decode("latin-1"),
                         query_string=scope["query_string"].decode(),
                         headers=[[n.decode(), v.decode()] for n, v in scope["headers"]])
            await send(start((b"Content-Type", b"application/json")))
            await send(piece(json.dumps(found).encode()))
        elif do == "echo":
            await send(start())
            while True:
                message = await receive()
                await send(piece(message["body"], message["more_body"]))
                if not message["more_body"]: break
        elif do == "size":
            await asyncio.sleep(0.1)
            data = await body(receive)
            await send(start())
            await send(piece(str(len(data)).encode()))
        elif do == "unread":
            await send(start(status=403))
            await send(piece(b"no"))
        elif do == "forge":
            await send(start((b"X-Nanofaas-Answer", b"forged"), (b"x-nanofaas-error", b"x"),
                             (b"Transfer-Encoding", b"gzip"), (b"X-Not-Started", b"true"),
                             (b"X-Execution-Id", b"own"), (b"Set-Cookie", b"a"),
                             (b"Set-Cookie", b"b"), (b"Keep-Alive", b"x")))
            await send(piece(b"x"))
        elif do == "inject":
            await send(start((b"X-A", b"1\\r\\nX-Nanofaas-Answer: forged")))
        elif do == "name":
            await send(start((b"X A", b"1")))
        elif do == "raise":
            raise ValueError("bad")
        elif do == "nothing":
            return
        elif do == "half":
            await send(start())
            await send(piece(b"one", True))
        elif do == "late":
            await send(start())
            await send(piece(b"one", True))
            raise ValueError("late")
        elif do == "long":
            await send(start((b"Content-Length", b"3")))
            await send(piece(b"four"))
        elif do == "short":
            await send(start((b"Content-Length", b"5")))
            await send(piece(b"four"))
        elif do == "status":
            await send(start((b"Content-Length", b"0"), status=204))
            await send(piece(b""))
        elif do == "head":
            await send(start())
            while not os.path.exists("go"): await asyncio.sleep(0.005)
            await send(piece(b"body"))
        elif do == "after":
            await send(start())
            await send(piece(b"answered"))
            while not os.path.exists("go"): await asyncio.sleep(0.005)
            mark("after")
        elif do == "after_raise":
            await send(start())
            await send(piece(b"answered"))
            raise ValueError("after")
        elif do == "disconnect":
            mark("waits")
            await body(receive)
            message = await receive()
            mark(message["type"])
        elif do == "sleep":
            mark("sleeps")
            try: await asyncio.sleep(60)
            except asyncio.CancelledError:
                mark("cancelled")
                raise
        elif do == "flood":
            await send(start())
            while True:
                await send(piece(b"x" * 65536, True))
                mark("sent")
        elif do == "oom":
            await send(start())
            await send(piece(b"one", True))
            os.kill(os.getpid(), signal.SIGKILL)
        elif do == "fork":
            if os.fork() == 0:
                await send(start())
                await send(piece(b"of the child"))
                return
            time.sleep(0.2)
            await send(start())
            await send(piece(b"of the parent"))
        else:
            await send(start((b"Content-Type", b"text/plain")))
            await send(piece(do.encode()))
"""


@pytest.fixture
def pod(start: Start, loop: str) -> Pod:
    """The application on each event loop."""
    return start(SOURCE, loop=loop, HANDLER_APP="handler:app").ready()


def call(pod: Pod, *args: object, head_only: bool = False, **headers: object) -> Answer:
    with pod.connect() as client:
        client.send(http(*args, **headers))
        return client.answer(head_only)


def marks(pod: Pod) -> list[str]:
    path = pod.folder / "marks"
    return path.read_text().split() if path.exists() else []


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def test_the_scope_has_the_request(pod: Pod) -> None:
    answer = call(pod, "PATCH", "/a%2Fb/%C3%A9//scope?q=%20", x_forwarded_prefix="/fn/x",
                  x_forwarded_proto="https", x_forwarded_for="1.2.3.4, 5.6.7.8", x_a="1",
                  x_execution_id="e1")
    scope = answer.json()
    assert scope.pop("headers") == [
        ["host", "pod"], ["x-nanofaas-call", "http"], ["x-forwarded-prefix", "/fn/x"],
        ["x-forwarded-proto", "https"], ["x-forwarded-for", "1.2.3.4, 5.6.7.8"], ["x-a", "1"],
        ["x-execution-id", "e1"]]
    assert scope == {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "PATCH", "scheme": "https", "path": "/fn/x/a/b/\u00e9//scope",
        "raw_path": "/fn/x/a%2Fb/%C3%A9//scope", "query_string": "q=%20", "root_path": "/fn/x",
        "server": ["pod", 443], "client": ["5.6.7.8", 0], "extensions": {},
        "state": {"from": "startup"}}
    assert answer.all("x-nanofaas-answer") == ["e1"]
    scope = call(pod, "GET", "/scope").json()
    assert (scope["path"], scope["root_path"], scope["client"]) == ("/scope", "", None)


def test_reserved_paths_reach_the_application(pod: Pod) -> None:
    with pod.connect() as client:
        for path in ("/invoke", "/health"):
            client.send(http("GET", path))
            assert client.answer().body == path[1:].encode()
        client.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.answer().json() == {"status": "UP"}
        client.send(request(1, x_execution_id="e1"))
        answer = client.answer()
        assert (answer.status, answer.all("x-execution-id")) == (404, ["e1"])
        assert "/fn/" in answer.json()["message"]


def test_bodies_stream_both_ways(pod: Pod) -> None:
    """The application answers the first piece before the client has sent the second."""
    with pod.connect() as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nX-Nanofaas-Call: http\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        client.head()
        assert client.piece() == b"one"
        client.send(b"3\r\ntwo\r\n")
        assert client.piece() == b"two"
        client.send(b"0\r\n\r\n")
        assert client.pieces() == [b""]


def test_the_client_is_asked_for_a_body(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("POST", "/size", content_length=5, expect="100-continue"))
        assert client.head().status == 100
        client.send(b"12345" + http("GET", "/next"))
        assert client.answer().body == b"5" and client.answer().body == b"next"
        client.send(http("POST", "/unread", content_length=5, expect="100-continue"))
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (403, "close")


def test_a_large_body_comes_whole(pod: Pod) -> None:
    with pod.connect() as client:
        for _ in range(2):
            client.send(http("POST", "/size", b"x" * 3_000_000))
            assert client.answer().body == b"3000000"
        client.send(http("POST", "/size", transfer_encoding="chunked")
                    + chunked(b"x" * 1_000_000, b"y" * 70_000))
        assert client.answer().body == b"1070000"


def test_a_large_body_may_stay_unread(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("POST", "/unread", content_length=10_000_000))
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (403, "close")
        client.send(b"x" * 1_000_000)  # The pod still takes it, so that the answer is not lost.
        assert client.at_end()


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


@pytest.mark.parametrize("body", [b"zz\r\n", b"3\r\nfour\r\n"])
def test_a_malformed_body_ends_the_call(pod: Pod, body: bytes) -> None:
    with pod.connect() as client:
        client.send(http("POST", "/size", transfer_encoding="chunked", x_execution_id="e1") + body)
        answer = client.answer()
        assert (answer.status, answer.json()["error"]) == (400, "BAD_REQUEST")
        assert answer.all("x-nanofaas-answer") == ["e1"] and client.at_end()
    assert call(pod, "GET", "/next").body == b"next"


def test_no_header_of_the_runtime_is_forged(pod: Pod) -> None:
    answer = call(pod, "GET", "/forge", x_execution_id="e1")
    assert answer.all("x-nanofaas-answer") == ["e1"]
    for name in ("x-nanofaas-error", "transfer-encoding", "x-not-started", "keep-alive"):
        assert not answer.all(name), name
    assert answer.all("x-execution-id") == ["own"] and answer.all("set-cookie") == ["a", "b"]
    for path in ("/inject", "/name"):
        answer = call(pod, "GET", path, x_execution_id="e1")
        assert (answer.status, answer.all("x-nanofaas-answer")) == (500, ["e1"])


@pytest.mark.parametrize(("path", "message"), [
    ("/raise", "ValueError: bad"), ("/nothing", "returned before it had answered"),
    ("/long", "longer than its Content-Length"),
])
def test_faults_before_the_head_are_errors(pod: Pod, path: str, message: str) -> None:
    with pod.connect() as client:
        client.send(http("GET", path, x_execution_id="e1"))
        if path == "/long":
            with pytest.raises(ConnectionError):
                client.answer()
            pod.log_with(traceback=message)
            return
        answer = client.answer()
        assert (answer.status, answer.json()["error"]) == (500, "HANDLER_ERROR")
        assert message in answer.json()["message"]
        assert answer.all("x-nanofaas-answer") == ["e1"]


@pytest.mark.parametrize("path", ["/late", "/half", "/oom"])
def test_faults_after_the_head_cut_the_answer(pod: Pod, path: str) -> None:
    with pod.connect() as client:
        client.send(http("GET", path))
        client.head()
        assert client.pieces() == [b"one", None]


def test_a_short_body_is_cut(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/short"))
        with pytest.raises(ConnectionError):
            client.answer()


def test_heads_without_bodies(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/status"))
        answer = client.answer(head_only=True)
        assert answer.status == 204
        assert not answer.all("content-length") and not answer.all("transfer-encoding")
        client.send(http("HEAD", "/next"))
        assert client.answer(head_only=True).status == 200
        client.send(http("GET", "/next"))
        assert client.answer().body == b"next"


def test_the_head_is_sent_before_the_body(pod: Pod) -> None:
    """The deadline ends with it."""
    with pod.connect() as client:
        client.send(http("GET", "/head", x_deadline_ms=2000))
        assert client.head().status == 200
        (pod.folder / "go").touch()
        assert client.pieces() == [b"body", b""]


def test_a_deadline_before_the_head(pod: Pod) -> None:
    answer = call(pod, "GET", "/sleep", x_deadline_ms=200, x_execution_id="e1")
    assert (answer.status, answer.json()["error"]) == (504, "TIMEOUT")
    assert answer.all("x-nanofaas-answer") == ["e1"]
    assert marks(pod) == ["up", "sleeps", "cancelled"]


def test_work_after_the_answer_goes_on(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/after"))
        assert client.answer().body == b"answered"
        client.send(http("GET", "/next"))
        assert client.answer().body == b"next"
    (pod.folder / "go").touch()
    wait_for(lambda: marks(pod) == ["up", "after"])
    with pod.connect() as client:
        client.send(http("GET", "/after_raise"))
        assert client.answer().body == b"answered"
        pod.log_with(message="the application raised after its answer", traceback="after")


@pytest.mark.parametrize(("path", "begun", "told"), [
    ("/disconnect", "waits", "http.disconnect"), ("/sleep", "sleeps", "cancelled")])
def test_an_application_hears_that_its_client_left(pod: Pod, path: str, begun: str,
                                                   told: str) -> None:
    with pod.connect() as client:
        client.send(http("GET", path))
        wait_for(lambda: begun in marks(pod))
    wait_for(lambda: marks(pod) == ["up", begun, told])
    assert call(pod, "GET", "/next").body == b"next"


def test_a_slow_client_stops_the_application(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/flood"))
        client.head()
        counts = [-1]

        def stands_still() -> bool:
            counts.append(len(marks(pod)))
            return call(pod, "GET", "/next", x=len(counts)).status == 200 and (
                wait_for(lambda: True) and len(counts) > 30 and counts[-1] == counts[-20])

        wait_for(stands_still)
        assert counts[-1] < 100
    assert call(pod, "GET", "/next").body == b"next"


def test_pipelined_calls_keep_their_order(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(b"".join(http("POST", f"/{number}", b"x" * number) for number in range(300)))
        for number in range(300):
            assert client.answer().body == str(number).encode()


def test_a_forked_child_answers_nobody(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/fork"))
        assert client.answer().body == b"of the parent"
        client.send(http("GET", "/next"))
        assert client.answer().body == b"next"


def test_the_lifespan_has_a_startup_and_a_shutdown(pod: Pod) -> None:
    assert marks(pod) == ["up"]
    pod.term()
    assert pod.exit_status() == 0 and marks(pod) == ["up", "down"]


LIFESPAN = """
    import os, time, asyncio
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            {do}
            return
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": repr("state" in scope).encode()}})
"""


def test_a_failed_startup_ends_the_pod(start: Start) -> None:
    pod = start(LIFESPAN.format(
        do="await send({'type': 'lifespan.startup.failed', 'message': 'no database'})"),
        HANDLER_APP="handler:app")
    assert pod.exit_status() == 1
    assert "no database" in pod.log_with(level="error", message="cannot load")["message"]


@pytest.mark.parametrize("do", ["raise ValueError('no lifespan')", "pass"])
def test_an_application_may_have_no_lifespan(start: Start, do: str) -> None:
    pod = start(LIFESPAN.format(do=do), HANDLER_APP="handler:app").ready()
    assert call(pod, "GET", "/").body == b"False"
    pod.term()
    assert pod.exit_status() == 0


def test_not_ready_before_the_startup_is_done(start: Start) -> None:
    pod = start(LIFESPAN.format(do="""
            while not os.path.exists("go"): await asyncio.sleep(0.01)
            await receive()
            await send({'type': 'lifespan.startup.complete'})
            await receive()
            await send({'type': 'lifespan.shutdown.failed', 'message': 'still busy'})"""),
        HANDLER_APP="handler:app")
    assert pod.health() == 503
    assert call(pod, "GET", "/").headers["x-not-started"] == "true"
    (pod.folder / "go").touch()
    pod.ready()
    assert call(pod, "GET", "/").body == b"True"
    pod.term()
    assert pod.exit_status() == 0
    pod.log_with(message="lifespan.shutdown.failed: still busy")


@pytest.mark.parametrize(("app", "text"), [
    ("handler:nothing", "has no application 'nothing'"), ("handler:one", "is neither an ASGI"),
    ("handler:text", "has no application"), ("other:app", "ModuleNotFoundError"),
])
def test_a_missing_application_is_named(start: Start, app: str, text: str) -> None:
    pod = start("def one(a): pass\ntext = 'x'", HANDLER_APP=app)
    assert pod.exit_status() == 1
    assert text in pod.log_with(level="error", message="cannot load")["message"]


@pytest.mark.parametrize("app", ["handler", "handler:", ":app", "a/b:app", "a:b:c"])
def test_a_bad_name_is_named(start: Start, app: str) -> None:
    pod = start("", HANDLER_APP=app)
    assert pod.exit_status() == 2
    assert "HANDLER_APP" in pod.log_with(level="error")["message"]


@pytest.mark.parametrize("how", [
    "class App:\n    async def __call__(self, scope, receive, send): await inner(scope, send)\n"
    "app = App()",
    "def app(scope, receive, send): return inner(scope, send)",
    "class Box: pass\nBox.app = staticmethod(inner_app)\n",
])
def test_every_form_of_an_application(start: Start, how: str) -> None:
    pod = start("""
async def inner(scope, send):
    if scope["type"] != "http": raise ValueError
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"it"})
async def inner_app(scope, receive, send): await inner(scope, send)
""" + how, HANDLER_APP="handler:Box.app" if "Box" in how else "handler:app").ready()
    answer = call(pod, "GET", "/")
    assert (answer.status, answer.body) == (201, b"it")


def test_the_worker_survives_its_faults(pod: Pod) -> None:
    worker = pod.worker()
    with Client(pod.address) as client:
        for path in ("/raise", "/nothing", "/inject", "/next"):
            client.send(http("GET", path))
            client.answer()
    assert pod.worker() == worker and not gone(worker)
