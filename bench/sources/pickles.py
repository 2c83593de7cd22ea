"""A pickle of torch.save read as data: opcode by opcode, within bounds, and nothing of it is called.

Tensors become `Stored`, which say where their numbers lie; classes and functions stay names. What a
file holds beside its weights (arguments, scores, paths) is read where it is harmless, else refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from bench.schema import InvalidInput

LARGEST = 16 * 2**20  # bytes; those of the largest published networks have 200,000
STEPS = 300_000  # opcodes; a tensor takes about forty
TENSORS = 7_000
DIMENSIONS = 8

# torch's name of a storage -> its type of numbers
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
}  # fmt: skip
_TYPES = frozenset(
    {
        *STORAGES.values(), "strided", "sparse_coo", "sparse_csr", "per_tensor_affine",
        "per_channel_affine",
    }
)  # fmt: skip
_UNTYPED = "torch.storage.UntypedStorage"  # of tensors whose type is named beside them
# How the types begin that have no storage of their own.
_NEWER_TYPES = ("float8_", "float4_", "uint16", "uint32", "uint64")
# What other rebuilding functions of torch make: named where a tensor of it is met.
_OTHER_TENSORS = {
    "_rebuild_qtensor": "quantised", "_rebuild_sparse_tensor": "sparse",
    "_rebuild_meta_tensor_no_storage": "on the device meta, without values",
    "_rebuild_nested_tensor": "nested", "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_wrapper_subclass": "of a class of its own",
}  # fmt: skip
# Harmless things beside weights; they are read as a word that says what they were.
_NUMPY = ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
_INERT = frozenset(
    {
        *("argparse.Namespace", "types.SimpleNamespace", "collections.Counter", "uuid.UUID"),
        *("fractions.Fraction", "decimal.Decimal", "_codecs.encode", "copyreg._reconstructor"),
        *("datetime.datetime", "datetime.date", "datetime.timedelta", "datetime.timezone"),
        *("pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.Path", "pathlib.WindowsPath"),
        *("builtins.object", "builtins.complex", "builtins.bytearray", "builtins.slice"),
        *("builtins.range", "builtins.int", "builtins.float", "builtins.str", "builtins.bool"),
        *("numpy.dtype", "numpy.ndarray", "torch.device", "torch.Size"),
        "torch.serialization._get_layout",
        *(f"numpy.{core}.{name}" for core in ("core", "_core") for name in _NUMPY),
    }
)
_MAPPINGS = frozenset({"collections.OrderedDict", "collections.defaultdict", "builtins.dict"})
_LISTS = frozenset({"builtins.set", "builtins.frozenset", "builtins.list", "builtins.tuple"})


@dataclass(frozen=True)
class Storage:
    """Numbers of one type that lie together in a file."""

    key: str
    kind: str
    count: int


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor in a file: its shape and type; its numbers are read when they are asked for."""

    kind: str  # torch's name of its type of numbers
    shape: tuple[int, ...]
    read: Callable[[], Any] = field(repr=False)  # -> Tensor, on the CPU, contiguous
    odd: str = ""  # why it is no tensor of plain numbers: quantised, sparse ...

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> int:
        return count_of(self.shape)


