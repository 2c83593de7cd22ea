"""Arrays of numbers in .npz files, never unpickled: every size is checked before anything is made."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from bench.schema import InvalidInput

# The header of an array as numpy and those who write for it write it.
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([^']{1,20})',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\((\d{1,15}(?:,\s*\d{1,15}){0,7},?|)\),?\s*\}\s*"
)
_LONGEST_HEADER = 10_000  # bytes


def read(source: Path | IO[bytes], keys: Collection[str], *, largest: int) -> dict[str, np.ndarray]:
    """Those of the keys that the file has; together at most `largest` bytes.

    Raises InvalidInput with the reason, without the path, where it is damaged or holds objects.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                key = member.filename.removesuffix(".npy")
                if key in keys:
                    largest -= member.file_size
                    if largest < 0:
                        raise InvalidInput("it holds more than can be loaded")
                    with archive.open(member) as file:
                        arrays[key] = _array(file, member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error) as error:
        raise InvalidInput(f"it is truncated or damaged ({error})") from None
    except (NotImplementedError, RuntimeError) as error:  # a compression or encryption
        raise InvalidInput(f"it is no archive that numpy writes ({error})") from None
    return arrays


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """The array of a member that has so many bytes."""
    head = file.read(8)
    if head[:6] != b"\x93NUMPY" or len(head) < 8 or head[6] not in (1, 2, 3):
        raise InvalidInput("a member of it is no array")
    form = "<H" if head[6] == 1 else "<I"
    (length,) = struct.unpack(form, file.read(struct.calcsize(form)))
    if length > _LONGEST_HEADER:
        raise InvalidInput("an array in it has a header longer than any")
    header = _HEADER.fullmatch(file.read(length).decode("latin1"))
    if header is None:
        raise InvalidInput("it holds arrays of records or is damaged, expected arrays of numbers")
    code, fortran, sides = header.groups()
    if not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248]|U\d{1,4})", code):
        kind = "objects" if "O" in code else "another type"
        raise InvalidInput(f"it holds an array of {kind}, expected arrays of numbers")
    dtype, shape = np.dtype(code), [int(side) for side in sides.split(",") if side.strip()]
    expected = math.prod(shape) * dtype.itemsize
    if not expected or expected != size - 8 - struct.calcsize(form) - length:
        raise InvalidInput(f"an array in it is empty or does not have the bytes of {tuple(shape)}")
    raw = file.read(expected)  # to the end of the member, where its checksum is compared
    if len(raw) != expected:
        raise InvalidInput("it is truncated")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran == "True" else "C")


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an .npz file of the arrays, which numpy.load reads; uncompressed, without times."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(array, order="C"), allow_pickle=False)
            member = zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            archive.writestr(member, content.getbuffer())
    return whole.getvalue()
