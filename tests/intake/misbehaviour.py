"""What a child may try once a file has taken it over; each runs locked, as `child.look` does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.intake.locking import Allowance, lock
from bench.intake.report import Locked


def hang(made: int) -> str:
    time.sleep(600)
    return "woke"


def hang_deaf(made: int) -> str:
    """Hears no alarm: the wall clock is what is left."""
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep(600)
    return "woke"


def compute(made: int) -> str:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    while True:
        pass


def fork(made: int) -> str:
    return _tried(os.fork)


def allocate(made: int) -> str:
    held = []
    with contextlib.suppress(MemoryError):
        while len(held) < 100:
            held.append(bytes(64 * 2**20))
    return f"{len(held) * 64} MB"


def dump_core(made: int) -> str:
    ctypes.string_at(0)
    return "lives"


def die(made: int) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "lives"


def write(made: int) -> str:
    """More than a converted file may have."""
    written = 0
    with contextlib.suppress(OSError):
        while written < 2**30:
            written += os.write(made, bytes(2**16))
    return f"{written} bytes"


def connect(made: int) -> str:
    def to_the_listener() -> None:
        with socket.socket() as made:
            made.settimeout(3)
            made.connect(("127.0.0.1", PORT))

    return _tried(to_the_listener)


def read_password(made: int) -> str:
    return _tried(lambda: Path("/etc/passwd").read_text())


def read_itself(made: int) -> str:
    return _tried(lambda: Path(__file__).read_text())


def plant(made: int) -> str:
    """A file anywhere: /tmp is everybody's."""
    return _tried(lambda: Path("/tmp/planted-by-a-child").write_text("x"))


def start(made: int) -> str:
    return _tried(lambda: os.execv("/bin/true", ["true"]))


def signal_parent(made: int) -> str:
    return _tried(lambda: os.kill(os.getppid(), 0))


def become_root(made: int) -> str:
    return _tried(lambda: os.setuid(0)) + f", uid {os.geteuid()}"


def more_limits(made: int) -> str:
    import resource

    return _tried(lambda: resource.setrlimit(resource.RLIMIT_DATA, (2**40, 2**40)))


def lie(made: int) -> str:
    """Says what it likes instead of a report."""
    return '{"seen": {"arch": "../../x"}}'


def flood(made: int) -> str:
    return "x" * 3 * 2**20


PORT = 9  # the tests put a listener's there, by an argument


def _tried(what: Callable[[], object]) -> str:
    try:
        what()
    except (OSError, ValueError) as error:
        return type(error).__name__
    return "done"


def main(source: str, made: str, report: str, allowance: str, lockable: str, *what: str) -> None:
    global PORT
    name, port = what
    PORT = int(port)
    with open(int(report), "wb") as said:
        words = lock(Allowance.read(allowance), landlock=lockable == "landlock")
        said.write(Locked(locked=words).model_dump_json().encode() + b"\n")
        said.flush()
        for each in name.split(","):
            said.write(getattr(sys.modules[__name__], each)(int(made)).encode() + b"\n")
