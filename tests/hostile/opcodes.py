"""Pickles written opcode by opcode, and the archives that torch.save would put them in."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

START, STOP = b"\x80\x02", b"."
MARK, TUPLE, REDUCE, NEWOBJ, BUILD, PERSID = b"(", b"t", b"R", b"\x81", b"b", b"Q"
NONE, EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE = b"N", b"}", b"]", b")"
SETITEM, SETITEMS, APPEND, APPENDS, POP, DUP = b"s", b"u", b"a", b"e", b"0", b"2"
TRUE, FALSE = b"\x88", b"\x89"


def name(module: str, attribute: str) -> bytes:
    """GLOBAL: pushes what a module holds under a name."""
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def items(*pushed: bytes) -> bytes:
    """A tuple of what is pushed."""
    return MARK + b"".join(pushed) + TUPLE


def numbers(*values: int) -> bytes:
    return items(*map(number, values))


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE: the function called with the arguments."""
    return function + items(*arguments) + REDUCE


def state(pairs: Mapping[str, bytes]) -> bytes:
    """A dict of names and what is pushed for each."""
    pushed = b"".join(text(key) + value for key, value in pairs.items())
    return EMPTY_DICT + MARK + pushed + SETITEMS


def storage(key: str, elements: int, *, kind: str = "FloatStorage", device: str = "cpu") -> bytes:
    """A storage that lies in the archive under a key."""
    return (
        items(text("storage"), name("torch", kind), text(key), text(device), number(elements))
        + PERSID
    )


def tensor(
    shape: tuple[int, ...], *, stride: tuple[int, ...] | None = None, offset: int = 0,
    held: bytes | None = None,
) -> bytes:  # fmt: skip
    """A tensor over a storage, by default one of 4 numbers."""
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    if stride is None:
        stride = tuple(_product(shape[k + 1 :]) for k in range(len(shape)))
    hooks = call(name("collections", "OrderedDict"))
    return call(
        rebuild,
        held or storage("0", 4),
        number(offset),
        numbers(*shape),
        numbers(*stride),
        FALSE,
        hooks,
    )


def _product(values: tuple[int, ...]) -> int:
    found = 1
    for value in values:
        found *= value
    return found


def archive(
    path: Path, pushed: bytes, held: Mapping[str, bytes] | None = None, *, raw: bool = False
) -> None:
    """Writes a .pt as torch.save does: the pickle, its storages (by default 4 numbers), the version."""
    program = pushed if raw else START + pushed + STOP
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("net/data.pkl", program)
        made.writestr("net/byteorder", "little")
        for key, content in ({"0": bytes(16)} if held is None else held).items():
            made.writestr(f"net/data/{key}", content)
        made.writestr("net/version", "3\n")


def legacy(path: Path, pushed: bytes, keys: tuple[str, ...] = (), content: bytes = b"") -> None:
    """Writes a .pt of torch before 1.6: three small pickles, the content, keys and storages."""
    import pickle

    made = io.BytesIO()
    pickle.dump(0x1950A86A20F9469CFC6C, made, 2)
    pickle.dump(1001, made, 2)
    sizes = {"short": 2, "int": 4, "long": 4}
    pickle.dump({"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}, made, 2)
    made.write(START + pushed + STOP)
    pickle.dump(list(keys), made, 2)
    path.write_bytes(made.getvalue() + content)
