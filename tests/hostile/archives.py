"""Weights whose container lies, files of another kind, numbers that are no weights; and honest ones."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.hostile import opcodes as op
from tests.hostile.member import SECRET, Accepted, Build, Either, Member, Outcome, Refused, imported

FILE, SAFE = "net.pt", "net.safetensors"


def weights() -> dict[str, Tensor]:
    """The state dict of the small network that every member claims to be."""
    from bench import models

    torch.manual_seed(0)
    arguments = {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 4}
    return dict(models.build("small_cnn", arguments).net.state_dict())


def saved(content: object, **how: Any) -> bytes:
    """The bytes that torch.save makes of it."""
    made = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, made, **how)
    return made.getvalue()


def _bytes(make: Callable[[], bytes], file: str = FILE) -> Build:
    return lambda folder: (folder / file).write_bytes(make())


def _honest(change: Callable[[bytes], bytes], **how: Any) -> Build:
    """Honest weights whose bytes are changed."""
    return _bytes(lambda: change(saved(weights(), **how)))


def _first(change: Callable[[Tensor], Tensor]) -> Build:
    """Honest weights but for the first filter."""

    def make() -> bytes:
        state = weights()
        key = next(key for key, value in state.items() if value.ndim == 4)
        return saved({**state, key: change(state[key])})

    return _bytes(make)


def _members(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip(pairs: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that come twice
        for name, raw in pairs:
            archive.writestr(name, raw)
    return made.getvalue()


def _zipped(
    change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]],
    how: int = zipfile.ZIP_STORED,
) -> Build:
    """Honest weights packed again with other members."""
    return _bytes(lambda: _zip(change(list(_members(saved(weights())).items())), how))


def _patched(signature: bytes, offset: int, value: bytes, *, last: bool = True) -> Build:
    """Honest weights with some bytes of a zip header replaced; `signature` finds it.

    Packed anew: torch repeats the end of the directory in 64 bits, and a lie in the other one is none.
    """

    def change(raw: bytes) -> bytes:
        place = (raw.rindex if last else raw.index)(signature) + offset
        return raw[:place] + value + raw[place + len(value) :]

    return _honest(lambda raw: change(_zip(list(_members(raw).items()))))


_LOCAL, _CENTRAL, _END, _END64 = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06"
_ZERO = bytes(2**20)


def _bomb(folder: Path) -> None:
    """A megabyte that inflates to a gigabyte, as a storage."""
    with zipfile.ZipFile(folder / FILE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in _members(saved(weights())).items():
            archive.writestr(name, raw)
        with archive.open("archive/data/99", "w") as member:
            for _ in range(1000):
                member.write(_ZERO)


def _overlapping(raw: bytes) -> bytes:
    """Every name of the directory points at the first member."""
    made = bytearray(raw)
    place = made.find(_CENTRAL)
    while place >= 0:
        made[place + 42 : place + 46] = bytes(4)
        place = made.find(_CENTRAL, place + 4)
    return bytes(made)


def _tar(folder: Path) -> None:
    (folder / "inner").write_bytes(saved(weights()))
    with tarfile.open(folder / FILE, "w") as archive:
        archive.add(folder / "inner", "../../inner")


class _Whole(torch.nn.Linear):
    """A module pickled whole."""


def _script(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / FILE)


def _sparse_file(folder: Path) -> None:
    with (folder / FILE).open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(8 * 2**30)


def _socket(folder: Path) -> None:
    before = Path.cwd()
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(FILE)
    os.chdir(before)


def _link(target: str) -> Build:
    return lambda folder: (folder / FILE).symlink_to(target)


def _closed(folder: Path) -> None:
    (folder / FILE).write_bytes(saved(weights()))
    (folder / FILE).chmod(0)


_CONTAINERS: dict[str, Build] = {
    "empty": _bytes(lambda: b""),
    "text": _bytes(lambda: b"weights: see the paper\n"),
    "LFS pointer": _bytes(
        lambda: (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:"
            + b"0" * 64
            + b"\nsize 12345\n"
        )
    ),
    "web page": _bytes(lambda: b"<!DOCTYPE html><html>quota exceeded</html>"),
    "JSON index of shards": _bytes(
        lambda: json.dumps({"weight_map": {"a": "model-00001.safetensors"}}).encode()
    ),
    "tar": _tar,
    "gzip": _bytes(lambda: b"\x1f\x8b\x08\x00" + bytes(200)),
    "HDF5": _bytes(lambda: b"\x89HDF\r\n\x1a\n" + bytes(200)),
    "ONNX": _bytes(lambda: b"\x08\x07\x12\x07pytorch" + bytes(200)),
    "npz": _bytes(lambda: _zip([("a.npy", b"\x93NUMPY\x01\x00" + bytes(100))])),
    "whole module": _bytes(lambda: saved(_Whole(2, 2))),
    "TorchScript": _script,
    "100,000 entries": _zipped(lambda m: [*m, *((f"archive/x{k}", b"") for k in range(100_000))]),
    "bomb": _bomb,
    "deflated": _zipped(lambda m: m, zipfile.ZIP_DEFLATED),
    "lzma": _zipped(lambda m: m, zipfile.ZIP_LZMA),
    "a name twice": _zipped(lambda m: [*m, (m[-3][0], bytes(len(m[-3][1])))]),
    "two data.pkl": _zipped(lambda m: [*m, (m[0][0], op.START + op.EMPTY_DICT + op.STOP)]),
    "data.pkl of two folders": _zipped(
        lambda m: [("other/data.pkl", op.START + op.EMPTY_DICT + op.STOP), *m]
    ),
    "names with ../": _zipped(lambda m: [*m, ("../../escaped", b"x"), ("/tmp/escaped", b"x")]),
    "names with escapes": _zipped(lambda m: [("\x1b[2J/data.pkl", m[0][1]), *m[1:]]),
    "no data.pkl": _zipped(lambda m: m[1:]),
    "no storage": _zipped(lambda m: [p for p in m if "/data/" not in p[0]]),
    "storage cut short": _zipped(lambda m: [(k, v[:4] if "/data/0" in k else v) for k, v in m]),
    "big-endian by its word": _zipped(
        lambda m: [(k, b"middle" if "byteorder" in k else v) for k, v in m]
    ),
    "overlapping entries": _honest(_overlapping),
    "directory says 2^32 bytes": _patched(_CENTRAL, 24, b"\xff\xff\xff\xfe"),
    "directory says other sums": _patched(_CENTRAL, 16, b"\0\1\2\3", last=False),
    "directory beyond the file": _patched(_END, 16, b"\xfe\xff\xff\xff"),
    "65,535 entries that are not": _patched(_END, 10, b"\xff\xff"),
    "zip64 beyond the file": _honest(
        lambda raw: (
            raw[: raw.rindex(_END)]
            + _END64
            + struct.pack("<Q", 44)
            + bytes(20)
            + b"\xff" * 24
            + b"PK\x06\x07"
            + bytes(4)
            + struct.pack("<QI", raw.rindex(_END), 1)
            + raw[raw.rindex(_END) : raw.rindex(_END) + 8]
            + b"\xff" * 12
            + bytes(2)
        )
    ),
    "encrypted by its flag": _patched(_CENTRAL, 8, b"\x01\x00", last=False),
    "a flipped byte in a storage": _honest(
        lambda raw: (
            raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :]
        )
    ),
    "a flipped byte in the pickle": _honest(
        lambda raw: raw[:100] + bytes([raw[100] ^ 255]) + raw[101:]
    ),
    **{
        f"cut at {share} %": _honest(lambda raw, share=share: raw[: len(raw) * share // 100])  # type: ignore[misc]
        for share in (1, 20, 50, 90, 99)
    },
    "cut, before 1.6": _honest(
        lambda raw: raw[: len(raw) // 2], _use_new_zipfile_serialization=False
    ),
    "cut in the pickle, before 1.6": _honest(
        lambda raw: raw[:300], _use_new_zipfile_serialization=False
    ),
    "safetensors inside .pt, cut": _bytes(lambda: _safe(weights())[:-7]),
    "pipe": lambda folder: os.mkfifo(folder / FILE),
    "folder": lambda folder: (folder / FILE).mkdir(),
    "link to /dev/zero": _link("/dev/zero"),
    "link to a private file": _link("secret.json"),
    "link to itself": _link(FILE),
    "link to nowhere": _link("nowhere"),
    "socket": _socket,
    "8 GB of nothing": _sparse_file,
    "nothing there": lambda folder: None,
}

_NUMBERS: dict[str, Build] = {
    "NaN": _first(lambda w: w * torch.nan),
    "infinity": _first(lambda w: w / 0),
    "int8": _first(lambda w: w.to(torch.int8)),
    "int64": _first(lambda w: w.to(torch.int64)),
    "bool": _first(lambda w: w > 0),
    "complex": _first(lambda w: w.to(torch.complex64)),
    "quantised": _first(lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
    "sparse": _first(lambda w: w.to_sparse()),
    "meta": _first(lambda w: w.to("meta")),
    "numbers beyond float32": _first(lambda w: w.double() * 1e300),
    "a shape of its own": _first(lambda w: w[:1]),
    "expanded to 200,000 x 200,000": _first(lambda w: torch.zeros(1).expand(200_000, 200_000)),
    "another network": _bytes(lambda: saved(torch.nn.Linear(2, 2).state_dict())),
    "a list": _bytes(lambda: saved([torch.ones(2, 2)])),
    "a text among tensors": _bytes(lambda: saved({**weights(), "epoch": "3"})),
    "two sets": _bytes(lambda: saved({"model": weights(), "ema": weights()})),
    "wrapped 100 times": _bytes(lambda: saved(_wrapped(weights(), 100))),
    "no tensors": _bytes(lambda: saved({})),
}


def _floats(change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Honest weights with every floating tensor changed; what counts batches stays whole."""
    return {k: change(v) if v.is_floating_point() else v for k, v in weights().items()}


