"""Modules beside the handler with the names of standard library modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pods import Platform, Pod, Start

# BEFORE has modules that no file can replace (built in or frozen) or that `python -m` itself loads
# before the runtime (see the README). NAMES has all other public modules of Python.
BEFORE = {"contextlib", "collections", "functools", "importlib", "keyword", "operator", "reprlib",
          "types", "warnings", "__future__", "encodings"}
NAMES = sorted(name for name in sys.stdlib_module_names - BEFORE if not name.startswith("_"))
BREAKS = "raise RuntimeError('a module beside the handler')\n"
PLAIN = """
    def handle(input, context):
        if input == "raise": raise ValueError("bad")
        return [input, context.execution_id]
"""


@pytest.fixture
def beside(start: Start, tmp_path: Path):
    """Gives `beside(source, {name: text}, **env)`, which starts a pod with more modules in its
    folder."""
    def begin(source: str, modules: dict[str, str], **env: str) -> Pod:
        # `start` makes the first pod's folder, so `mkdir` is patched to add the modules before the
        # start.
        folder = tmp_path / "pod0"
        real = Path.mkdir

        def mkdir(self: Path, *args: object, **more: object) -> None:
            real(self, *args, **more)
            if self == folder:
                for name, text in modules.items():
                    (folder / f"{name}.py").write_text(text)
        patch = pytest.MonkeyPatch()
        patch.setattr(Path, "mkdir", mkdir)
        try:
            return start(source, **env)
        finally:
            patch.undo()
    return begin


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_runtime_needs_none_of_them(beside, kind: str) -> None:
    pod = beside(PLAIN.replace("def handle", f"{kind} handle"), dict.fromkeys(NAMES, BREAKS))
    pod.ready()
    assert pod.invoke(1, x_execution_id="e").json() == [1, "e"]
    assert pod.invoke("raise").json()["message"] == "ValueError: bad"
    assert "handler.py" in pod.log_with(message="the function raised")["traceback"]
    pod.term()
    assert pod.exit_status() == 0


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_nor_does_a_job(beside, plane: Platform, kind: str) -> None:
    pod = beside(PLAIN.replace("def handle", f"{kind} handle"), dict.fromkeys(NAMES, BREAKS),
                 EXECUTION_ID="e", INVOCATION_PAYLOAD='{"input":1}',
                 CALLBACK_URL=plane.url.replace("127.0.0.1", "localhost"))
    assert b'"output":[1,"e"]' in plane.next()[2]
    assert pod.exit_status() == 0


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_unusual_signatures_and_async_inits_load_late(beside, kind: str) -> None:
    pod = beside(f"""
        {kind} work(input, context=None, *, more=1): return input
        from_here = work
        class Callable:
            {kind} __call__(self, input): return input
        handle = Callable()
        if True:
            async def init(): pass
    """, dict.fromkeys(NAMES, BREAKS)).ready()
    assert pod.invoke(1).json() == 1


def test_the_function_gets_its_own_unloaded_module(beside) -> None:
    own = "mine = True\n"
    pod = beside("""
        import calendar, json
        def handle(input):
            return [calendar.mine, hasattr(json, "mine"), json.dumps(input)]
    """, {"calendar": own, "json": own}).ready()
    assert pod.invoke(1).json() == [True, False, "1"]


def test_an_async_function_behind_a_module_with_asyncio(beside) -> None:
    pod = beside("""
        import selectors, queue
        from behind import handle
    """, {"behind": "async def handle(input):\n    import queue\n    return queue.mine\n",
          "queue": "mine = True\n"}).ready()
    assert pod.invoke(1).json() is True


@pytest.mark.parametrize("spelling", ["", ".", "{folder}", "{folder}/../pod0"])
def test_a_path_that_names_the_folder_again(beside, tmp_path: Path, spelling: str) -> None:
    src = str(Path(__file__).resolve().parent.parent / "src")
    entry = spelling.format(folder=tmp_path / "pod0")
    pod = beside(PLAIN, {"json": BREAKS, "signal": BREAKS}, PYTHONPATH=f"{entry}:{src}").ready()
    assert pod.invoke(1).json() == [1, None]


def test_a_safe_path_finds_the_handler(beside) -> None:
    pod = beside(PLAIN, {"types": BREAKS, "functools": BREAKS}, PYTHONSAFEPATH="1").ready()
    assert pod.invoke(1).json() == [1, None]


def test_a_logging_module_of_the_functions_own(beside) -> None:
    pod = beside("""
        import logging
        def handle(input): return logging.mine
    """, {"logging": "mine = True\n"}).ready()
    assert pod.invoke(1).json() is True
