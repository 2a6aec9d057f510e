"""Fixtures: `start` runs pods, `loop` repeats an async test on each installed loop."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pods import Platform, Pod, platform

LOOPS = ["asyncio", "uvloop"] if importlib.util.find_spec("uvloop") else ["asyncio"]
# An async pod imports this as `uvloop` if the test needs plain asyncio.
NO_UVLOOP = "raise ImportError('hidden by the test')\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Pod]]:
    """Gives `start(source, tcp=False, loop=None, **env)`, which starts a pod and does not wait
    until the pod is ready."""
    pods: list[Pod] = []

    def begin(source: str, tcp: bool = False, loop: str | None = None, **env: str) -> Pod:
        folder = tmp_path / f"pod{len(pods)}"
        folder.mkdir()
        site = None
        if loop == "asyncio":
            site = str(tmp_path / "site")
            Path(site).mkdir(exist_ok=True)
            Path(site, "uvloop.py").write_text(NO_UVLOOP)
        pods.append(Pod(folder, source, env, site, tcp))
        return pods[-1]

    yield begin
    for pod in pods:
        pod.end()


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    """Repeats the test for each event loop that is installed."""
    return request.param


@pytest.fixture
def plane() -> Iterator[Platform]:
    """A fake of the platform's internal API."""
    with platform() as it:
        yield it
