"""Child processes of a function: a forked child answers no call, no child outlives a worker."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from pods import Pod, Start, gone, request, wait_for

# For input "A" the function forks, and the child leaves the function in the way that `how` names.
FORKS = """
    import asyncio, os, sys, time
    pending = None
    def handle(input):
        if input == "A":
            if os.fork() == 0:
                with open("child", "w") as child: child.write(str(os.getpid()))
                time.sleep(0.3)
                {how}
            return "of A"
        {wait}
        return input
"""
HOWS = {"returns": "return 'of the child'", "raises": "raise RuntimeError('of the child')",
        "exits": "sys.exit(0)", "loops": "await asyncio.sleep(0)\n                return 'looped'",
        "waits": "await asyncio.get_event_loop_policy().get_event_loop().create_future()"}


def child_of(pod: Pod) -> int:
    return wait_for(lambda: int((pod.folder / "child").read_text() or 0)
                    if (pod.folder / "child").exists() else 0)


@pytest.mark.parametrize("how", ["returns", "raises", "exits"])
def test_a_plain_functions_forked_child_answers_nobody(start: Start, how: str) -> None:
    source = FORKS.format(how=HOWS[how], wait="time.sleep(0.6)")
    pod = start(source.replace("await ", "")).ready()
    worker = pod.worker()
    with pod.connect() as client:
        assert client.invoke("A").json() == "of A"
        child = child_of(pod)
        # The child ends while B runs, and must not close B's connection.
        assert client.invoke("B").json() == "B"
        assert client.invoke("C").json() == "C"
    wait_for(lambda: gone(child))
    assert pod.worker() == worker
    said = [line["message"] for line in pod.logs()]
    assert said == (["a forked child of the function raised"] if how == "raises" else [])


@pytest.mark.parametrize("how", list(HOWS))
def test_an_async_functions_forked_child_answers_nobody(
        start: Start, loop: str, how: str) -> None:
    source = FORKS.format(how=HOWS[how], wait="await asyncio.sleep(0.6)")
    pod = start(source.replace("def handle", "async def handle"), loop=loop).ready()
    worker = pod.worker()
    with pod.connect() as client, pod.connect() as other:
        other.send(request("side by side"))
        assert client.invoke("A").json() == "of A"
        child = child_of(pod)
        assert other.answer().json() == "side by side"
        assert client.invoke("B").json() == "B"
        assert client.invoke("C").json() == "C"
    wait_for(lambda: gone(child))
    assert pod.worker() == worker


def test_other_calls_tasks_do_not_run_in_children(start: Start) -> None:
    pod = start("""
        import asyncio, os
        gate = asyncio.Event()
        async def handle(input):
            if input == "A":
                gate.set()
                if os.fork() == 0:
                    await asyncio.sleep(0)
                return "of A"
            await gate.wait()
            with open("runs", "a") as runs: runs.write(f"{os.getpid()} ")
            return input
    """, loop="asyncio").ready()
    with pod.connect() as first, pod.connect() as second:
        second.send(request("B"))
        time.sleep(0.2)
        assert first.invoke("A").json() == "of A"
        assert second.answer().json() == "B"
    time.sleep(0.3)
    assert (pod.folder / "runs").read_text().split() == [str(pod.worker())]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_forked_child_keeps_no_worker_descriptor(start: Start, kind: str) -> None:
    pod = start(f"""
        import os, time
        {kind} handle(input):
            if input == "A":
                if os.fork() == 0:
                    with open("child", "w") as child: child.write(str(os.getpid()))
                    time.sleep(60)
                return "of A"
            os._exit(5)
    """).ready()
    with pod.connect() as client:
        assert client.invoke("A").json() == "of A"
        child = child_of(pod)
        held = [os.readlink(each.path) for each in os.scandir(f"/proc/{child}/fd")]
        # asyncio has its own socket pair, by which the loop wakes itself.
        sockets = [name for name in held if name.startswith("socket:")]
        assert len(sockets) == (0 if kind == "def" else 2)
        assert client.invoke("exit").status == 502
    wait_for(lambda: gone(child))


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_multiprocessing_by_fork_works(start: Start, kind: str) -> None:
    pod = start(f"""
        import multiprocessing, signal, time
        fork = multiprocessing.get_context("fork")
        def double(number): return 2 * number
        {kind} handle(input):
            with fork.Pool(2) as pool:
                doubled = pool.map(double, range(3))
            quick = fork.Process(target=double, args=(1,))
            quick.start(); quick.join()
            slow = fork.Process(target=time.sleep, args=(60,))
            slow.start(); slow.terminate(); slow.join(20)
            return [doubled, quick.exitcode, slow.exitcode]
    """).ready()
    for _ in range(2):
        assert pod.invoke().json() == [[0, 2, 4], 0, -15]


@pytest.mark.parametrize("where", ["module", "init"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_child_forked_while_loading_does_not_serve(start: Start, where: str, kind: str) -> None:
    fork = """if os.fork() == 0:
    with open("child", "w") as child: child.write(str(os.getpid()))"""
    inside = fork.replace("\n", "\n    ")
    source = f"import os\n{fork}\n" if where == "module" else (
        f"import os\n{kind} init():\n    {inside}\n")
    pod = start(source + f"{kind} handle(input): return os.getpid()\n").ready()
    child = child_of(pod)
    wait_for(lambda: gone(child))
    assert pod.invoke().json() == pod.worker()
    assert not pod.logs()


KEEPS = """
    import subprocess, time
    def handle(input):
        child = subprocess.Popen(["sleep", "286"])
        with open("child", "w") as out: out.write(str(child.pid))
        {then}
