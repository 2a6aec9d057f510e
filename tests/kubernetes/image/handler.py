"""The function of the tests on a cluster: it performs the action that its input names.

The actions are `{"do": "echo" | "sleep" | "fail" | "crash" | "eat" | "png" | "size" | "who", ...}`.
The runtime calls `handle` one time for each call.
"""

from __future__ import annotations

import os
import struct
import sys
import time
import zlib
from typing import Any

from nanofaas_runtime import Response


def handle(input: Any, context: Any) -> Any:
    """Performs the action that `input` names. Returns its answer unless the process ends."""
    if isinstance(input, bytes):
        return {"bytes": len(input)}
    act = {"sleep": _sleep, "fail": _fail, "crash": _crash, "eat": _eat, "png": _png,
           "size": _size, "who": _who}.get(input.get("do"), _echo)
    answer = act(input)
    if isinstance(answer, dict):
        answer["attempt"] = context.attempt
        answer["pod"] = os.environ.get("NANOFAAS_POD")
    return answer


def _echo(input: dict[str, Any]) -> dict[str, Any]:
    return {"echo": input.get("value")}


def _sleep(input: dict[str, Any]) -> dict[str, Any]:
    time.sleep(input["ms"] / 1000)
    return {"slept": input["ms"], "value": input.get("value")}


def _fail(input: dict[str, Any]) -> dict[str, Any]:
    raise ValueError(input["why"])


def _crash(input: dict[str, Any]) -> dict[str, Any]:
    print(input["words"], file=sys.stderr, flush=True)
    os._exit(3)


def _eat(input: dict[str, Any]) -> dict[str, Any]:
    # The kernel allocates no memory for pages that a process has not written, so the memory is
    # filled.
    eaten = [bytearray(b"\xff" * 1024 * 1024) for _ in range(input["mib"])]
    return {"eaten": len(eaten)}


def _size(input: dict[str, Any]) -> dict[str, Any]:
    return {"size": len(input["text"]), "crc": zlib.crc32(input["text"].encode())}


def _who(input: dict[str, Any]) -> dict[str, Any]:
    """Returns the user and the privileges of this process, as the kernel reports them."""
    with open("/proc/self/status", encoding="utf-8") as status:
        lines = dict(line.rstrip().split(":\t", 1) for line in status if ":\t" in line)
    return {"user": os.getuid(), "group": os.getgid(), "capabilities": int(lines["CapEff"], 16),
            "noNewPrivileges": lines["NoNewPrivs"], "seccomp": lines["Seccomp"]}


def _png(input: dict[str, Any]) -> Response:
    """Returns a grey square as a PNG."""
    side = input["side"]

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    rows = b"".join(b"\0" + b"\x80" * side for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    return Response(body + chunk(b"IEND", b""), "image/png")
