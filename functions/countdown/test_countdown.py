"""Tests of the function alone: its events, its defaults, and refused inputs."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "python-runtime" / "src"))
spec = importlib.util.spec_from_file_location("countdown", HERE / "handler.py")
countdown = importlib.util.module_from_spec(spec)
spec.loader.exec_module(countdown)


def events(input: object) -> list[tuple[object, object, object]]:
    async def collect() -> list[tuple[object, object, object]]:
        return [(each.event, each.id, each.data) async for each in countdown.handle(input)]
    return asyncio.run(collect())


def test_counts_down_to_zero() -> None:
    assert events({"from": 2, "pauseMs": 0}) == [
        ("tick", "2", {"left": 2}), ("tick", "1", {"left": 1}), ("end", "0", {"left": 0})]
    assert events({"from": 0}) == [("end", "0", {"left": 0})]


@pytest.mark.parametrize("input", [{"from": -1}, {"from": 1.5}, {"from": 1001},
                                   {"pauseMs": "1"}, {"pauseMs": True}])
def test_refused_inputs(input: object) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        events(input)
