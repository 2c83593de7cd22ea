"""Per-image data as text: bits, class numbers and distances of N images, packed for a JSON file."""

from __future__ import annotations

import base64
import binascii
import math
import zlib

import numpy as np

INTS = "<u2"


def pack_bits(bits: np.ndarray) -> str:
    """A boolean vector (N,) as base64 of its packed bits."""
    return base64.b64encode(np.packbits(np.asarray(bits, dtype=bool)).tobytes()).decode()


def unpack_bits(text: str, n: int) -> np.ndarray:
    """Inverse of pack_bits; ValueError where the length is not that of n images."""
    raw = packed_bytes(text, n)
    return np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=n).astype(bool)


def packed_bytes(text: str, n: int) -> bytes:
    """The bytes of packed bits; ValueError where the length is not that of n images."""
    raw = base64.b64decode(text, validate=True)
    if len(raw) != math.ceil(n / 8):
        raise ValueError(f"expected bits of {n} images, got {len(raw)} bytes")
    return raw


def whole_number(text: str, n: int) -> int:
    """Packed bits of n images as one number: compared and counted in a few steps, however many."""
    return int.from_bytes(packed_bytes(text, n)) >> -n % 8  # what fills the last byte says nothing


def pack_ints(values: np.ndarray) -> str:
    """Class numbers (N,), each below 65,536, as base64 of deflated little-endian uint16."""
    raw = np.asarray(values, dtype=INTS).tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def unpack_ints(text: str, n: int) -> np.ndarray:
    """Inverse of pack_ints, never inflating more than n values; ValueError on a wrong length."""
    return np.frombuffer(inflated(text, n, INTS), dtype=INTS).astype(np.int64)


def pack_floats(values: np.ndarray) -> str:
    """Non-negative numbers (N,), infinity allowed, as base64 of deflated little-endian float32."""
    raw = np.asarray(values, dtype="<f4").tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def unpack_floats(text: str, n: int) -> np.ndarray:
    """Inverse of pack_floats, (n,) float32; ValueError on a wrong length or a negative number."""
    values = np.frombuffer(inflated(text, n, "<f4"), dtype="<f4")
    if not (values >= 0).all():
        raise ValueError("packed numbers must not be negative or NaN")
    return values


def inflated(text: str, n: int, dtype: str) -> bytes:
    """The bytes of n packed numbers; ValueError where they are others, never inflating more."""
    width = np.dtype(dtype).itemsize
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(base64.b64decode(text, validate=True), width * n + 1)
    except (zlib.error, binascii.Error) as error:
        raise ValueError(f"packed numbers cannot be read: {error}") from None
    if len(raw) != width * n:
        raise ValueError(f"expected {n} packed numbers, got {len(raw) / width:g}")
    return raw
