"""Per-image data as text: bits, class numbers and distances of N images, packed for a JSON file."""

from __future__ import annotations

import base64
import binascii
import functools
import math
import zlib

import numpy as np

INTS, FLOATS = "<u2", "<f4"


def pack_bits(bits: np.ndarray) -> str:
    """A boolean vector (N,) as base64 of its packed bits."""
    return base64.b64encode(np.packbits(np.asarray(bits, dtype=bool)).tobytes()).decode()


def unpack_bits(text: str, n: int) -> np.ndarray:
    """Inverse of pack_bits; ValueError where the length is not that of n images."""
    return bits_of(packed_bytes(text, n), n)


def packed_bytes(text: str, n: int) -> bytes:
    """The bytes of packed bits; ValueError where the length is not that of n images."""
    raw = base64.b64decode(text, validate=True)
    if len(raw) != math.ceil(n / 8):
        raise ValueError(f"expected bits of {n} images, got {len(raw)} bytes")
    return raw


def bits_of(raw: bytes, n: int) -> np.ndarray:
    """(n,) bool from packed bytes."""
    return np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=n).astype(bool)


def as_number(raw: bytes, n: int) -> int:
    """Packed bits of n images as one number: compared and counted in a few steps, however many."""
    return int.from_bytes(raw) >> -n % 8  # what fills the last byte says nothing


def pack_ints(values: np.ndarray) -> str:
    """Class numbers (N,), each below 65,536, as base64 of deflated little-endian uint16."""
    return _deflated(values, INTS)


def unpack_ints(text: str, n: int) -> np.ndarray:
    """Inverse of pack_ints, never inflating more than n values; ValueError on a wrong length."""
    return _ints(text, n).astype(np.int64)


@functools.lru_cache(maxsize=16)  # the labels of a record are asked for five times while it is read
def _ints(text: str, n: int) -> np.ndarray:
    return np.frombuffer(inflated(text, n, INTS), dtype=INTS)


def pack_floats(values: np.ndarray) -> str:
    """Non-negative numbers (N,), infinity allowed, as base64 of deflated little-endian float32."""
    return _deflated(values, FLOATS)


def unpack_floats(text: str, n: int) -> np.ndarray:
    """Inverse of pack_floats, (n,) float32; ValueError on a wrong length or a negative number."""
    values = np.frombuffer(inflated(text, n, FLOATS), dtype=FLOATS)
    if not (values >= 0).all():
        raise ValueError("packed numbers must not be negative or NaN")
    return values


def _deflated(values: np.ndarray, dtype: str) -> str:
    raw = np.asarray(values, dtype=dtype).tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def inflated(text: str, n: int, dtype: str) -> bytes:
    """The bytes of n packed numbers; ValueError where they are others, never inflating more."""
    width = np.dtype(dtype).itemsize
    try:
        packed = base64.b64decode(text, validate=True)
        raw = zlib.decompressobj().decompress(packed, width * n + 1)
    except (zlib.error, binascii.Error) as error:
        raise ValueError(f"packed numbers cannot be read: {error}") from None
    if len(raw) != width * n:
        raise ValueError(f"expected {n} packed numbers, got {len(raw) / width:g}")
    return raw