"""


@pytest.mark.parametrize("then", [
    "time.sleep(1e-3) or os._exit(5)", "os.kill(os.getpid(), 9)", "ignore()"])
def test_children_go_with_their_dead_worker(start: Start, then: str) -> None:
    pod = start("""
        import os
        def ignore():
            while True:
                try: time.sleep(60)
                except BaseException: pass
    """.replace("\n    ", "\n") + KEEPS.format(then=then)).ready()
    with pod.connect() as client:
        client.send(request(x_deadline_ms=200))
        child = child_of(pod)
        wait_for(lambda: gone(child))
    assert pod.process.poll() is None


def test_children_go_with_the_watchdog(start: Start) -> None:
    pod = start(KEEPS.format(then="return 1")).ready()
    pod.invoke()
    child = child_of(pod)
    assert not gone(child)
    pod.process.kill()
    pod.process.wait(30)
    wait_for(lambda: gone(child))


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_children_go_though_the_link_closes_first(start: Start, kind: str) -> None:
    source = KEEPS.format(then="return 1").replace("def handle", f"{kind} handle")
    pod = start(source).ready()
    pod.invoke()
    child = child_of(pod)
    with contextlib.ExitStack() as held:
        # The kernel may close the link of a dead watchdog before its lifeline. The test has a
        # second writer, which keeps the lifeline open, so that only the link shows the worker that
        # the watchdog has ended.
        for each in os.scandir(f"/proc/{pod.process.pid}/fd"):
            if int(each.name) > 2 and os.readlink(each.path).startswith("pipe:"):
                held.enter_context(open(each.path, "wb"))
        pod.process.kill()
        pod.process.wait(30)
        wait_for(lambda: gone(child))


def test_children_go_with_a_drained_worker(start: Start) -> None:
    pod = start(KEEPS.format(then="return 1")).ready()
    pod.invoke()
    child = child_of(pod)
    pod.term()
    assert pod.exit_status() == 0
    wait_for(lambda: gone(child))


def test_a_group_of_their_own_lets_children_stay(start: Start) -> None:
    source = KEEPS.format(then="import os; os._exit(5)").replace(
        '"286"]', '"286"], start_new_session=True')
    pod = start(source).ready()
    assert pod.invoke().status == 502
    child = child_of(pod)
    time.sleep(0.2)
    assert not gone(child)
    os.kill(child, 9)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_child_forked_in_a_job_posts_nothing(start: Start, plane: object, kind: str) -> None:
    pod = start(f"""
        import os, time
        {kind} handle(input):
            child = os.fork()
            if child == 0:
                return "of the child"
            os.waitpid(child, 0)
            return "of the job"
    """, EXECUTION_ID="e", INVOCATION_PAYLOAD='{"input":1}', CALLBACK_URL=plane.url)
    assert b'"output":"of the job"' in plane.next()[2]
    assert pod.exit_status() == 0
    assert plane.got.empty()
    assert Path(pod.stderr_path).read_text() == ""
