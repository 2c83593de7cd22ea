"""Numpy arrays in plain containers, read from a pickle as data: no code of the file or for it runs.

A pickle is a program for a small stack machine. This one knows the instructions that numpy arrays,
numbers, texts, lists, tuples and dicts are written with, and six names, whose meaning is given here.
Every length is checked against the file before anything is made of it.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.schema import InvalidInput

LARGEST_STACK = 100_000  # objects; a list is written 1,000 items at a time
MOST_INSTRUCTIONS = 5_000_000  # a label in a list is one
MOST_TEXT = 128 * 2**20  # bytes; in memory a text may take four times as much as in the file


def read(raw: memoryview) -> object:
    """The content of a pickle of protocol 2 to 5; arrays are views of raw where it holds their bytes.

    Raises InvalidInput with the reason where the pickle is damaged or holds anything else.
    """
    machine = _Machine(raw)
    try:
        return _plain(machine.run())
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise InvalidInput(f"it is truncated or damaged ({error})") from None


# ---------------------------------------------------------------- what names mean here


@dataclass
class _Dtype:
    """A data type under construction."""

    value: np.dtype[Any]

    def build(self, state: tuple[Any, ...]) -> None:
        """State: (version, byte order, then fields and shapes, which must be absent)."""
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0):
                self.value = self.value.newbyteorder(order)
            case _:
                raise InvalidInput("it holds arrays of records, expected arrays of numbers")


@dataclass
class _Array:
    """An array under construction: named first, filled afterwards."""

    value: np.ndarray | None = None

    def build(self, state: tuple[Any, ...]) -> None:
        match state:
            case (int(), tuple() as shape, _Dtype(dtype), bool() as fortran, raw):
                self.value = _shaped(raw, dtype, shape, "F" if fortran else "C")
            case _:
                raise InvalidInput("an array in it has no readable content")


def _shaped(raw: object, dtype: np.dtype[Any], shape: tuple[object, ...], order: object) -> Any:
    if not isinstance(raw, bytes | memoryview):
        raise InvalidInput("it holds an array of objects, expected arrays of numbers")
    # What is not yet known to be numbers is not shown: a shape can be nested without end.
    sides = [side for side in shape if type(side) is int and side > 0]
    if len(sides) != len(shape) or len(sides) > 8:
        raise InvalidInput("an array in it is empty or has an impossible shape")
    if math.prod(sides) * dtype.itemsize != len(raw):
        raise InvalidInput(f"an array in it has {len(raw)} bytes, which its shape does not take")
    return np.frombuffer(raw, dtype).reshape(sides, order="F" if order == "F" else "C")


def _new_array(arguments: tuple[Any, ...]) -> _Array:
    """numpy's _reconstruct(ndarray, (0,), b"b"): the content follows."""
    match arguments:
        case (_Name("ndarray"), (0,), _):
            return _Array()
    raise InvalidInput("an array in it is of no plain kind")


def _array_of_buffer(arguments: tuple[Any, ...]) -> _Array:
    """numpy's _frombuffer(raw, dtype, shape, order) of protocol 5."""
    match arguments:
        case (raw, _Dtype(dtype), tuple() as shape, "C" | "F" as order):
            return _Array(_shaped(raw, dtype, shape, order))
    raise InvalidInput("an array in it has no readable content")


def _dtype(arguments: tuple[Any, ...]) -> _Dtype:
    match arguments:
        case (str() as code, *_):
            if re.fullmatch("[<>|=]?(b1|[iu][1248]|f[248])", code):
                return _Dtype(np.dtype(code))
            if re.fullmatch(r"[|]?O\d*", code):
                raise InvalidInput("it holds an array of objects, expected arrays of numbers")
    raise InvalidInput("it holds arrays of another type than numbers")


