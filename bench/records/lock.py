"""Locks: two processes never work on the same files at once, and a killed one leaves no lock behind."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from bench.schema import InvalidInput

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
_held: set[int] = set()  # descriptors of the locks of this process


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path` inside; `what` names in words what is worked on.

    The kernel lets go of it when the process ends, however it ends; children made by fork do not hold
    it. The file is removed afterwards. Raises InvalidInput at once where another process holds it.
    """
    if fcntl is None:
        yield
        return
    descriptor = _acquire(path, what)
    _held.add(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is let go: whoever waits looks whether it is there
        _held.discard(descriptor)
        os.close(descriptor)


def _acquire(path: Path, what: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise InvalidInput(
                f"another process (pid {holder}) works on {what}; wait until it has ended, or stop it"
            ) from None
        except OSError as error:  # a file system without locks
            log.warning("%s cannot be locked (%s); start nothing else on %s", path, error, what)
            return descriptor
        if _is_at(descriptor, path):
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder ended and removed it just now


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_let_go)