def _wrapped(content: object, times: int) -> object:
    for _ in range(times):
        content = {"state_dict": content}
    return content


# ---------------------------------------------------------------- safetensors


def _safe(state: dict[str, Tensor]) -> bytes:
    import safetensors.torch

    return safetensors.torch.save({k: v.contiguous() for k, v in state.items()})


def packed(header: object, content: bytes = bytes(16), *, length: int | None = None) -> bytes:
    """A safetensors file of a header as it is given: text, or what JSON makes of it."""
    raw = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + content


def _entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


_HEADERS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "seven bytes": lambda: bytes(7),
    "header of 2^63": lambda: packed({}, length=2**63),
    "header of 2^40": lambda: packed({}, length=2**40),
    "header of 80 MB": lambda: packed("{" + " " * 80_000_000 + "}"),
    "header is no JSON": lambda: packed("weights"),
    "header is a list": lambda: packed([1, 2]),
    "header nested 100,000 deep": lambda: packed("[" * 100_000 + "]" * 100_000),
    "header is not UTF-8": lambda: struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
    "keys twice": lambda: packed(
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
        '"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}'
    ),
    "overlapping": lambda: packed({"a": _entry([3], 0, 12), "b": _entry([3], 4, 16)}),
    "a hole": lambda: packed({"a": _entry([1], 0, 4), "b": _entry([1], 12, 16)}),
    "beyond the file": lambda: packed({"a": _entry([400], 0, 1600)}),
    "backwards": lambda: packed({"a": _entry([4], 16, 0)}),
    "shape overflows": lambda: packed({"a": _entry([2**62, 2**62], 0, 16)}),
    "shape below zero": lambda: packed({"a": _entry([-4], 0, 16)}),
    "shape is not its bytes": lambda: packed({"a": _entry([5], 0, 16)}),
    "unknown type": lambda: packed({"a": _entry([4], 0, 16, "F33")}),
    "type that torch lacks": lambda: packed({"a": _entry([16], 0, 8, "F4")}, bytes(8)),
    "10^6 tensors": lambda: packed({f"t{k}": _entry([0], 0, 0) for k in range(10**6)}, b""),
    "a name of a million letters": lambda: packed({"k" * 10**6: _entry([4], 0, 16)}),
    "a name with escapes": lambda: packed({"\x1b[2J\u202e": _entry([4], 0, 16)}),
    "metadata that is no text": lambda: packed({"__metadata__": {"a": 1}, "a": _entry([4], 0, 16)}),
    "a web page of that name": lambda: b"<html>quota</html>",
    "cut": lambda: _safe(weights())[:-1],
    "something behind it": lambda: _safe(weights()) + b"more",
    "NaN": lambda: _safe({k: v * torch.nan for k, v in weights().items()}),
    "complex": lambda: _safe({k: v.to(torch.complex64) for k, v in weights().items()}),
}