@dataclass(frozen=True)
class View:
    """Where a tensor lies in its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Inert:
    """Something that is not read; its words say what it was."""

    words: str


@dataclass(frozen=True)
class _Name:
    """A class or function, never looked up."""

    name: str


def count_of(shape: tuple[int, ...]) -> int:
    """How many numbers a shape holds."""
    count = 1
    for size in shape:
        count *= size
    return count


class Unreadable(Exception):
    """Why a pickle is not read, in words about the file."""


def load(file: IO[bytes], tensor: Callable[[View], Stored]) -> Any:
    """What the pickle at the file's place holds; the file is left after it.

    tensor makes a Stored of where a tensor lies. Raises Unreadable, InvalidInput where a tensor cannot
    lie there.
    """
    return _Machine(tensor).run(_steps(file))


def _steps(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    start = file.tell()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if number > STEPS or file.tell() - start > LARGEST:
                raise Unreadable(f"its pickle has more than {STEPS:,} steps or {LARGEST:,} bytes")
            yield opcode.name, argument
    except Unreadable:
        raise
    except Exception as error:  # genops raises whatever its readers meet
        reason = type(error).__name__
        raise Unreadable(f"its pickle is cut off or damaged ({reason})") from None


_MARK = object()
_CONSTANTS = {
    "NONE": None, "NEWTRUE": True, "NEWFALSE": False,
}  # fmt: skip
_AS_THEY_ARE = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"),
    }
)
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_KEYS = (str, int, float, bool, bytes, type(None))


class _Machine:
    """The stack of a pickle, with names where it would call."""

    def __init__(self, tensor: Callable[[View], Stored]) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.tensor = tensor
        self.tensors = 0

    def run(self, steps: Iterator[tuple[str, Any]]) -> Any:
        try:
            for opcode, argument in steps:
                if opcode == "STOP":
                    (answer,) = self.stack
                    return answer
                self.step(opcode, argument)
        except (
            IndexError,
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
            StopIteration,
        ) as error:
            reason = type(error).__name__
            raise Unreadable(f"its pickle does not add up ({reason})") from None
        raise Unreadable("its pickle has no end")

    def step(self, opcode: str, argument: Any) -> None:
        push = self.stack.append
        if opcode in ("PROTO", "FRAME"):
            return
        if opcode in _CONSTANTS:
            push(_CONSTANTS[opcode])
        elif opcode in _AS_THEY_ARE:
            push(argument)
        elif opcode in _EMPTY:
            push(_EMPTY[opcode]())
        elif opcode == "MARK":
            push(_MARK)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif opcode in ("TUPLE", "LIST", "DICT"):
            push(self._gathered(opcode))
        elif opcode in ("TUPLE1", "TUPLE2", "TUPLE3"):
            push(tuple(self._popped(int(opcode[-1]))))
        elif opcode in ("APPEND", "APPENDS", "ADDITEMS"):
            items = self._popped(1) if opcode == "APPEND" else self._marked()
            self._list().extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._popped(2) if opcode == "SETITEM" else self._marked()
            _set_items(self.stack[-1], items)
        elif opcode == "GLOBAL":
            push(_name(".".join(argument.split(" ", 1))))
        elif opcode == "STACK_GLOBAL":
            module, name = self._popped(2)
            push(_name(f"{_text(module)}.{_text(name)}"))
        elif opcode == "BINPERSID":
            push(_storage(self.stack.pop()))
        elif opcode in ("REDUCE", "NEWOBJ"):
            called, arguments = self._popped(2)
            push(self._called(called, arguments))
        elif opcode == "BUILD":
            self._built(self.stack.pop())
        else:
            raise Unreadable(f"its pickle has a step that torch.save does not write ({opcode})")

    def _popped(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        taken = self.stack[-count:]
        del self.stack[-count:]
        if any(each is _MARK for each in taken):
            raise ValueError
        return taken

    def _marked(self) -> list[Any]:
        taken: list[Any] = []
        while (last := self.stack.pop()) is not _MARK:
            taken.append(last)
        return taken[::-1]

    def _gathered(self, opcode: str) -> Any:
        items = self._marked()
        if opcode == "DICT":
            return _set_items({}, items)
        return tuple(items) if opcode == "TUPLE" else items

    def _list(self) -> list[Any]:
        held = self.stack[-1]
        if not isinstance(held, list):
            raise TypeError
        return held

    def _built(self, state: Any) -> None:
        """Attributes, such as the `_metadata` of a state dict, are not read."""
        held = self.stack[-1]
        if not isinstance(held, dict | list | Inert | Stored):
            raise TypeError

    def _called(self, called: Any, arguments: Any) -> Any:
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise TypeError
        name = called.name
        if name in _MAPPINGS:
            return self._mapping(arguments)
        if name in _LISTS:
            return (
                list(arguments[0]) if arguments and isinstance(arguments[0], list | tuple) else []
            )
        module, _, function = name.rpartition(".")
        if module in ("torch._utils", "torch._tensor"):
            return self._rebuilt(function, arguments)
        if name in _INERT:
            inner = arguments[0] if arguments and isinstance(arguments[0], _Name) else called
            return Inert(inner.name)
        raise Unreadable(_refusal(name))

    def _mapping(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        pairs = arguments[-1] if arguments and isinstance(arguments[-1], list | tuple) else []
        flat: list[Any] = []
        for pair in pairs:
            key, value = pair
            flat += [key, value]
        return _set_items({}, flat)

    def _rebuilt(self, function: str, arguments: tuple[Any, ...]) -> Any:
        if function in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            held = arguments[0]
            if not isinstance(held, Stored):
                raise TypeError
            return held
        if function == "_rebuild_from_type_v2":
            inner, _, parts, _ = arguments
            return self._called(inner, parts)
        self.tensors += 1
        if self.tensors > TENSORS:
            raise Unreadable(f"it holds more than {TENSORS:,} tensors")
        if function in _OTHER_TENSORS:
            return Stored("", (), _never, odd=_OTHER_TENSORS[function])
        if function not in ("_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_tensor_v3"):
            raise Unreadable(_refusal(f"torch._utils.{function}"))
        storage, offset, shape, strides = arguments[:4]
        if function == "_rebuild_tensor_v3":
            kind = shown_name(arguments[6].name.removeprefix("torch."))
            return Stored(kind, _sizes(shape), _never, odd=f"of type {kind}")
        if not isinstance(storage, Storage):
            raise TypeError
        return self.tensor(View(storage, _whole(offset), _sizes(shape), _sizes(strides)))


def _never() -> Any:
    raise InvalidInput("this tensor holds no plain numbers")


def _set_items(held: Any, items: list[Any]) -> Any:
    if isinstance(held, Inert):
        return held
    if not isinstance(held, dict) or len(items) % 2:
        raise TypeError
    for key, value in zip(items[::2], items[1::2], strict=True):
        # The hash of a tuple within tuples may take for ever.
        held[key if isinstance(key, _KEYS) else _text_of_key(key)] = value
    return held


def _text_of_key(key: Any) -> str:
    return f"({type(key).__name__})"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > DIMENSIONS:
        raise ValueError
    return tuple(_whole(size) for size in value)


def _storage(persistent: Any) -> Storage:
    """`('storage', torch.FloatStorage, key, location, count)`, and in old files a view of it."""
    word, kind, key, _, count, *view = persistent
    if word not in ("storage", b"storage") or not isinstance(kind, _Name) or any(view):
        raise ValueError
    if kind.name == _UNTYPED:
        return Storage(str(key), "uint8", _whole(count))
    module, _, name = kind.name.rpartition(".")
    if module not in ("torch", "torch.storage", "torch.cuda") or name not in STORAGES:
        raise Unreadable(f"it holds numbers of a type that is not known ({shown_name(kind.name)})")
    return Storage(key if isinstance(key, str) else str(_whole(key)), STORAGES[name], _whole(count))


_TENSOR_CLASSES = ("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.Tensor")


def _name(written: str) -> _Name:
    """A name that a file may mention; Unreadable for the names of anything that could do something."""
    name = written.replace("__builtin__.", "builtins.").replace("copy_reg.", "copyreg.")
    module, _, last = name.rpartition(".")
    harmless = (
        name in _INERT | _MAPPINGS | _LISTS
        or name in _TENSOR_CLASSES
        or (module in ("torch._utils", "torch._tensor") and last.startswith("_rebuild_"))
        or (module in ("torch", "torch.storage", "torch.cuda") and last in STORAGES)
        or (module == "torch" and (last in _TYPES or last.startswith(_NEWER_TYPES)))
        or name == _UNTYPED
    )
    if not harmless:
        raise Unreadable(_refusal(name))
    return _Name(name)


def _refusal(name: str) -> str:
    """Why a name is not read: a module of torch is the whole network, anything else is code."""
    what = (
        "a whole module" if name.startswith(("torch.nn.", "torchvision.")) else "a class, function"
    )
    return (
        f"it holds more than tensors ({what} or code: {shown_name(name)}), which is not loaded. Save "
        "the weights alone: torch.save(model.state_dict(), path)"
    )


def shown_name(name: str) -> str:
    """A name of a file's own choosing, short and plain."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._") else "?" for c in name)
    return plain if len(plain) <= 80 else f"{plain[:77]}..."