def _latin1(arguments: tuple[Any, ...]) -> bytes:
    """_codecs.encode(text, "latin1"): how protocol 2 writes bytes."""
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            try:
                return text.encode("latin1")
            except UnicodeEncodeError:
                raise InvalidInput("it is damaged: bytes were written as other text") from None
    raise InvalidInput("it calls _codecs.encode for something else than bytes")


def _refused(arguments: tuple[Any, ...]) -> object:
    raise InvalidInput("it builds an array in a way that numpy never writes")


@dataclass(frozen=True)
class _Name:
    """A name that a pickle may use, and what calling it gives here."""

    name: str
    call: Callable[[tuple[Any, ...]], object]


_NAMES: dict[tuple[str, str], _Name] = {
    ("numpy", "ndarray"): _Name("ndarray", _refused),
    ("numpy", "dtype"): _Name("dtype", _dtype),
    ("_codecs", "encode"): _Name("encode", _latin1),
}
for _core in ("numpy.core", "numpy._core"):  # as numpy 1 and numpy 2 write it
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = _Name("_reconstruct", _new_array)
    _NAMES[f"{_core}.numeric", "_frombuffer"] = _Name("_frombuffer", _array_of_buffer)


def _named(module: object, name: object) -> _Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise InvalidInput("it is damaged: a name is not text")
    found = _NAMES.get((module, name))
    if found is None:
        raise InvalidInput(f"it asks for {f'{module}.{name}'[:80]!r}, which is not data")
    return found


def _plain(content: object) -> object:
    """Finished arrays instead of those under construction, in a dict, list or tuple or alone."""
    match content:
        case _Array(value):
            if value is None:
                raise InvalidInput("an array in it has no content")
            return value
        case dict():
            return {k: v.value if isinstance(v, _Array) else v for k, v in content.items()}
        case list() | tuple():
            return [v.value if isinstance(v, _Array) else v for v in content]
    return content


# ---------------------------------------------------------------- the stack machine


_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}  # instruction -> how its number lies
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_LENGTHS = {  # instruction -> (how the length lies, what follows)
    b"C": ("<B", "bytes"), b"B": ("<I", "bytes"), b"\x8e": ("<Q", "bytes"),
    b"\x96": ("<Q", "bytes"),  # bytearray
    b"\x8c": ("<B", "text"), b"X": ("<I", "text"), b"\x8d": ("<Q", "text"),
    b"\x8a": ("<B", "integer"),
}  # fmt: skip
_EMPTY: dict[bytes, Callable[[], object]] = {b"]": list, b")": tuple, b"}": dict}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_PUT = {b"q": "<B", b"r": "<I"}
_GET = {b"h": "<B", b"j": "<I"}


