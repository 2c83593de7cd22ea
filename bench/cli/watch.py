"""Passes in hand: since when each process waits for a model, seen by whoever started it.

A model that never returns stops its process for good, in C too: no thread of that process gets a
word in. So each process writes down when a pass began, in memory that it shares with its parent, and
the parent ends a process whose pass takes too long. Without torch.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

FEWEST_SECONDS = 300.0  # a pass has at least so long: the first one may compile a network
# Otherwise so many times what an image has taken at best: a pass is of 1024 images at most, goes back
# through the network too, and others may be using the machine.
IMAGES = 20 * 1024
AWAY = 30.0  # seconds without a look after which whoever looks was stopped itself
_SLOTS = 1024
# Process, seconds that its pass may take, and until when (0: none is in hand). The last alone says
# whether a pass is late: the parent reads while a process writes, and sees of a number that is native
# and aligned the old or the new, but of several any mixture.
_SLOT = 3 * 8
_PROCESS, _NUMBER = struct.Struct("@q"), struct.Struct("@d")
_WILL = 1 << 20  # bytes; what is written down should this process be ended

_shared: mmap.mmap | None = None  # None: no parent watches
_allowed: float | None = None  # seconds a pass may take, where they were named
_fastest = float("inf")  # seconds an image
_looked, _back = float("-inf"), float("-inf")  # when was looked last, and when a stop ended
_depth = 0


def begin() -> None:
    """Shares what this process and those it will start write down."""
    global _shared
    _shared = mmap.mmap(-1, _SLOTS * _SLOT + _WILL)


def allow(seconds: float | None) -> None:
    """Sets how long a pass may take; None: as long as the first passes suggest."""
    global _allowed
    _allowed = seconds


def limit() -> float:
    """Seconds that the next pass may take."""
    if _allowed is not None:
        return _allowed
    return max(FEWEST_SECONDS, IMAGES * _fastest) if _fastest < float("inf") else FEWEST_SECONDS


@contextlib.contextmanager
def in_hand(images: int = 0) -> Iterator[None]:
    """Inside, a model is waited for; a forward pass says of how many images."""
    global _depth, _fastest
    if _shared is None or _depth:  # a pass inside a pass is that pass
        yield
        return
    pid, began, allowed = os.getpid(), time.monotonic(), limit()
    at = pid % _SLOTS * _SLOT
    _depth += 1
    _NUMBER.pack_into(_shared, at + 16, 0.0)  # of another process with the same place
    _PROCESS.pack_into(_shared, at, pid)
    _NUMBER.pack_into(_shared, at + 8, allowed)
    _NUMBER.pack_into(_shared, at + 16, began + allowed)
    try:
        yield
    finally:
        _depth -= 1
        _NUMBER.pack_into(_shared, at + 16, 0.0)
        if images:
            _fastest = min(_fastest, (time.monotonic() - began) / images)


def overdue(pid: int) -> float | None:
    """The seconds that a process's pass was allowed and has outlasted; None where it has not."""
    global _looked, _back
    if _shared is None:
        return None
    now = time.monotonic()
    if now - _looked > AWAY:  # stopped meanwhile, as by Ctrl-Z, and the process with it
        _back = now
    _looked = now
    at = pid % _SLOTS * _SLOT
    (until,), (whose,) = _NUMBER.unpack_from(_shared, at + 16), _PROCESS.unpack_from(_shared, at)
    if whose != pid or not until or now <= until:
        return None
    (allowed,) = _NUMBER.unpack_from(_shared, at + 8)
    (still,) = _NUMBER.unpack_from(_shared, at + 16)
    if still != until or now < _back + allowed:  # it returned meanwhile, or has its time anew
        return None
    return float(allowed)


def sentence(seconds: float) -> str:
    """Why a process was ended."""
    return (
        f"the model did not return: one pass took more than {seconds:g} s and was stopped. "
        "--pass-seconds S gives a slow model longer"
    )


# ---------------------------------------------------------------- what is left behind


@contextlib.contextmanager
def will(text: str) -> Iterator[None]:
    """Inside, this is what the parent finds should it have to end this process."""
    raw = text.encode()
    if _shared is None or len(raw) > _WILL - 8:
        yield
        return
    at = _SLOTS * _SLOT
    _shared[at + 8 : at + 8 + len(raw)] = raw
    struct.pack_into("=q", _shared, at, len(raw))
    try:
        yield
    finally:
        struct.pack_into("=q", _shared, at, 0)


def left() -> str:
    """The will of the process that was ended; empty where it made none."""
    if _shared is None:
        return ""
    at = _SLOTS * _SLOT
    (size,) = struct.unpack_from("=q", _shared, at)
    return _shared[at + 8 : at + 8 + size].decode()


def end(pid: int) -> None:
    """Kills a process with all that it started, for none of them is waited for."""
    family = [pid]
    for member in family:
        family += _children(member)
    for member in family:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(member, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    """What a process started and still runs; none outside Linux."""
    try:
        lists = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for each in lists for child in each.read_text().split()]
    except OSError:  # it ended meanwhile
        return []
