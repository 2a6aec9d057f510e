"""The lifespan of an ASGI application: its startup before the pod is ready, and its shutdown.

`worker` runs both on the loop of the calls.
"""

from __future__ import annotations

import asyncio

from . import child, faults, log
from .asgi import ASGI
from .asyncpod import hide

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# The platform kills a pod that does not end in time.
SHUTDOWN_S = 10.0


class StartupFailed(Exception):
    """The application has sent `lifespan.startup.failed`."""


class Lifespan:
    """`state` is the application's own state, or None if it has no lifespan."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self._application = application
        self._task: Any = None
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._got: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.state: dict[str, Any] | None = None

    async def startup(self) -> None:
        """Waits for the end of the startup. Raises StartupFailed."""
        state: dict[str, Any] = {}
        scope = {"type": "lifespan", "asgi": dict(ASGI), "state": state}
        self._task = asyncio.get_running_loop().create_task(self._run(scope))
        hide(self._task)
        answer = await self._ask("startup")
        if answer is None:
            self._task = None  # An exception says that the application has no lifespan.
        elif answer["type"] == "lifespan.startup.complete":
            self.state = state
        else:
            raise StartupFailed(f"lifespan.startup.failed: {answer.get('message', '')}")

    async def shutdown(self) -> None:
        """Waits for the end of the shutdown, SHUTDOWN_S at most."""
        if self._task is None or self._task.done():
            return
        try:
            async with asyncio.timeout(SHUTDOWN_S):
                answer = await self._ask("shutdown")
        except TimeoutError:
            log.line("warn", f"the application's shutdown took more than {SHUTDOWN_S:.0f} s")
            return
        if answer is not None and answer["type"] != "lifespan.shutdown.complete":
            log.line("error", f"lifespan.shutdown.failed: {answer.get('message', '')}")

    async def _ask(self, what: str) -> dict[str, Any] | None:
        """Sends `lifespan.WHAT`, and returns the answer, or None if the application ended."""
        self._got.put_nowait({"type": f"lifespan.{what}"})
        getting = asyncio.ensure_future(self._sent.get())
        await asyncio.wait((getting, self._task), return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        getting.cancel()
        return None if self._sent.empty() else self._sent.get_nowait()

    async def _run(self, scope: dict[str, Any]) -> None:
        try:
            await self._application(scope, self._got.get, self._send)
        except BaseException as error:
            child.leave_if_child_for(error)
            if self.state is not None:
                log.failure(f"the application's lifespan raised: {faults.describe(error)}", error)
        child.leave_if_child()

    async def _send(self, message: dict[str, Any]) -> None:
        self._sent.put_nowait(message)
