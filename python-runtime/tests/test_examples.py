"""The example functions of this repository, run by the runtime as in their `function.yaml`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from pods import Start, http

SOURCE = Path(__file__).resolve().parents[1] / "src" / "nanofaas_runtime"
FUNCTIONS = Path(__file__).resolve().parents[2] / "functions"


@pytest.mark.parametrize(("name", "value", "output"), [
    ("word-stats", {"text": "the cat saw the other cat", "topN": 1},
     {"wordCount": 6, "uniqueWords": 4, "topWords": [{"word": "cat", "count": 2}],
      "averageWordLength": 3.33}),
    ("json-transform",
     {"groupBy": "city", "aggregate": {"sales": "sum"},
      "records": [{"city": "Rome", "sales": 10}, {"city": "Rome", "sales": 20}]},
     {"groups": [{"key": "Rome", "count": 2, "values": {"sales": 30}}], "groupCount": 1,
      "recordCount": 2}),
])
def test_example(start: Start, name: str, value: object, output: object) -> None:
    pod = start((FUNCTIONS / name / "handler.py").read_text()).ready()
    assert pod.invoke(value).json() == output
    answer = pod.invoke({"no": "such input"})
    assert answer.status == 500 and "ValueError: the input must be" in answer.json()["message"]


def test_the_countdown_streams_events(start: Start) -> None:
    source = (FUNCTIONS / "countdown" / "handler.py").read_text()
    pod = start(source, HANDLER_METHODS="GET,POST").ready()
    with pod.connect() as client:
        client.send(http("POST", "/", b'{"from": 1, "pauseMs": 0}', "application/json"))
        assert client.head().headers["content-type"] == "text/event-stream"
        assert client.pieces() == [b'event: tick\nid: 1\ndata: {"left":1}\n\n',
                                   b'event: end\nid: 0\ndata: {"left":0}\n\n', b""]
        client.send(http("GET", "/?from=1"))
        assert client.head().status == 200
        assert client.piece() == b'event: tick\nid: 3\ndata: {"left":3}\n\n'


def test_the_guestbook_shows_an_entry(start: Start) -> None:
    source = (FUNCTIONS / "guestbook" / "handler.py").read_text()
    pod = start(source, HANDLER_APP="handler:app").ready()
    with pod.connect() as client:
        client.send(http("POST", "/", b"text=hello", x_forwarded_prefix="/fn/guestbook"))
        answer = client.answer()
        assert (answer.status, answer.headers["location"]) == (303, "/fn/guestbook/")
        client.send(http("GET", "/"))
        assert b"<li>hello</li>" in client.answer().body


def test_serving_a_plain_function_imports_no_asyncio(start: Start) -> None:
    """The runtime imports few modules, because each import makes the start longer. Modules that the
    interpreter itself imports do not count."""
    bare = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"],
                          capture_output=True, text=True, check=True).stdout.split()
    pod = start("import sys\ndef handle(input): return sorted(sys.modules)").ready()
    modules = set(pod.invoke().json()) - set(bare)
    assert "nanofaas_runtime.plainloop" in modules
    assert not {"asyncio", "logging", "ssl", "inspect", "typing", "ctypes"} & modules


def test_nothing_but_the_standard_library_is_imported() -> None:
    known = set(sys.stdlib_module_names) | {"uvloop"}
    for path in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            assert {name.partition(".")[0] for name in names} <= known, path.name
