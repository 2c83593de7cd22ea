"""A function run in a child that is thrown away: clean surroundings, bubblewrap, an end in any case.

The child locks itself (`bench.intake.locking`) before it reads the file that it was handed open.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from bench.intake.locking import Allowance

log = logging.getLogger(__name__)
Isolation = Literal["bubblewrap", "landlock", "limits"]

ROOT = Path(__file__).parents[2]  # what `bench` is imported from
_OURS = ("bench", "models")  # what of it a child sees
_REPORT = 256 * 1024  # bytes of a report that are read
_COMPLAINT = 4_000  # bytes of what a child wrote to stderr, for the log
# One thread: those of a library would be outside the lock.
_ENVIRONMENT = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
_START = """
import importlib, sys
sys.path[:0] = [{root!r}]
module, function = {entry!r}.split(":")
getattr(importlib.import_module(module), function)(*sys.argv[1:])
"""
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
_NOT_BUBBLEWRAPPED = "bubblewrap is here and does not work (%s): children have the rest of the lock"


@dataclass(frozen=True)
class Ended:
    """How a child ended, and what it left."""

    status: int | None  # exit status; None where a signal ended it
    signal: int = 0
    late: bool = False  # it was killed when the wall clock ran out
    report: bytes = b""
    complaint: str = ""  # the end of stderr
    wrapped: bool = False  # in bubblewrap


def run(
    entry: str, arguments: Iterable[str], source: IO[bytes], made: IO[bytes], allowance: Allowance,
    *, wall: float, isolation: Isolation | None = None, ours: tuple[str, ...] = _OURS,
) -> Ended:  # fmt: skip
    """Calls `module:function` in a child with three open files' numbers, the allowance and arguments.

    The files are source (to read), made (to write), and a report that is read afterwards. wall: seconds
    until the child and all that it started are killed, imports included. isolation: what to try at
    most; None is all that the host has.
    """
    wrapped = bubblewrap(ours) if isolation in (None, "bubblewrap") else ()
    if isolation == "bubblewrap" and not wrapped:
        raise OSError("bubblewrap does not work here")
    with tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as complaint:
        numbers = [file.fileno() for file in (source, made, report)]
        code = _START.format(root=str(ROOT), entry=entry)
        lockable = "limits" if isolation == "limits" else "landlock"
        said = [*map(str, numbers), str(allowance), lockable, *arguments]
        child = subprocess.Popen(
            [*wrapped, sys.executable, "-I", "-c", code, *said],
            stdin=subprocess.DEVNULL, stdout=complaint, stderr=complaint, cwd="/",
            env=_ENVIRONMENT, pass_fds=numbers, start_new_session=True,
        )  # fmt: skip
        late = not _ends(child, wall)
        status = child.wait()
        if wrapped and status > 128:  # as a shell says it
            status = 128 - status
        return Ended(
            None if status < 0 else status, max(0, -status), late,
            _first(report, _REPORT), _last(complaint, _COMPLAINT), bool(wrapped),
        )  # fmt: skip


def _ends(child: subprocess.Popen[bytes], wall: float) -> bool:
    """Waits for a child, then kills its group; False where the time ran out."""
    try:
        descriptor = os.pidfd_open(child.pid)
        try:
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN)
            return bool(waiting.poll(wall * 1000))
        finally:
            os.close(descriptor)
    finally:  # it is not yet waited for, so that its number is no other's
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _first(file: IO[bytes], most: int) -> bytes:
    file.seek(0)
    return file.read(most)


def _last(file: IO[bytes], most: int) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - most))
    return file.read(most).decode("utf-8", errors="replace")


@functools.cache
def bubblewrap(ours: tuple[str, ...] = _OURS) -> tuple[str, ...]:
    """The words before a command that wrap it; none where bubblewrap is not here or does not work."""
    found = shutil.which("bwrap")
    if found is None:
        return ()
    words = (found, *_namespaces(), *_views(ours), "--chdir", "/", "--")
    try:
        tried = subprocess.run(
            [*words, sys.executable, "-I", "-c", ""], capture_output=True, timeout=60, env={},
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning(_NOT_BUBBLEWRAPPED, error)
        return ()
    if tried.returncode:
        log.warning(_NOT_BUBBLEWRAPPED, tried.stderr.decode(errors="replace").strip()[-200:])
        return ()
    return words


def _namespaces() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ("--unshare-all", "--die-with-parent")
    # In a user namespace of its own a child of root would stay root's and could become nobody else.
    kinds = ("ipc", "pid", "net", "uts", "cgroup-try")
    kept = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    return (*(f"--unshare-{kind}" for kind in kinds), *kept, "--die-with-parent")


def _views(ours: tuple[str, ...]) -> list[str]:
    """What a child sees, to read alone: the system's libraries, the interpreter, this package."""
    seen = {*_SYSTEM, sys.prefix, sys.base_prefix, str(Path(sys.executable).parents[1])}
    seen |= {str(ROOT / name) for name in ours}
    seen |= {os.path.realpath(path) for path in seen}
    words = ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in sorted(seen):  # a folder before what lies in it
        if os.path.islink(path):  # /lib of a system whose libraries are all in /usr
            words += ["--symlink", os.path.realpath(path), path]
        else:
            words += ["--ro-bind-try", path, path]
    return words
