"""A file read once: the bytes that are hashed are the bytes that are parsed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench.schema.errors import InvalidInput

LARGEST = 8 * 2**30  # bytes of weights or evidence; the largest published checkpoints are 1.5e9


@contextmanager
def opened(path: Path, *, largest: int = LARGEST) -> Iterator[tuple[IO[bytes], int]]:
    """A regular file of at most `largest` bytes, open for reading, and how many it had then.

    Raises InvalidInput naming the file where it is missing, no regular file, too large, or cannot be
    read; it is left in place.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for whoever writes to it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            os.close(descriptor)
            what = "a folder" if stat.S_ISDIR(state.st_mode) else "not a regular file"
            raise InvalidInput(f"{path} is {what}; left in place")
        with open(descriptor, "rb") as file:
            if state.st_size > largest:
                raise InvalidInput(
                    f"{path} has {state.st_size:,} bytes, at most {largest:,} are read; left in place"
                )
            yield file, state.st_size
    except FileNotFoundError:
        raise InvalidInput(f"no file at {path}") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error}); left in place") from None


def read_whole(path: Path, *, largest: int = LARGEST) -> bytes:
    """The bytes of a regular file, at most `largest`, by one pass over one open file.

    Raises InvalidInput as `opened`, and where the file changes its length while it is read.
    """
    with opened(path, largest=largest) as (file, size):
        # A mapped file would end the process where another one cuts it short.
        raw = file.read(size + 1)
    if len(raw) != size:
        raise InvalidInput(
            f"{path} changed while it was read; is it still being written? Try again"
        )
    return raw


def sha256_of_bytes(raw: bytes) -> str:
    """sha256 (hex) of bytes: the name of the file that holds them."""
    return hashlib.sha256(raw).hexdigest()
