"""Arrays of numbers from .npz files and pickles that others wrote, read as data: no code of them runs.

Every size is checked before anything is made of it.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.readers.arrays import NUMBERS, read_npy
from bench.schema import InvalidInput

# ---------------------------------------------------------------- .npz


def read_npz(
    source: Path | IO[bytes], keys: Collection[str], *, largest: int
) -> dict[str, np.ndarray]:
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
                        arrays[key] = read_npy(file, member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error) as error:
        raise InvalidInput(f"it is truncated or damaged ({error})") from None
    except (NotImplementedError, RuntimeError) as error:  # a compression or encryption
        raise InvalidInput(f"it is no archive that numpy writes ({error})") from None
    return arrays


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


# ---------------------------------------------------------------- pickles

MOST_INSTRUCTIONS = 5_000_000  # a label in a list is one
MOST_TEXT = 128 * 2**20  # bytes; in memory a text may take four times as much as in the file

# What numpy arrays, numbers, texts, lists, tuples and dicts are written with.
_INSTRUCTIONS = {
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINFLOAT", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE",
    "BUILD",
}  # fmt: skip
_TEXTS = {b"\x8c": "<B", b"X": "<I", b"\x8d": "<Q"}  # instruction -> how the length lies


def read_pickle(raw: bytes) -> Any:
    """The content of a pickle of protocol 2 to 5; lists and tuples as lists.

    Raises InvalidInput with the reason where the pickle is damaged or holds anything else.
    """
    try:
        with warnings.catch_warnings():  # Python has something to say of escapes in hostile text
            warnings.simplefilter("ignore", DeprecationWarning)
            _check_instructions(raw)
            content = _Reader(io.BytesIO(raw)).load()
    except (
        pickle.UnpicklingError, ArithmeticError, AttributeError, BufferError, EOFError, LookupError,
        TypeError, ValueError, struct.error,
    ) as error:  # fmt: skip
        raise InvalidInput(f"it is truncated or damaged ({error})") from None
    if isinstance(content, dict):
        return {key: _finished(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finished(value) for value in content]
    return _finished(content)


def _check_instructions(raw: bytes) -> None:
    """Refuses what no data needs; lengths within the file are checked by pickletools."""
    if raw[:1] != b"\x80" or raw[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise InvalidInput("it is no pickle of protocol 2 to 5")
    file, text = io.BytesIO(raw), 0
    for count, (instruction, _, _) in enumerate(pickletools.genops(file)):
        if instruction.name not in _INSTRUCTIONS:
            raise InvalidInput(f"it uses the instruction {instruction.name}, which no data needs")
        if count >= MOST_INSTRUCTIONS:
            raise InvalidInput(f"it takes more than {MOST_INSTRUCTIONS} instructions")
        following = file.tell()
        if form := _TEXTS.get(raw[following : following + 1]):  # before it is read
            text += struct.unpack_from(form, raw, following + 1)[0]
            _check_text(text)


def _check_text(text: int) -> None:
    if text > MOST_TEXT:
        raise InvalidInput("its arrays are written as text; save it with pickle protocol 4")


def _finished(value: object) -> object:
    """An array instead of one under construction."""
    if not isinstance(value, _Array):
        return value
    if value.content is None:
        raise InvalidInput("an array in it has no content")
    return value.content


class _Dtype:
    """Stands for a numpy.dtype under construction."""

    def __init__(self, *arguments: object) -> None:
        match arguments:
            case (str() as code, *_) if re.fullmatch(NUMBERS, code):
                self.value = np.dtype(code)
            case (str() as code, *_) if re.fullmatch(r"[|]?O\d*", code):
                raise InvalidInput("it holds an array of objects, expected arrays of numbers")
            case _:
                raise InvalidInput("it holds arrays of another type than numbers")

    def __setstate__(self, state: object) -> None:
        """State: (version, byte order, then fields and shapes, which must be absent)."""
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0):
                self.value = self.value.newbyteorder(order)
            case _:
                raise InvalidInput("it holds arrays of records, expected arrays of numbers")


class _Array:
    """Stands for a numpy.ndarray under construction: named first, filled afterwards."""

    content: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), tuple() as shape, _Dtype() as dtype, bool() as fortran, raw):
                self.fill(raw, shape, dtype, "F" if fortran else "C")
            case _:
                raise InvalidInput("an array in it has no readable content")

    def fill(self, raw: object, shape: tuple[object, ...], dtype: _Dtype, order: Any) -> None:
        if not isinstance(raw, bytes | bytearray):
            raise InvalidInput("it holds an array of objects, expected arrays of numbers")
        # What is not yet known to be numbers is not shown: a shape can be nested without end.
        sides = [side for side in shape if type(side) is int and side > 0]
        if len(sides) != len(shape) or len(sides) > 8:
            raise InvalidInput("an array in it is empty or has an impossible shape")
        if math.prod(sides) * dtype.value.itemsize != len(raw):
            raise InvalidInput(
                f"an array in it has {len(raw)} bytes, which its shape does not take"
            )
        self.content = np.frombuffer(raw, dtype.value).reshape(sides, order=order)


_Unpickler: Any = pickle._Unpickler  # whose methods typeshed does not know


class _Reader(_Unpickler):
    """The unpickler in Python, whose memory is bounded by the file, with six names.

    What a name means is given here, so nothing is imported and no code of the file is called.
    """

    encoded = 0  # bytes

    def find_class(self, module: str, name: str) -> Any:
        meanings = {
            ("numpy", "dtype"): _Dtype,
            ("numpy", "ndarray"): _Array,
            ("_codecs", "encode"): self.latin1,
        }
        for core in ("numpy.core", "numpy._core"):  # as numpy 1 and numpy 2 write it
            meanings[f"{core}.multiarray", "_reconstruct"] = self.new_array
            meanings[f"{core}.numeric", "_frombuffer"] = self.array_of_buffer
        if (module, name) not in meanings:
            raise InvalidInput(f"it asks for {f'{module}.{name}'[:80]!r}, which is not data")
        return meanings[module, name]

    def new_array(self, *arguments: object) -> _Array:
        """numpy's _reconstruct(ndarray, (0,), b"b"): the content follows."""
        match arguments:
            case (kind, (0,), _) if kind is _Array:
                return _Array()
        raise InvalidInput("an array in it is of no plain kind")

    def array_of_buffer(self, *arguments: object) -> _Array:
        """numpy's _frombuffer(raw, dtype, shape, order) of protocol 5."""
        array = _Array()
        match arguments:
            case (raw, _Dtype() as dtype, tuple() as shape, "C" | "F" as order):
                array.fill(raw, shape, dtype, order)
                return array
        raise InvalidInput("an array in it has no readable content")

    def latin1(self, *arguments: object) -> bytes:
        """_codecs.encode(text, "latin1"): how protocol 2 writes bytes."""
        match arguments:
            case (str() as text, "latin1" | "latin-1"):
                self.encoded += len(text)
                _check_text(self.encoded)
                return text.encode("latin1")
        raise InvalidInput("it calls _codecs.encode for something else than bytes")

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], _Dtype | _Array):
            raise InvalidInput("it sets the state of something that is no array")
        super().load_build()

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])  # all since the mark
        super().load_setitems()

    dispatch = _Unpickler.dispatch | {
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }


def _check_keys(keys: list[Any]) -> None:
    """Keys are texts, so that nothing nested is ever hashed: that may take for ever."""
    for key in keys:
        if type(key) is not str:
            raise InvalidInput(f"a key of it is {type(key).__name__}, expected text")
