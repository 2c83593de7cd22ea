"""Small damage that keeps the structure of JSON, zip archives, pickles, safetensors and arrays."""

from __future__ import annotations

import copy
import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 255, 10**4, 10**9, 2**31, 2**63, 10**30, -(10**18)),
    *(
        0.5,
        -0.0,
        1e308,
        1e-320,
        float("nan"),
        float("inf"),
        "",
        "0",
        "8/255",
        "linf",
        "none",
        "NaN",
    ),
    *("a" * 300, "\x1b[2J", "\u202e", "\ud800", "\0", "<b>", "=1+1", "../..", "line\nline"),
    *([], {}, [[]], {"a": 1}, [0] * 50, ["a", None]),
)


def values(rng: Random, document: Any, times: int | None = None) -> Any:
    """A JSON document with a few values changed, dropped, renamed, repeated or swapped."""
    made = copy.deepcopy(document)
    for _ in range(times or rng.choice((1, 1, 1, 2, 4))):
        held = _holders(made)
        if held:
            _damaged(rng, *rng.choice(held), held)
    return made


def _holders(document: Any) -> list[tuple[Any, Any]]:
    """Every place of a document: what holds it, and under which key."""
    found, left = [], [document]
    while left:
        each = left.pop()
        keys = (
            each.keys()
            if isinstance(each, dict)
            else range(len(each))
            if isinstance(each, list)
            else ()
        )
        for key in list(keys):
            found.append((each, key))
            left.append(each[key])
    return found


def _damaged(rng: Random, holder: Any, key: Any, held: list[tuple[Any, Any]]) -> None:
    how = rng.randrange(8)
    value = holder[key]
    if how == 0 and isinstance(holder, dict):
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[rng.choice((f"{key}x", "", "\x1b", key.upper()))] = holder.pop(key)
    elif how == 2:
        other, place = rng.choice(held)
        holder[key] = (
            copy.deepcopy(other[place]) if place in other or isinstance(other, list) else None
        )
    elif how == 3 and isinstance(holder, list):
        holder.append(copy.deepcopy(value))
    elif how in (4, 5) and isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = rng.choice(
            (value + 1, value - 1, -value, value * 1000, value / 2, str(value))
        )
    elif how in (4, 5) and isinstance(value, str):
        holder[key] = _text(rng, value)
    else:
        holder[key] = copy.deepcopy(rng.choice(_ODD))


def _text(rng: Random, value: str) -> str:
    place = rng.randrange(len(value) + 1)
    odd = rng.choice(("", "\x1b", "\u202e", "A", "=", "/", "0", "\n", " ", "é"))
    return rng.choice(
        (value[:place], value[:place] + odd + value[place + 1 :], value * 2, value[::-1])
    )


def json_text(rng: Random, document: Any) -> bytes:
    """A damaged document as text; now and then the text is damaged, too."""
    raw = json.dumps(values(rng, document)).encode()
    return octets(rng, raw) if rng.random() < 0.1 else raw


def octets(rng: Random, raw: bytes, times: int | None = None) -> bytes:
    """Bytes flipped, cut, repeated or overwritten."""
    made = bytearray(raw)
    for _ in range(times or rng.choice((1, 1, 2, 5))):
        if not made:
            break
        place = rng.randrange(len(made))
        how = rng.randrange(6)
        if how < 3:
            made[place] ^= 1 << rng.randrange(8)
        elif how == 3:
            del made[place : place + rng.choice((1, 4, 100, len(made)))]
        elif how == 4:
            made[place:place] = made[place : place + rng.choice((1, 8, 64))]
        else:
            made[place : place + 4] = rng.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f")
            )
    return bytes(made)


# ---------------------------------------------------------------- containers


def archive(rng: Random, raw: bytes, damage: Callable[[Random, str, bytes], bytes]) -> bytes:
    """A zip file packed again, with right sums, after one member was damaged, dropped or renamed."""
    with zipfile.ZipFile(io.BytesIO(raw)) as held:
        pairs = [(name, held.read(name)) for name in held.namelist()]
    place, how = rng.randrange(len(pairs)), rng.randrange(12)
    name, content = pairs[place]
    if how == 0:
        del pairs[place]
    elif how == 1:
        pairs[place] = (name + rng.choice(("x", "/", "/../x", "\x1b")), content)
    elif how == 2:
        pairs.insert(rng.randrange(len(pairs)), ("more/" + name, content))
    elif how == 3:
        rng.shuffle(pairs)
    else:
        likely = [k for k, (n, _) in enumerate(pairs) if n.endswith((".pkl", ".npy"))] or [place]
        place = rng.choice(likely) if rng.random() < 0.8 else place
        pairs[place] = (pairs[place][0], damage(rng, *pairs[place]))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        for each, inner in pairs:
            packed.writestr(each, inner)
    return made.getvalue()


