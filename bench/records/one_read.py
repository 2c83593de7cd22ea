"""A file read once and within bounds: the bytes that are hashed are the bytes that are parsed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from bench.schema.errors import InvalidInput

LARGEST = 8 * 2**30  # bytes of weights; the largest published checkpoints are 1.5e9
LARGEST_EVIDENCE = 2 * 2**30  # bytes; 10,000 CIFAR images under `standard` take 0.1e9


class NotNow(InvalidInput):
    """A file that could not be read this time: gone, closed to us, or being written just now."""


def read_whole(path: Path, *, largest: int = LARGEST, follow: bool = False) -> bytes:
    """The bytes of a regular file, at most `largest`, by one pass over one open file.

    follow: a link is read too, which is for paths that a user named; never for what lies in a folder.
    Raises InvalidInput naming the file where it is missing, a link, no regular file, too large,
    changes its length while it is read, or cannot be read; it is left in place.
    """
    with opened(path, largest=largest, follow=follow) as (file, size), _in_words(path):
        # A mapped file would end the process where another one cuts it short.
        raw = file.read(size + 1)
        if len(raw) != size:
            raise NotNow(f"{path} changed while it was read; is it still being written? Try again")
        return raw


def sha256_of(path: Path, *, largest: int = LARGEST, follow: bool = False) -> str:
    """sha256 (hex) of a file, whatever its size in little memory. Raises as `read_whole`."""
    with opened(path, largest=largest, follow=follow) as (file, _), _in_words(path):
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_named(path: Path, sha256: str | None, *, largest: int, follow: bool = False) -> bytes:
    """The bytes of the file of a sha256 (hex); another file is only hashed, in little memory.

    Raises as `read_whole`, and InvalidInput where it is another file.
    """
    with opened(path, largest=largest, follow=follow) as (file, size), _in_words(path):
        if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
            file.seek(0)
            raw = file.read(size + 1)
            if sha256_of_bytes(raw) == sha256:  # not written to meanwhile
                return raw
    raise InvalidInput(f"{path} is not the file that is named (sha256 differs); left in place")


def is_file(path: Path) -> bool:
    """Whether a regular file lies there, itself and not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


@contextmanager
def opened(
    path: Path, *, largest: int = LARGEST, follow: bool = False
) -> Iterator[tuple[BufferedReader, int]]:
    """A regular file of at most `largest` bytes, open for reading, and how many it had then.

    Raises as `read_whole`.
    """
    # Without O_NONBLOCK, opening a pipe would wait for whoever writes to it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    with _in_words(path):
        file = open(path, "rb", opener=lambda name, _: os.open(name, flags))  # noqa: SIM115
    with file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise InvalidInput(f"{path} is not a regular file; left in place")
        if state.st_size > largest:
            raise InvalidInput(
                f"{path} has {state.st_size:,} bytes, at most {largest:,} are read; left in place"
            )
        yield file, state.st_size


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """What the system says of opening or reading a file, as NotNow or InvalidInput that names it."""
    try:
        yield
    except FileNotFoundError:
        raise NotNow(f"no file at {path}") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidInput(
                f"{path} is a link, which is not followed; put the file itself there"
            ) from None
        if error.errno == errno.EISDIR:
            raise InvalidInput(f"{path} is a folder, not a regular file; left in place") from None
        raise NotNow(f"{path} cannot be read ({error.strerror}); left in place") from None


def sha256_of_bytes(raw: bytes) -> str:
    """sha256 (hex) of bytes: the name of the file that holds them."""
    return hashlib.sha256(raw).hexdigest()
