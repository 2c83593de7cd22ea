"""A process locks itself before it reads what a stranger wrote; it cannot unlock itself again."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

NOBODY = 65_534  # the uid and gid that own nothing
_OPEN_FILES = 32
_GRACE = 5  # seconds
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446  # system calls, the same on every machine
# Version of Landlock -> rights over files that it knows, as a count of bits.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_RIGHTS_SINCE_5 = 16
_NO_NEW_PRIVILEGES, _DIES_WITH_PARENT = 38, 1  # of prctl


@dataclass(frozen=True)
class Allowance:
    """What a process may still use once it is locked."""

    memory: int  # bytes of data beyond what it has
    cpu: int  # seconds of the processor
    seconds: int  # of the clock
    written: int  # bytes of one file

    def __str__(self) -> str:
        return ",".join(str(value) for value in asdict(self).values())

    @classmethod
    def read(cls, text: str) -> Allowance:
        """What `str` made."""
        return cls(*map(int, text.split(",")))


def lock(allowance: Allowance, *, landlock: bool = True) -> str:
    """Locks this process, which must have one thread, for good; says in words what holds it.

    Open files stay open. Nothing else can be opened, started or imported afterwards where Landlock is.
    Raises OSError, or RuntimeError where there are more threads.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a process that locks itself has one thread")
    words = [_limited(allowance)]
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    words.append(f"uid {os.geteuid()}")
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # which root would not heed
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(libc.prctl(_DIES_WITH_PARENT, signal.SIGKILL, 0, 0, 0))
    if landlock and (version := libc.syscall(_LANDLOCK_CREATE, None, 0, 1)) > 0:
        _without_a_rule(libc, version)
        words.append(f"Landlock {version}")
    signal.alarm(allowance.seconds)
    return ", ".join(words)


def _limited(allowance: Allowance) -> str:
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(used.ru_utime + used.ru_stime) + 1 + allowance.cpu
    # Not the address space: CUDA builds of torch reserve far more of it than they use.
    data = _data() + allowance.memory
    for kind, most in (
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, data), (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, allowance.written), (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):  # fmt: skip
        _, hard = resource.getrlimit(kind)
        within = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # At the first limit of processor time comes a signal that says so, at the last one SIGKILL.
        later = within + _GRACE if kind == resource.RLIMIT_CPU else within
        resource.setrlimit(kind, (within, later if hard == resource.RLIM_INFINITY else within))
    return "limits"


def _without_a_rule(libc: ctypes.CDLL, version: int) -> None:
    """Forbids every right that this version of Landlock handles: files, TCP, signals to others."""
    files = (1 << _RIGHTS.get(version, _RIGHTS_SINCE_5)) - 1
    network = 3 if version >= 4 else 0
    scopes = 3 if version >= 6 else 0
    size = 8 * (1 + (version >= 4) + (version >= 6))
    rules = struct.pack("<QQQ", files, network, scopes)[:size]
    descriptor = libc.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(size), 0)
    _checked(descriptor)
    _checked(libc.syscall(_LANDLOCK_RESTRICT, descriptor, 0))
    os.close(descriptor)


def _checked(answer: int) -> None:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _data() -> int:
    """Bytes of data that this process has."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status names no VmData")
