"""Counts down, one event after each pause: a stream that a browser's EventSource can read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from nanofaas_runtime import Event

FROM_MAX = 1000
PAUSE_MS_MAX = 60_000


async def handle(input: object) -> AsyncIterator[Event]:
    """Yields `{"left": n}` down to 0; `input` may have `from` (3) and `pauseMs` (1000)."""
    wanted = input if isinstance(input, dict) else {}
    start = _whole(wanted, "from", 3, FROM_MAX)
    pause_ms = _whole(wanted, "pauseMs", 1000, PAUSE_MS_MAX)
    for left in range(start, -1, -1):
        yield Event({"left": left}, event="tick" if left else "end", id=str(left))
        if left:
            await asyncio.sleep(pause_ms / 1000)


def _whole(wanted: dict[str, object], name: str, default: int, most: int) -> int:
    value = wanted.get(name, default)
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} must be a whole number from 0 to {most}")
    return value
