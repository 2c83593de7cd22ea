"""One member tried: built in a folder of its own, then handed in by a forked process under limits.

The process that forks has imported everything, so that a trial costs milliseconds and its memory is
what the member needs. What a member builds is built in a process too: it may be large.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from tests.hostile.member import CANARY, SECRET, Member, Ran

SECONDS = 5.0  # less what it waited for a core; then the process and all it started are killed
_LONGEST = 12  # times as much on the wall, however long it waited
MEMORY = 500.0  # MB beyond what the imports take
_LARGEST_FILE = 256 * 2**20  # bytes that a trial may write to one file
_OPEN_FILES = 256
_BUILD_SECONDS = 60.0
_USED = (
    *("PIL.Image", "pyarrow.parquet", "sklearn.datasets", "streamlit.testing.v1", "bench.__main__"),
    *("bench.board.records", "bench.board.article", "bench.board.charts", "bench.cli.compare"),
    *(
        "bench.cli.examine",
        "bench.cli.submit",
        "bench.cli.submissions",
        "bench.cli.tables",
        "bench.exports.formats",
    ),
)


def preload() -> None:
    """Imports what the trials use, on one thread: threads do not survive a fork."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _USED:
            importlib.import_module(name)
    torch.isfinite(torch.ones(8)).all()
    np.isfinite(np.ones(8)).all()
    sys.modules["PIL.Image"].init()
    sys.modules["sklearn.datasets"].load_digits()


def run(member: Member, folder: Path) -> Ran:
    """Builds a member in an empty folder and hands it in; tried again where only time ran out."""
    (folder / "secret.json").write_text(f'{{"{SECRET}": "{SECRET}"}}\n')
    built, said, _ = _child(lambda: _build(member), folder, _BUILD_SECONDS, limits=None)
    if built != 0:
        return Ran(None, "", "", died=f"could not be built: {said[1].strip()[-300:]}")
    before = _state(folder)
    ran = _tried(member, folder)
    if ran.died.startswith("killed after"):  # another process may have had the cores
        ran = _tried(member, folder)
    after = _state(folder)
    changed = tuple(name for name in before if after.get(name) != before[name])
    return replace(ran, canary=(folder / CANARY).exists(), changed=changed)


def _build(member: Member) -> int:
    member.build(Path())
    return 0


def _tried(member: Member, folder: Path) -> Ran:
    status, (out, err), (seconds, peak) = _child(member.act, folder, SECONDS, limits=MEMORY)
    died = ""
    if status is None:
        died = f"killed after {SECONDS:g} s"
    elif status < 0:
        died = f"died of {signal.Signals(-status).name}"
    memory = max(0.0, peak - _shared())
    return Ran(None if died else status, out, err, died, memory, seconds)


def _state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Path -> kind, size and time of all that lies in a folder; follows no link."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if not path.is_dir() and not path.name.startswith("."):
            found[str(path.relative_to(folder))] = (
                status.st_mode,
                status.st_size,
                status.st_mtime_ns,
            )
    return found


# ---------------------------------------------------------------- the forked process


def _child(
    work: Callable[[], int], folder: Path, seconds: float, *, limits: float | None
) -> tuple[int | None, tuple[str, str], tuple[float, float]]:
    """(exit status, (stdout, stderr), (seconds, peak MB)) of work in a folder; None: time ran out."""
    names = [folder.with_name(f"{folder.name}.{stream}") for stream in ("out", "err")]
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    child = os.fork()
    if not child:
        _become(work, folder, names, limits)
    ended_itself, waited = _awaited(child, started, seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # all that it started
    _, ended, used = os.wait4(child, 0)
    taken = time.monotonic() - started - waited
    said = [path.read_bytes().decode("utf-8", errors="replace") for path in names]
    for path in names:
        path.unlink()
    code = os.waitstatus_to_exitcode(ended) if ended_itself else None
    return code, (said[0], said[1]), (taken, used.ru_maxrss * 1024 / 1e6)


def _awaited(child: int, started: float, seconds: float) -> tuple[bool, float]:
    """Waits for a process to end, which stays to be asked: whether it did, seconds without a core."""
    pause, waited = 0.001, 0.0
    while True:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            return True, waited
        taken = time.monotonic() - started
        if taken > seconds:
            waited = max(waited, _without_a_core(child))
            if taken - waited > seconds or taken > _LONGEST * seconds:
                return False, waited
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)


def _without_a_core(process: int) -> float:
    """Seconds that the threads of a process were ready and others had the cores."""
    waited = 0.0
    for file in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that ended, or a kernel that does not count
            waited += int(file.read_text().split()[1]) / 1e9
    return waited


def _become(
    work: Callable[[], int], folder: Path, names: list[Path], limits: float | None
) -> NoReturn:
    """What the forked process does: never returns to what the other one was doing."""
    status = 1
    try:
        os.setsid()
        for path, number in zip(names, (1, 2), strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        if limits is not None:
            limit(limits)
        status = _status(work)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _status(work: Callable[[], int]) -> int:
    """As the interpreter would end: argparse leaves with SystemExit."""
    try:
        return int(work())
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)


def limit(memory: float) -> None:
    """Kill limits of this process and of those it starts; memory is in MB beyond what it has now."""
    data = int(_field("VmData") * 1e6 + memory * 1e6)
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _shared() -> float:
    """MB that a fork of this process has in memory at once; libraries that it touches are its own."""
    return _field("RssAnon")


def _field(name: str) -> float:
    """MB that /proc/self/status says of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(name)