_HONEST: dict[str, tuple[str, Build]] = {
    "a state dict": (FILE, _honest(lambda raw: raw)),
    "before 1.6": (FILE, _honest(lambda raw: raw, _use_new_zipfile_serialization=False)),
    "safetensors": (SAFE, _bytes(lambda: _safe(weights()), SAFE)),
    "half": (FILE, _bytes(lambda: saved(_floats(lambda v: v.half())))),
    "double": (FILE, _bytes(lambda: saved(_floats(lambda v: v.double())))),
    "bfloat16": (FILE, _bytes(lambda: saved(_floats(lambda v: v.bfloat16())))),
    "wrapped and prefixed": (
        FILE,
        _bytes(lambda: saved({"state_dict": {f"module.{k}": v for k, v in weights().items()}})),
    ),
    "slices of larger tensors": (
        FILE,
        _bytes(lambda: saved({k: torch.stack([v, v])[1] for k, v in weights().items()})),
    ),
    "a link to honest weights": (
        FILE,
        lambda folder: (
            (folder / "real.pt").write_bytes(saved(weights())),
            (folder / FILE).symlink_to("real.pt"),
        ),
    ),
}


# What is read by its content, or what nothing reads, may be taken as well as refused.
_TAKEN = Either(Refused("net"), Accepted("checkpoints/mine"))
_OUTCOMES = {"names with ../": _TAKEN, "a .pt of that name": _TAKEN}


def _of(
    kind: str, builds: dict[str, Build], file: str = FILE, every: int = 6, **settings: Any
) -> list[Member]:
    words = file.replace(".", r"\.")
    return [
        Member(
            f"{kind}: {name}",
            "weights",
            build,
            imported(file),
            _OUTCOMES.get(name, Refused(words)),
            k % every == 0,
            **settings,
        )
        for k, (name, build) in enumerate(builds.items())
    ]


def _fine(name: str, file: str, build: Build, outcome: Outcome) -> Member:
    return Member(f"honest: {name}", "weights", build, imported(file), outcome, short=True)


MEMBERS = (
    *_of("container", _CONTAINERS),
    *_of("closed to us", {"mode 000": _closed}, needs_a_user=True),
    *_of("numbers", _NUMBERS),
    *_of("safetensors", {name: _bytes(make, SAFE) for name, make in _HEADERS.items()}, SAFE),
    *(
        _fine(name, file, build, Accepted("checkpoints/mine"))
        for name, (file, build) in _HONEST.items()
    ),
)
assert SECRET  # the file that a link leads to holds it