_SWAPS = b".0(}])lt2Nu\x88\x89RbsaeQ\x81"


def pickled(rng: Random, raw: bytes) -> bytes:
    """A pickle with an opcode swapped, left out or repeated, or with another argument."""
    try:
        found = [
            (op, arg, place) for op, arg, place in pickletools.genops(raw) if place is not None
        ]
    except Exception:  # damaged before: its bytes are left to flip
        return octets(rng, raw)
    ends = [*(place for _, _, place in found[1:]), len(raw)]
    k = rng.randrange(1, len(found))
    (op, _, start), end = found[k], ends[k]
    piece, how = raw[start:end], rng.randrange(6)
    if how == 0:
        piece = b""
    elif how == 1:
        piece *= 2
    elif how == 2 or len(piece) == 1:
        piece = bytes([rng.choice(_SWAPS)])
    elif op.name in ("BININT", "BININT1", "BININT2"):
        number = rng.choice((0, 1, -1, 7, 2**31 - 1, -(2**31), 1000, 65_536))
        piece = b"J" + struct.pack("<i", number)
    elif op.name in ("BINUNICODE", "SHORT_BINUNICODE", "GLOBAL"):
        place = rng.randrange(1 if op.name == "GLOBAL" else min(5, len(piece) - 1), len(piece))
        piece = piece[:place] + bytes([rng.randrange(10, 128)]) + piece[place + 1 :]
    else:
        piece = piece[:1] + octets(rng, piece[1:], 1)
    return raw[:start] + piece + raw[end:]


def safetensors(rng: Random, raw: bytes) -> bytes:
    """A safetensors file whose header, as JSON, is damaged, and its length made to fit."""
    (size,) = struct.unpack("<Q", raw[:8])
    header = values(rng, json.loads(raw[8 : 8 + size]))
    text, content = json.dumps(header).encode(), raw[8 + size :]
    if rng.random() < 0.2:
        content = octets(rng, content, 1)
    return struct.pack("<Q", len(text)) + text + content


def array(rng: Random, held: np.ndarray) -> np.ndarray:
    """An array of other numbers, another type or another shape."""
    how = rng.randrange(7)
    made = held.copy()
    if how == 0:
        return made.astype(rng.choice(("|u1", "<i2", "<i8", "<f2", "<f4", "<f8", "<c8", "?", "U3")))
    if how == 1 and made.ndim:
        return made[: rng.randrange(len(made) + 1)]
    if how == 2:
        return made.reshape(
            rng.choice(((-1,), (1, *made.shape), (*made.shape, 1), made.shape[::-1]))
        )
    if how == 3 and made.size and made.dtype.kind in "fc":
        made.flat[rng.randrange(made.size)] = rng.choice((np.nan, np.inf, -1.0, 1e38, 2.0))
    elif made.size and made.dtype.kind in "iu":
        low, high = np.iinfo(made.dtype).min, np.iinfo(made.dtype).max
        made.flat[rng.randrange(made.size)] = rng.choice((low, high, 0, 1))
    elif made.ndim > 1 and how == 5:
        return np.swapaxes(made, 0, -1)
    return made


def npy(rng: Random, raw: bytes) -> bytes:
    """A .npy file of a damaged array, or one whose header lies."""
    if rng.random() < 0.3:
        return octets(rng, raw[:120], 1) + raw[120:]
    if rng.random() < 0.3:
        lie = rng.choice(
            (
                (b"(", b"(9"),
                (b"False", b"True "),
                (b"<f4", b"<f8"),
                (b"|u1", b"|i1"),
                (b"|i1", b"|u1"),
            )
        )
        return raw.replace(*lie, 1)
    made = io.BytesIO()
    np.save(made, array(rng, np.load(io.BytesIO(raw))), allow_pickle=False)
    return made.getvalue()
