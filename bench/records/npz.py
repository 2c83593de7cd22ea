"""Arrays of .npz files that others may have written: type and shape are compared before any is made.

No pickle is read, and torch is not needed.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np

# Of a damaged file; RuntimeError of one that is encrypted, the last ones of a header that is no text.
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, ArithmeticError, EOFError, KeyError, MemoryError,
    OSError, RuntimeError, SyntaxError, TypeError, ValueError, tokenize.TokenError,
)  # fmt: skip
_MOST_MEMBERS = 1000  # evidence has four a column
MOST_BYTES = 2**32  # of one array: 5,000 images of ImageNet kept exactly are 3.0e9
_BLOCK = 2**20  # bytes inflated at once
_ENTRY = b"PK\x01\x02"  # what a member's line in the table of contents begins with


@contextmanager
def opened(raw: bytes) -> Iterator[zipfile.ZipFile]:
    """An archive; raises one of UNREADABLE where it is none, here or inside the context."""
    if raw.count(_ENTRY) > _MOST_MEMBERS:
        raise ValueError(f"it has more than {_MOST_MEMBERS} members")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        yield archive


def array(
    archive: zipfile.ZipFile, name: str, dtype: np.typing.DTypeLike, shape: tuple[int | None, ...],
    *, most: int | None = None, largest: int = MOST_BYTES,
) -> np.ndarray:  # fmt: skip
    """An array of a given type and shape, None for any length, of at most `most` rows.

    largest is in bytes, once it is inflated.

    Its checksum is compared. Raises one of UNREADABLE where it is missing, another or damaged.
    """
    wanted = np.dtype(dtype)
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed otherwise than numpy does")  # LZMA may take 4 GB
    with cast(zipfile.ZipExtFile, archive.open(member)) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is written in another way than numpy's first")
        sides, fortran, found = np.lib.format.read_array_header_1_0(file)
        fits = len(sides) == len(shape) and all(
            side >= 0 and asked in (None, side) for side, asked in zip(sides, shape, strict=True)
        )
        if found != wanted or not fits or (most is not None and sides[0] > most):
            raise ValueError(f"{name} has not the type or shape that is expected")
        size = math.prod(sides) * found.itemsize
        if size > min(member.file_size, largest):
            raise ValueError(f"{name} is shorter than its shape, or larger than is read")
        data = bytearray()
        while len(data) <= size and (
            block := file.read(_BLOCK)
        ):  # at the end the checksum is compared
            data += block
    if len(data) != size:
        raise ValueError(f"{name} has not the bytes of its shape")
    return np.frombuffer(data, found).reshape(sides, order="F" if fortran else "C")


Fields = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def perturbations(
    archive: zipfile.ZipFile,
    prefix: str,
    n: int,
    shape: tuple[int, ...] | None,
    *,
    largest: int = MOST_BYTES,
) -> Fields:
    """(index, steps, scale, exact) as `bench.evidence.Perturbations`, of some of n images.

    shape (C, H, W) is that of an image; None: whatever they have. Raises one of UNREADABLE.
    """
    sides = shape or (None, None, None)
    index = array(archive, f"{prefix}index", np.int32, (None,), most=n)
    steps = array(
        archive, f"{prefix}steps", np.int8, (None, *sides), most=len(index), largest=largest
    )
    scale = array(archive, f"{prefix}scale", np.float32, (len(steps),))
    rest = (len(index) - len(steps), *steps.shape[1:])
    exact = array(archive, f"{prefix}exact", np.float32, rest, largest=largest)
    if len(set(index.tolist())) != len(index) or not ((index >= 0) & (index < n)).all():
        raise ValueError(f"it names images that are none of the {n}, or one of them twice")
    return index, steps, scale, exact