@dataclass
class _Machine:
    """The state of reading one pickle."""

    raw: memoryview
    at: int = 0  # the next byte
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)  # stack heights
    memo: dict[int, Any] = field(default_factory=dict)
    text: int = 0  # bytes of texts, and of what was encoded from them

    def run(self) -> object:
        if self.take(1) != b"\x80" or self.take(1)[0] not in (2, 3, 4, 5):
            raise InvalidInput("it is no pickle of protocol 2 to 5")
        for _ in range(MOST_INSTRUCTIONS):
            instruction = bytes(self.take(1))
            if instruction == b".":
                return self.popped(1)[0]
            self.step(instruction)
            if len(self.stack) > LARGEST_STACK:
                raise InvalidInput(f"it keeps more than {LARGEST_STACK} objects waiting")
        raise InvalidInput(f"it takes more than {MOST_INSTRUCTIONS} instructions")

    def step(self, instruction: bytes) -> None:
        """One instruction of those that data is written with."""
        if instruction in _NUMBERS:
            self.stack.append(self.number(_NUMBERS[instruction]))
        elif instruction in _CONSTANTS:
            self.stack.append(_CONSTANTS[instruction])
        elif instruction in _LENGTHS:
            self.stack.append(self.sized(*_LENGTHS[instruction]))
        elif instruction in _EMPTY:
            self.stack.append(_EMPTY[instruction]())
        elif instruction == b"(":
            self.marks.append(len(self.stack))
        elif instruction in _TUPLES:
            self.stack.append(tuple(self.popped(_TUPLES[instruction])))
        elif instruction == b"t":
            self.stack.append(tuple(self.marked()))
        elif instruction in (b"a", b"e"):
            items = self.popped(1) if instruction == b"a" else self.marked()
            self.expect(list).extend(items)
        elif instruction in (b"s", b"u"):
            self.set_items(self.popped(2) if instruction == b"s" else self.marked())
        elif instruction in _PUT or instruction == b"\x94":
            key = self.number(_PUT[instruction]) if instruction in _PUT else len(self.memo)
            self.memo[key] = self.stack[-1]
        elif instruction in _GET:
            key = self.number(_GET[instruction])
            if key not in self.memo:
                raise InvalidInput("it is damaged: it refers to an object that is not there")
            self.stack.append(self.memo[key])
        else:
            self.call(instruction)

    def call(self, instruction: bytes) -> None:
        """Instructions about names, which make arrays."""
        if instruction == b"c":
            self.stack.append(_named(self.line(), self.line()))
        elif instruction == b"\x93":
            self.stack.append(_named(*self.popped(2)))
        elif instruction == b"R":
            name, arguments = self.popped(2)
            if not isinstance(name, _Name) or not isinstance(arguments, tuple):
                raise InvalidInput("it is damaged: it calls what is no name")
            made = name.call(arguments)
            self.count_text(len(made) if isinstance(made, bytes) else 0)
            self.stack.append(made)
        elif instruction == b"b":
            built, state = self.popped(2)
            if not isinstance(built, _Array | _Dtype) or not isinstance(state, tuple):
                raise InvalidInput("it sets the state of something that is no array")
            built.build(state)
            self.stack.append(built)
        elif instruction == b"\x95":
            self.number("<Q")  # a frame is a hint for reading ahead
        else:
            raise InvalidInput(f"it uses the instruction {instruction!r}, which no data needs")

    # What instructions are made of.

    def take(self, n: int) -> memoryview:
        if not 0 <= n <= len(self.raw) - self.at:
            raise InvalidInput(f"it is truncated or damaged: {n} bytes wanted at {self.at}")
        self.at += n
        return self.raw[self.at - n : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        for end in range(self.at, min(self.at + 200, len(self.raw))):
            if self.raw[end] == 10:
                return str(self.take(end + 1 - self.at)[:-1], "utf-8")
        raise InvalidInput("it is truncated or damaged: a name has no end")

    def sized(self, form: str, kind: str) -> object:
        raw = self.take(self.number(form))
        if kind == "text":
            self.count_text(len(raw))
            return str(raw, "utf-8", "surrogatepass")
        if kind == "integer":
            return int.from_bytes(raw, "little", signed=True)
        return raw  # the bytes of arrays are not copied

    def count_text(self, n: int) -> None:
        self.text += n
        if self.text > MOST_TEXT:
            raise InvalidInput("its arrays are written as text; save it with pickle protocol 4")

    def popped(self, n: int) -> list[Any]:
        height = self.marks[-1] if self.marks else 0
        if len(self.stack) - height < n:
            raise InvalidInput("it is damaged: an instruction lacks its objects")
        items = self.stack[-n:]
        del self.stack[-n:]
        return items

    def marked(self) -> list[Any]:
        if not self.marks:
            raise InvalidInput("it is damaged: a group of objects has no start")
        height = self.marks.pop()
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def expect(self, kind: type[Any]) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise InvalidInput(f"it is damaged: no {kind.__name__} to add to")
        return self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        """Keys are texts, so that nothing nested is ever hashed."""
        content = self.expect(dict)
        if len(items) % 2:
            raise InvalidInput("it is damaged: a key has no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise InvalidInput(f"a key of it is {type(key).__name__}, expected text")
            content[key] = value
