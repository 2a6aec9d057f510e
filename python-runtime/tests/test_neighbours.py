"""Calls that share an event loop: one call cannot end the other calls through the loop."""

from __future__ import annotations

import pytest
from pods import Platform, Start, request, wait_for

SOURCE = """
    import asyncio, sys

    async def leave(): sys.exit(3)
    async def interrupt(): raise KeyboardInterrupt

    def hard(): raise SystemExit(4)

    async def handle(input):
        loop = asyncio.get_running_loop()
        match input:
            case "stop": loop.stop()
            case "stop soon": loop.call_soon(loop.stop)
            case "cancel all":
                for task in asyncio.all_tasks():
                    if task is not asyncio.current_task(): task.cancel()
            case "exit": asyncio.create_task(leave())
            case "interrupt": asyncio.create_task(interrupt())
            case "callback": loop.call_soon(hard)
            case "gather others":
                others = asyncio.all_tasks() - {asyncio.current_task()}
                await asyncio.gather(*others)
            case "wait":
                open("waits", "w").close()
                await asyncio.sleep(1)
        await asyncio.sleep(0.01)
        return input
"""
DEEDS = ["stop", "stop soon", "cancel all", "exit", "interrupt", "callback", "gather others"]


@pytest.mark.parametrize("do", DEEDS)
def test_a_call_does_not_end_its_neighbours(start: Start, loop: str, do: str) -> None:
    pod = start(SOURCE, loop=loop).ready()
    worker = pod.worker()
    with pod.connect() as client, pod.connect() as neighbour:
        neighbour.send(request("wait"))
        wait_for((pod.folder / "waits").exists)
        for _ in range(3):
            assert client.invoke(do).json() == do
            assert pod.invoke("another connection").status == 200
        assert neighbour.answer().json() == "wait"
        assert client.invoke(1).json() == 1
    assert pod.worker() == worker
    faults = {"exit": "goes on: SystemExit: 3", "interrupt": "goes on: KeyboardInterrupt",
              "callback": "goes on: SystemExit: 4", "stop": "stopped the event loop",
              "stop soon": "stopped the event loop"}
    if do in faults:
        assert pod.log_with(message=faults[do])


@pytest.mark.parametrize("do", DEEDS)
def test_a_job_is_not_ended_by_its_loop(start: Start, plane: Platform, loop: str, do: str) -> None:
    pod = start(SOURCE, loop=loop, EXECUTION_ID="e", CALLBACK_URL=plane.url,
                INVOCATION_PAYLOAD='{"input":"%s"}' % do)
    assert b'"output":"%b"' % do.encode() in plane.next()[2]
    assert pod.exit_status() == 0


@pytest.mark.parametrize("do", ["loop.stop()", "asyncio.create_task(leave())"])
def test_an_init_is_not_ended_by_its_loop(start: Start, loop: str, do: str) -> None:
    pod = start(SOURCE + f"""
    async def init():
        loop = asyncio.get_running_loop()
        {do}
        await asyncio.sleep(0.01)
    """, loop=loop).ready()
    assert pod.invoke(1).json() == 1


def test_a_drain_ends_a_stopped_loop(start: Start, loop: str) -> None:
    pod = start(SOURCE, loop=loop).ready()
    assert pod.invoke("stop").status == 200
    pod.term()
    assert pod.exit_status() == 0


def test_calls_blocking_the_loop_end_their_neighbours(
        start: Start, loop: str) -> None:
    pod = start("""
        import asyncio, time
        async def handle(input):
            open(input, "w").close()
            await asyncio.sleep(0.05)
            if input == "blocks": time.sleep(60)
            await asyncio.sleep(60)
    """, loop=loop).ready()
    with pod.connect() as neighbour, pod.connect() as client:
        neighbour.send(request("waits", x_execution_id="e-2"))
        wait_for((pod.folder / "waits").exists)
        client.send(request("blocks", x_deadline_ms=200))
        answer = neighbour.answer()
        assert (answer.status, answer.json()["code"]) == (502, "POD_LOST")
        assert "blocks the loop" in answer.json()["message"]
        assert answer.headers["x-execution-id"] == "e-2"
