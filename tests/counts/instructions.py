"""Counts the instructions of the io thread per warm call in user space, with valgrind's callgrind.
The counts are the same on a busy machine. This module knows no ceiling."""

import pathlib
import re
import subprocess

from plane import Client, Plane

# The warm-up makes more calls than the plane keeps records of plain calls (4096), so the circular
# buffer of the records and its index are full.
WARM_UP_CALLS = 5000
CALLS = 1000


class Counted:
    """A plane under callgrind, which counts no instruction before `per_call` runs."""

    def __init__(self, folder, echo):
        self.dumps = pathlib.Path(folder)
        tool = [
            "valgrind",
            "--tool=callgrind",
            "--instr-atstart=no",
            "--separate-threads=yes",
            f"--callgrind-out-file={folder}/dump",
        ]
        self.plane = Plane(folder, tool, ["--io-driver", "epoll", "--scheduler", "inline"], echo)

    def control(self, *what):
        subprocess.run(
            ["callgrind_control", *what, str(self.plane.pid)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def per_call(self, function):
        client = Client(self.plane, function, 1)
        client.call(WARM_UP_CALLS)
        self.control("-i", "on")
        # valgrind translates the code again when counting starts, so these ten calls are not
        # counted.
        client.call(10)
        self.control("-z")
        client.call(CALLS)
        self.control("-d")
        self.control("-i", "off")
        client.close()
        dumps = list(self.dumps.glob("dump*"))
        # All other threads sleep, so the dump with the most instructions is the io thread's.
        most = max(total(dump) for dump in dumps)
        for dump in dumps:
            dump.unlink()
        return most / CALLS

    def stop(self):
        self.plane.stop()


def total(dump):
    found = re.search(r"^(?:totals|summary): (\d+)", dump.read_text(errors="replace"), re.M)
    return int(found.group(1)) if found else 0
