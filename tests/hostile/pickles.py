"""Weights whose pickle is hostile: what it calls, its depth and size, tensors that are not there."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from tests.hostile import opcodes as op
from tests.hostile.member import CANARY, Build, Member, Refused, imported

FILE = "net.pt"
_SHELL = op.text(f"touch {CANARY}")
_SOURCE = op.text(f"open('{CANARY}', 'w').close()")

# Functions that run what they are given, by the words that a pickle names them with.
_CALLS = {
    "posix.system": op.call(op.name("posix", "system"), _SHELL),
    "os.system": op.call(op.name("os", "system"), _SHELL),
    "nt.system": op.call(op.name("nt", "system"), _SHELL),
    "builtins.eval": op.call(op.name("builtins", "eval"), _SOURCE),
    "builtins.exec": op.call(op.name("builtins", "exec"), _SOURCE),
    "__builtin__.eval": op.call(op.name("__builtin__", "eval"), _SOURCE),
    "builtins.getattr": op.call(
        op.name("builtins", "getattr"), op.name("torch", "FloatStorage"), op.text("from_file")
    ),
    "builtins.open": op.call(op.name("builtins", "open"), op.text(CANARY), op.text("w")),
    "subprocess.Popen": op.call(
        op.name("subprocess", "Popen"), op.items(op.text("touch"), op.text(CANARY))
    ),
    "subprocess.check_output": op.call(
        op.name("subprocess", "check_output"), op.items(op.text("touch"), op.text(CANARY))
    ),
    "runpy.run_path": op.call(op.name("runpy", "run_path"), op.text("planted.py")),
    "torch.hub.load": op.call(
        op.name("torch.hub", "load"), op.text("."), op.text("planted"), op.text("local")
    ),
    "torch.load": op.call(op.name("torch", "load"), op.text("other.pt")),
    "numpy.load": op.call(op.name("numpy", "load"), op.text("planted.npy")),
    "pickle.loads": op.call(op.name("pickle", "loads"), op.text("cposix\nsystem\n.")),
    "functools.partial": op.call(
        op.name("functools", "partial"), op.name("posix", "system"), _SHELL
    ),
    "operator.attrgetter": op.call(op.name("operator", "attrgetter"), op.text("__class__")),
    "importlib.import_module": op.call(op.name("importlib", "import_module"), op.text("planted")),
    "module with dots": op.call(op.name("torch", "serialization.os.system"), _SHELL),
    "a module that is here": op.call(op.name("planted", "run")),
    "torch._utils._import_dotted_name": op.call(
        op.name("torch._utils", "_import_dotted_name"), op.text("os.system")
    ),
    "rebuild from type": op.call(
        op.name("torch._tensor", "_rebuild_from_type_v2"),
        op.name("posix", "system"),
        op.name("torch", "Tensor"),
        op.items(_SHELL),
        op.EMPTY_DICT,
    ),
}

# Allowed names, called with what no file of weights calls them with.
_ARGUMENTS = {
    "bytearray of 10 GB": op.call(op.name("builtins", "bytearray"), op.number(10**10)),
    "Tensor of 10^10": op.call(op.name("torch", "Tensor"), op.number(10**10)),
    "FloatStorage of 10^10": op.call(op.name("torch", "FloatStorage"), op.number(10**10)),
    "encode to an unknown codec": op.call(
        op.name("_codecs", "encode"), op.text("x"), op.text("no-codec")
    ),
    "Size of words": op.call(op.name("torch", "Size"), op.items(op.text("x"))),
    "device of the moon": op.call(op.name("torch", "device"), op.text("moon")),
    "OrderedDict of a number": op.call(op.name("collections", "OrderedDict"), op.number(3)),
    "rebuild without arguments": op.call(op.name("torch._utils", "_rebuild_tensor_v2")),
    "rebuild of words": op.call(op.name("torch._utils", "_rebuild_tensor_v2"), *[op.text("x")] * 6),
    "parameter of a number": op.call(
        op.name("torch._utils", "_rebuild_parameter"), op.number(1), op.TRUE, op.EMPTY_DICT
    ),
    "quantised of nothing": op.call(
        op.name("torch._utils", "_rebuild_qtensor"),
        op.storage("0", 4),
        op.number(0),
        op.numbers(2),
        op.numbers(1),
        op.EMPTY_TUPLE,
        op.FALSE,
        op.EMPTY_DICT,
    ),
    "sparse with indices beyond": op.call(
        op.name("torch._utils", "_rebuild_sparse_tensor"),
        op.name("torch", "sparse_coo"),
        op.items(op.tensor((1, 4)), op.tensor((4,)), op.numbers(2)),
    ),
}


def _pushed(pushed: bytes, held: dict[str, bytes] | None = None) -> Build:
    """A state dict of one entry."""

    def build(folder: Path) -> None:
        for file in ("planted.py", "hubconf.py"):
            (folder / file).write_text(
                f"open('{CANARY}', 'w').close()\ndef run(): pass\ndef planted(): pass\n"
            )
        op.archive(folder / FILE, op.state({"features.0.weight": pushed}), held)

    return build


def _program(program: bytes | Callable[[], bytes]) -> Build:
    """A pickle written out in full; one that is large is made when it is wanted."""

    def build(folder: Path) -> None:
        made = program if isinstance(program, bytes) else program()
        op.archive(folder / FILE, made, raw=True)

    return build


def _legacy(pushed: bytes, *keys: str, content: bytes = b"") -> Build:
    return lambda folder: op.legacy(folder / FILE, pushed, keys, content)


_SYSTEM = op.name("posix", "system")
_INNER = op.START + op.call(_SYSTEM, _SHELL) + op.STOP
_MODULE = op.name("torch.nn.modules.module", "Module") + op.EMPTY_TUPLE + op.NEWOBJ

_PROGRAMS: dict[str, bytes | Callable[[], bytes]] = {
    "nothing but STOP": op.START + op.STOP,
    "no STOP": op.START + op.EMPTY_DICT,
    "empty": b"",
    "protocol 255": b"\x80\xff" + op.EMPTY_DICT + op.STOP,
    "unknown opcode": op.START + b"\xff" + op.STOP,
    "INST": op.START + b"(" + _SHELL + b"iposix\nsystem\n" + op.STOP,
    "OBJ": op.START + b"(" + _SYSTEM + _SHELL + b"o" + op.STOP,
    "NEWOBJ of a function": op.START + _SYSTEM + op.items(_SHELL) + op.NEWOBJ + op.STOP,
    "NEWOBJ of a module": op.START + _MODULE + op.STOP,
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + op.items(_SHELL) + b"R.",
    "EXT1": op.START + b"\x82\x01" + op.STOP,
    "EXT4": op.START + b"\x84" + struct.pack("<i", 2**31 - 1) + op.STOP,
    "PERSID in text": op.START + b"Pposix.system\n" + op.STOP,
    "BINPERSID of a number": op.START + op.number(7) + op.PERSID + op.STOP,
    "BINPERSID of a file": op.START + op.items(op.text("file"), op.text("/dev/zero")) + b"Q.",
    "BINPERSID of an unknown type": op.START + op.storage("0", 4, kind="load") + op.STOP,
    "BINPERSID beyond the archive": op.START + op.storage("../../etc/passwd", 4) + op.STOP,
    "BINPERSID on the moon": op.START + op.storage("0", 4, device="moon") + op.STOP,
    "BUILD with __setstate__": op.START
    + op.name("collections", "OrderedDict")
    + b")R"
    + op.state({"__setstate__": _SYSTEM})
    + b"b"
    + _SHELL
    + b"b"
    + op.STOP,
    "BUILD of a class": op.START
    + op.name("torch", "Tensor")
    + op.state({"__setstate__": op.text("x")})
    + b"b"
    + op.STOP,
    "BUILD of a number": op.START + op.number(1) + op.state({"a": op.number(1)}) + b"b.",
    "BUILD with __class__": op.START
    + op.name("collections", "OrderedDict")
    + b")R"
    + op.state({"__class__": op.name("torch", "Tensor"), "__dict__": op.EMPTY_DICT})
    + b"b.",
    "nested pickle": op.START
    + op.call(op.name("_pickle", "loads"), b"B" + struct.pack("<I", len(_INNER)) + _INNER)
    + op.STOP,
    "memo of nothing": op.START + b"j" + struct.pack("<I", 10**9) + op.STOP,
    "memo at 2^32": op.START + op.EMPTY_DICT + b"r" + struct.pack("<I", 2**32 - 1) + op.STOP,
    "memo of 2 million": lambda: (
        op.START
        + b"".join(b"Nr" + struct.pack("<I", k) + b"0" for k in range(2_000_000))
        + op.EMPTY_DICT
        + op.STOP
    ),
    "nested 100,000 deep": lambda: (
        op.START + op.EMPTY_LIST * 100_000 + op.APPEND * 99_999 + op.STOP
    ),
    "tuples 100,000 deep": lambda: op.START + op.EMPTY_TUPLE + b"\x85" * 100_000 + op.STOP,
    "marks 10 million": lambda: op.START + op.MARK * 10_000_000 + op.EMPTY_DICT + op.STOP,
    "a dict in itself": op.START + b"}q\x00X\x01\x00\x00\x00ah\x00s" + op.STOP,
    "a key that cannot be hashed": op.START + b"}]Ns" + op.STOP,
    "billion laughs": op.START
    + b"(Nl"
    + b"".join(b"q" + bytes([k]) + b"0(" + (b"h" + bytes([k])) * 10 + b"l" for k in range(40))
    + op.STOP,
    "LONG4 of 2 GB": op.START + b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01" + op.STOP,
    "LONG4 of 30 MB": lambda: (
        op.START + b"\x8b" + struct.pack("<i", 30_000_000) + b"\x7f" * 30_000_000 + b"."
    ),
    "LONG4 of less than nothing": op.START + b"\x8b" + struct.pack("<i", -1) + op.STOP,
    "INT of a million digits": lambda: op.START + b"I" + b"9" * 10**6 + b"\n" + op.STOP,
    "string of 4 GB that ends": op.START + b"X\xff\xff\xff\xff" + b"a" * 100 + op.STOP,
    "BINUNICODE8 of 2^63": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + op.STOP,
    "BYTEARRAY8 of 2^62": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + op.STOP,
    "frame beyond the end": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + op.EMPTY_DICT + op.STOP,
    "next buffer": b"\x80\x05\x97\x98" + op.STOP,
    "pops of an empty stack": op.START + op.POP * 9 + op.STOP,
    "a key with escapes": op.START
    + op.state({"\x1b[2J\x1b]0;owned\x07": op.tensor((4,))})
    + op.STOP,
    "a key of a million letters": lambda: (
        op.START + op.state({"k" * 10**6: op.tensor((4,))}) + op.STOP
    ),
    "a key of half a character": op.START + op.state({"\ud800": op.tensor((4,))}) + op.STOP,
    "a key that is a number": op.START + b"}" + op.number(10**30) + op.tensor((4,)) + b"s.",
    "a global with escapes": op.START + op.name("\x1b[31mposix", "sys\x1btem") + op.STOP,
    "a global of a million letters": lambda: op.START + op.name("m" * 10**6, "system") + op.STOP,
}

_TENSORS = {
    "2.4 GB of one number": op.tensor((600_000_000,), stride=(0,), held=op.storage("0", 1)),
    "10^18 of one number": op.tensor((10**9, 10**9), stride=(0, 0)),
    "shape beyond 64 bits": op.tensor((2**62, 2**62), stride=(0, 0)),
    "shape of 2^70": op.tensor((2**70,), stride=(0,)),
    "offset beyond the storage": op.tensor((4,), offset=10**6),
    "negative offset": op.tensor((4,), offset=-4),
    "negative size": op.tensor((-4,), stride=(1,)),
    "negative stride": op.tensor((4,), stride=(-1,)),
    "size beyond the storage": op.tensor((10**6,)),
    "storage that says 10^10": op.tensor((4,), held=op.storage("0", 10**10)),
    "storage that says -1": op.tensor((4,), held=op.storage("0", -1)),
    "storage that is not there": op.tensor((4,), held=op.storage("9", 4)),
    "65 dimensions": op.tensor((1,) * 65),
    "10,000 dimensions": op.tensor((1,) * 10_000),
    "strides too few": op.tensor((2, 2), stride=(1,)),
    "strides that are words": op.call(
        op.name("torch._utils", "_rebuild_tensor_v2"),
        op.storage("0", 4),
        op.number(0),
        op.items(op.text("4")),
        op.items(op.text("1")),
        op.FALSE,
        op.EMPTY_DICT,
    ),
}


def _million_tensors(folder: Path) -> None:
    one = op.tensor((1,), held=b"h\x00")  # the storage, from the memo
    pairs = b"".join(op.text(f"t{k}") + one for k in range(10**6))
    first = op.storage("0", 4) + b"q\x000"
    op.archive(folder / FILE, first + op.EMPTY_DICT + op.MARK + pairs + op.SETITEMS)


def _weights(name: str, build: Build, words: str = r"net\.pt", *, short: bool = False) -> Member:
    return Member(name, "weights", build, imported(FILE), Refused(words), short)


MEMBERS = (
    *(
        _weights(f"calls {name}", _pushed(pushed), short=k % 6 == 0)
        for k, (name, pushed) in enumerate(_CALLS.items())
    ),
    *(
        _weights(f"argument: {name}", _pushed(pushed), short="10 GB" in name)
        for name, pushed in _ARGUMENTS.items()
    ),
    *(
        _weights(f"pickle: {name}", _program(program), short=k % 8 == 5)
        for k, (name, program) in enumerate(_PROGRAMS.items())
    ),
    *(
        _weights(f"tensor: {name}", _pushed(pushed), short=k % 4 == 0)
        for k, (name, pushed) in enumerate(_TENSORS.items())
    ),
    _weights("10^6 tensors in a pickle", _million_tensors),
    _weights("before 1.6: calls posix.system", _legacy(op.call(_SYSTEM, _SHELL)), short=True),
    _weights(
        "before 1.6: storage cut off",
        _legacy(op.state({"a": op.tensor((4,))}), "0", content=bytes(5)),
    ),
    _weights(
        "before 1.6: storage says 2^62",
        _legacy(op.state({"a": op.tensor((4,))}), "0", content=struct.pack("<q", 2**62)),
    ),
)
