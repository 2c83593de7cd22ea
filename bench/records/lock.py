"""Locks: two processes never work on the same files at once, and a killed one leaves no lock behind."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from bench.schema import InvalidInput

log = logging.getLogger(__name__)
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # some network file systems
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


class InUse(InvalidInput):
    """Another process works on it: the same call does once that has ended."""


@contextlib.contextmanager
def locked(path: Path, what: str, *, wait: float = 0.2) -> Iterator[None]:
    """Holds the lock file `path` inside; `what` names in words what is worked on.

    The kernel lets go of it when the process ends, however it ends; children made by fork do not hold
    it. The file is removed afterwards. Raises InUse where another process holds it for longer than
    `wait` seconds, InvalidInput where something else is in the way.
    """
    made(path.parent)
    if _in_the_way(path):
        raise InvalidInput(f"{path} is in the way of a lock: expected a file of ours; remove it")
    # Not one try but a moment: a holder that ends just now leaves a file that is no longer there.
    lock = filelock.FileLock(path, timeout=wait, poll_interval=0.02, fallback_to_soft=False)
    try:
        lock.acquire()
        path.write_text(str(os.getpid()), encoding="ascii")
    except filelock.Timeout:
        raise InUse(
            f"another process (pid {_holder(path)}) works on {what}; "
            "wait until it has ended, or stop it"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        log.warning("%s cannot be locked (%s); start nothing else on %s", path, error, what)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is let go: whoever waits looks whether it is there
        lock.release()


def made(folder: Path) -> Path:
    """A folder for files, made where it is not there.

    Raises InvalidInput where it cannot be made or takes no file, OSError where there is no room.
    """
    what = "cannot be made"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        what = "takes no files"
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        raise InvalidInput(
            f"the folder {folder} {what} ({error.strerror}); name another one"
        ) from None
    return folder


def _in_the_way(path: Path) -> bool:
    """Whether something else than a file lies there: by one look, for a holder may remove its file."""
    with contextlib.suppress(FileNotFoundError):
        return not stat.S_ISREG(path.lstat().st_mode)
    return False


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeError):
        return path.read_text(encoding="ascii").strip() or "unknown"
    return "unknown"
