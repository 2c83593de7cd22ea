"""Arrays of numbers from IDX and .npy files: every size is compared with the file's before it is used.

A file may be a link to a regular one, as in the caches of data sets; nothing else is ever opened.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from contextlib import AbstractContextManager
from io import BufferedReader
from pathlib import Path
from typing import IO

import numpy as np

from bench.records import one_read
from bench.records.one_read import read_whole
from bench.schema import InvalidInput

MOST = 2 * 2**30  # bytes of the images of one part of a data set, as they lie in memory


def opened(
    path: Path, *, largest: int = MOST
) -> AbstractContextManager[tuple[BufferedReader, int]]:
    """A regular file of at most `largest` bytes, open for reading, and its size in bytes.

    Raises InvalidInput naming the file where it is missing, anything else, too large, or unreadable.
    """
    return one_read.opened(path, largest=largest, follow=True)


def refuse_special(path: Path, *, largest: int = MOST) -> None:
    """Raises InvalidInput where others will read a file that is none, or larger than `largest`."""
    if path.exists() and not path.is_dir():
        with opened(path, largest=largest):
            pass


# ---------------------------------------------------------------- IDX

_GZIP = 31  # zlib's window bits for a gzip stream
_OVERHEAD = 2**16  # bytes of headers, and of what gzip adds to bytes it cannot shrink


def read_idx(path: Path, *, largest: int) -> np.ndarray:
    """An IDX file of unsigned bytes, gzipped or not: the format of the MNIST home page.

    largest: bytes of the array. A stream is inflated up to the size that its header declares. Raises
    InvalidInput naming the file where it is truncated, longer, larger or no such file.
    """
    raw = read_whole(path, follow=True, largest=largest + largest // 100 + _OVERHEAD)
    stream = zlib.decompressobj(_GZIP)
    zipped = path.suffix == ".gz"
    try:
        head = stream.decompress(raw, 4 + 4 * 3) if zipped else raw[:16]
        axes = head[3] if head[:3] == b"\0\0\x08" and len(head) > 3 else 0
        if axes not in (1, 3) or len(head) < 4 + 4 * axes:
            raise InvalidInput(f"{path} is not a complete IDX file of bytes; fetch it again")
        shape = struct.unpack(f">{axes}I", head[4 : 4 + 4 * axes])
        expected = 4 + 4 * axes + math.prod(shape)
        if math.prod(shape) > largest:
            raise InvalidInput(
                f"{path} declares an array {shape}, which is more than the {largest:,} bytes of "
                "the data set; fetch it again"
            )
        rest = expected + 1 - len(head)
        if zipped and rest > 0:
            raw = head + stream.decompress(stream.unconsumed_tail, rest)
    except zlib.error:
        raise InvalidInput(f"{path} is no gzip stream, or a damaged one; fetch it again") from None
    if len(raw) != expected or (zipped and not stream.eof):
        raise InvalidInput(
            f"{path} is not a complete IDX file: expected {expected:,} bytes, "
            f"{'more' if len(raw) > expected else 'fewer'} came; fetch it again"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)


# ---------------------------------------------------------------- .npy

# The header of an array as numpy and those who write for it write it.
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([^']{1,20})',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\((\d{1,15}(?:,\s*\d{1,15}){0,7},?|)\),?\s*\}\s*"
)
_LONGEST_HEADER = 10_000  # bytes
NUMBERS = "[<>|=]?(b1|[iu][1248]|f[248])"  # type codes


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """The array of an open .npy file, or member of an archive, that has so many bytes.

    Raises InvalidInput with the reason alone where it holds objects, or not the bytes it declares.
    """
    head = file.read(8)
    if head[:6] != b"\x93NUMPY" or len(head) < 8 or head[6] not in (1, 2, 3):
        raise InvalidInput("it is no array")
    form = "<H" if head[6] == 1 else "<I"
    length_field = file.read(struct.calcsize(form))
    if len(length_field) != struct.calcsize(form):
        raise InvalidInput("it is truncated or damaged")
    (length,) = struct.unpack(form, length_field)
    if length > _LONGEST_HEADER:
        raise InvalidInput("its header is longer than any")
    header = _HEADER.fullmatch(file.read(length).decode("latin1"))
    if header is None:
        raise InvalidInput("it holds an array of records or is damaged, expected numbers")
    code, fortran, sides = header.groups()
    if not re.fullmatch(rf"{NUMBERS}|[<>|=]?U\d{{1,4}}", code):
        kind = "objects" if "O" in code else "another type"
        raise InvalidInput(f"it holds an array of {kind}, expected numbers")
    dtype, shape = np.dtype(code), [int(side) for side in sides.split(",") if side.strip()]
    expected = math.prod(shape) * dtype.itemsize
    if not expected or expected != size - 8 - struct.calcsize(form) - length:
        raise InvalidInput(f"it is empty or does not have the bytes of an array {tuple(shape)}")
    raw = file.read(expected)  # of an archive: to its member's end, where its checksum is compared
    if len(raw) != expected:
        raise InvalidInput("it is truncated or damaged")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran == "True" else "C")
