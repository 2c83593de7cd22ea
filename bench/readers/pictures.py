"""PNG and JPEG pictures as arrays of bytes (H, W, C): grey stays one channel, nothing is rounded.

What cannot be had exactly in 8 bits and one or three channels is refused, never converted in silence.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from bench.readers.arrays import MOST
from bench.schema import InvalidInput

LONGEST = 8 * 2**20  # bytes of an encoded picture
MOST_PIXELS = 4096 * 4096  # of one picture
FORMATS = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}  # how a file of each begins
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_KEPT = {"1": "L", "L": "L", "RGB": "RGB"}  # PIL's mode -> the same values in 8 bits
_UNTOLD = {"CMYK": "of printing colours (CMYK)", "I;16": "of 16 bits a channel"}


def decode(raw: bytes, where: str) -> np.ndarray:
    """(H, W, 1) or (H, W, 3) uint8 of an encoded picture; where names it in errors.

    Palettes become the colours they stand for; a fully opaque alpha channel is left out. Raises
    InvalidInput where it is no PNG or JPEG, damaged, cut short, too large, moving, partly
    transparent, of 16 bits or in CMYK.
    """
    from PIL import Image

    kind = next((k for k, magic in FORMATS.items() if raw.startswith(magic)), None)
    if kind is None or len(raw) > LONGEST:
        came = "another file" if kind is None else "a longer one"
        raise InvalidInput(
            f"{where}: expected a PNG or JPEG of at most {LONGEST:,} bytes, got {came}"
        )
    if _ENDS[kind] not in raw[-1024:]:
        raise InvalidInput(f"{where}: the {kind} is cut short; fetch it again")
    if kind == "PNG" and raw[24] > 8:
        raise InvalidInput(f"{where}: the picture is {_UNTOLD['I;16']}; {_WANTED}")
    try:
        with warnings.catch_warnings():  # of PIL, of large pictures: the size is compared here
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(raw), formats=(kind,)) as picture:
                picture.verify()  # the sums of a PNG's parts, which loading does not compare
            with Image.open(io.BytesIO(raw), formats=(kind,)) as picture:
                if math.prod(picture.size) > MOST_PIXELS:
                    raise _too_large(where, picture.size)
                if kind == "PNG" and getattr(picture, "n_frames", 1) > 1:
                    raise InvalidInput(f"{where}: the picture moves; {_WANTED}")
                picture.load()
                return _as_bytes(picture, where)
    except Image.DecompressionBombError:
        raise _too_large(where) from None
    except (OSError, SyntaxError, ValueError, LookupError, struct.error, zlib.error) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{where}: the {kind} is damaged; fetch it again") from None


_WANTED = "expected 8 bits, grey or RGB"


def _too_large(where: str, size: tuple[int, int] | None = None) -> InvalidInput:
    came = f": it has {size[0]} x {size[1]}" if size else ""
    return InvalidInput(f"{where}: at most {MOST_PIXELS:,} pixels a picture are read{came}")


def _as_bytes(picture: Any, where: str) -> np.ndarray:
    """(H, W, C) of an open picture."""
    if picture.mode in ("LA", "RGBA", "P", "PA") or "transparency" in picture.info:
        grey = picture.mode in ("1", "L", "LA")
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[0] < 255:
            raise InvalidInput(
                f"{where}: the picture is partly transparent, and what lies behind it is not known; "
                f"{_WANTED}"
            )
        picture = picture.convert("RGB")
        picture = picture.getchannel(0) if grey else picture
    if picture.mode not in _KEPT:
        raise InvalidInput(
            f"{where}: the picture is {_UNTOLD.get(picture.mode, f'in mode {picture.mode}')}; {_WANTED}"
        )
    values = np.asarray(picture.convert(_KEPT[picture.mode]))
    return values.reshape(*values.shape[:2], -1)


def stacked(pictures: Iterable[tuple[str, bytes]], total: int) -> np.ndarray:
    """(N, C, H, W) uint8 of `total` encoded pictures, each with what errors call it.

    Raises InvalidInput naming the first that has another size or number of channels than the first
    of all, and, before room is made for them, where all of them are more than MOST bytes.
    """
    whole, first = np.empty(0, np.uint8), ""
    count = 0
    for count, (where, raw) in enumerate(pictures, start=1):
        values = decode(raw, where).transpose(2, 0, 1)
        if count == 1:
            first = where
            if values.size * total > MOST:
                raise InvalidInput(
                    f"{total:,} pictures of {_size(values.shape)} are {values.size * total:,} bytes, "
                    f"at most {MOST:,} are read: hand in fewer"
                )
            whole = np.empty((total, *values.shape), np.uint8)
        if values.shape != whole.shape[1:]:
            raise InvalidInput(
                f"{where} is {_size(values.shape)}, but {first} is {_size(whole.shape[1:])}: all "
                "pictures of a data set have one size and are all grey or all RGB"
            )
        whole[count - 1] = values
    if count != total:
        raise InvalidInput(f"{total:,} pictures were expected after {first}, {count:,} came")
    return whole


def _size(shape: tuple[int, ...]) -> str:
    """`32 x 28 grey`: width, height and colour of (C, H, W)."""
    return f"{shape[2]} x {shape[1]} {'grey' if shape[0] == 1 else 'RGB'}"
