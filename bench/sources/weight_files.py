"""Files of weights: which kind a file is, and its tensors; bounded before anything is parsed.

A file's layout, names with shapes, is read first; the numbers when they are wanted. Zip archives of
torch.save, its older form, and safetensors are read; every other kind is named. A layout is read
without torch.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.schema import InvalidInput
from bench.sources import pickles
from bench.sources.pickles import TENSORS, Stored, Unreadable, View, count_of

if TYPE_CHECKING:
    from torch import Tensor

ENTRIES = 2 * TENSORS  # of a zip archive: a storage a tensor and a few more
DIRECTORY = 8 * 2**20  # bytes of its list of entries
HEADER = 8 * 2**20  # bytes of the header of safetensors
NO_CHECKSUM = "an older file without checksums"  # of which damage is not noticed

_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2,
    "int8": 1, "uint8": 1, "bool": 1, "complex64": 8, "complex128": 16,
    "qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1,
}  # fmt: skip
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
# What zipfile, struct and torch raise of bytes that are not what they say.
_DAMAGE = (
    ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error,
    zipfile.BadZipFile,
)  # fmt: skip
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number, pickled
# First bytes -> what the file is.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file: fetch it with git lfs pull"),
    (b"\x89HDF", "an HDF5 file (Keras), not of torch"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"\xfd7zXZ", "an xz archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it"),
    (b"Rar!", "a rar archive: unpack it"),
    (b"\x93NUMPY", "a numpy array, not a state dict"),
    (b"GGUF", "a GGUF file, not of torch"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x7fELF", "a program"),
)


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds: names with Stored tensors, and what else lay beside."""

    content: Any  # mappings and lists that end in Stored, numbers, text and Inert
    note: str = ""  # what a card says of the file


def read(raw: bytes | IO[bytes], path: Path) -> WeightFile:
    """The layout of a file's bytes, or of an open file. The path names it in messages.

    Raises InvalidInput that says what the file is instead, or what is wrong with it.
    """
    file = io.BytesIO(raw) if isinstance(raw, bytes) else raw
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(1024)
    file.seek(0)
    try:
        if head.startswith(b"PK"):
            return WeightFile(_zipped(file, size))
        if head.startswith(_LEGACY):
            return WeightFile(_legacy(file, size), NO_CHECKSUM)
        if _looks_like_safetensors(head):
            return WeightFile(_safetensors(file, size))
    except Unreadable as why:
        words = str(why)
        raise InvalidInput(
            f"{path} {words}" if words.startswith("is ") else f"{path}: {words}"
        ) from None
    except _DAMAGE as error:
        if isinstance(error, InvalidInput):
            raise
        kind = type(error).__name__
        raise InvalidInput(f"{path} is truncated or damaged ({kind})") from None
    raise InvalidInput(f"{path} is {_kind(head, path)}")


def read_safetensors(file: IO[bytes], path: Path) -> dict[str, Stored]:
    """The tensors of an open safetensors file, by name, their numbers not read yet.

    Raises InvalidInput that says what the file is instead, or what is wrong with it.
    """
    head = file.read(1024)
    if not _looks_like_safetensors(head):
        archive = "an archive, as torch.save and numpy write them" if head[:2] == b"PK" else ""
        raise InvalidInput(f"{path} is {archive or _kind(head, path)}; expected a safetensors file")
    found: dict[str, Stored] = read(file, path).content
    return found


def _kind(head: bytes, path: Path) -> str:
    """What a file is that holds no weights that are read."""
    if not head:
        return "empty"
    for start, words in _KINDS:
        if head.startswith(start):
            return words
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<"):
        return "a web page, not a checkpoint: download the file itself"
    if text.startswith(b"{"):
        index = b"weight_map" in head
        return (
            "the index of a checkpoint in several files: give one that holds all weights"
            if index else "JSON text, not a checkpoint"
        )  # fmt: skip
    if head[257:262] == b"ustar":
        return "a tar archive (as torch wrote before version 0.2, or of others): unpack it"
    if head[4:8] == b"TFL3" or path.suffix in (".onnx", ".tflite", ".pb", ".h5", ".keras"):
        return f"of another library ({path.suffix or 'TensorFlow Lite'}), not of torch"
    if head.startswith(b"\x80"):
        return (
            "a plain pickle, which may run code, and is not loaded: save the weights with "
            "torch.save(model.state_dict(), path)"
        )
    if all(byte in b"\t\r\n" or byte >= 32 for byte in head):
        return "text, not a checkpoint"
    return "not a PyTorch checkpoint or safetensors file, or it is cut off at its start"


# ---------------------------------------------------------------- zip archives


def _zipped(file: IO[bytes], size: int) -> Any:
    _check_directory(file, size)
    archive = zipfile.ZipFile(file)
    if any(n.endswith("/constants.pkl") or "/code/" in n for n in archive.namelist()):
        raise Unreadable(
            "is a TorchScript archive, which holds code: save the weights alone with "
            "torch.save(model.state_dict(), path)"
        )
    entries = _entries(archive, size)
    names = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(names) != 1:
        what = "several data.pkl" if names else "no data.pkl"
        raise Unreadable(f"is a zip archive with {what}, not one of torch.save")
    folder = names[0].removesuffix("data.pkl")
    if entries[names[0]].file_size > pickles.LARGEST:
        raise Unreadable(f"its data.pkl has more than {pickles.LARGEST:,} bytes")
    strange = [name for name in entries if not name.startswith(folder) or ".." in name.split("/")]
    if strange:
        raise Unreadable("is a zip archive with more in it than torch.save writes")
    for name, entry in entries.items():  # what is not read below is under its checksum too
        if not name.startswith(f"{folder}data/") and entry.file_size <= pickles.LARGEST:
            archive.read(entry)
    order = entries.get(f"{folder}byteorder")
    if order is not None and (order.file_size > 16 or archive.read(order).strip() != b"little"):
        raise Unreadable("its numbers are in the byte order of another machine")
    taken: dict[str, Tensor] = {}

    def numbers(view: View) -> Tensor:
        key = view.storage.key
        if key not in taken:
            taken[key] = _numbers(archive.read(entries[f"{folder}data/{key}"]), view.storage.kind)
        return taken[key]

    def tensor(view: View) -> Stored:
        entry = entries.get(f"{folder}data/{view.storage.key}")
        if entry is None:
            raise Unreadable("the numbers of a tensor are missing from the archive")
        held = entry.file_size // _BYTES[view.storage.kind]
        return _stored(view, held, lambda: _guarded(lambda: numbers(view)))

    return pickles.load(io.BytesIO(archive.read(names[0])), tensor)


def _check_directory(file: IO[bytes], size: int) -> None:
    """The list of entries is bounded before it is parsed; zipfile would read any number."""
    tail = min(size, 65_557 + 64)
    file.seek(size - tail)
    end = file.read(tail)
    at = end.rfind(b"PK\x05\x06")
    if at < 0 or len(end) - at < 22:
        raise Unreadable("is truncated or damaged (an archive without its end)")
    count, length = struct.unpack_from("<HL", end, at + 10)
    big = end.rfind(b"PK\x06\x06", 0, at)
    if big >= 0 and at - big >= 56:
        count, length = struct.unpack_from("<QQ", end, big + 32)
    if count > ENTRIES or length > DIRECTORY:
        raise Unreadable(f"is an archive of {count:,} entries; at most {ENTRIES:,} are read")
    file.seek(0)


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """By name; stored plainly, each once, side by side."""
    found: dict[str, zipfile.ZipInfo] = {}
    ends = 0
    for entry in sorted(archive.infolist(), key=lambda e: e.header_offset):
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise Unreadable("is a compressed archive; torch.save does not compress")
        if entry.flag_bits & 1:
            raise Unreadable("is an encrypted archive")
        if entry.filename in found:
            raise Unreadable("is an archive that holds an entry twice")
        if entry.header_offset < ends or entry.header_offset + 30 + entry.file_size > size:
            raise Unreadable("is truncated or damaged (entries that overlap)")
        ends = entry.header_offset + 30 + entry.file_size
        found[entry.filename] = entry
    return found


# ---------------------------------------------------------------- before zip


def _legacy(file: IO[bytes], size: int) -> Any:
    """What torch.save wrote before version 1.6: pickles, then the storages one after another."""
    places: dict[str, int] = {}
    kinds: dict[str, tuple[str, int]] = {}
    head = io.BytesIO(file.read(5 * pickles.LARGEST))

    def tensor(view: View) -> Stored:
        storage = view.storage
        if kinds.setdefault(storage.key, (storage.kind, storage.count)) != (
            storage.kind,
            storage.count,
        ):
            raise Unreadable("a storage has two types")

        def numbers() -> Tensor:
            file.seek(places[storage.key])
            return _numbers(file.read(storage.count * _BYTES[storage.kind]), storage.kind)

        return _stored(view, storage.count, lambda: _guarded(numbers))

    for _ in range(3):  # the magic number, the version, facts about the machine
        system = pickles.load(head, tensor)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise Unreadable("its numbers are in the byte order of another machine")
    content = pickles.load(head, tensor)
    keys = pickles.load(head, tensor)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(kinds):
        raise Unreadable("is truncated or damaged (it does not hold the storages that it names)")
    file.seek(head.tell())
    for key in map(str, keys):
        kind, count = kinds[key]
        if file.tell() + 8 + count * _BYTES[kind] > size:
            raise Unreadable("is truncated or damaged (it ends within its numbers)")
        if struct.unpack("<q", file.read(8))[0] != count:
            raise Unreadable("is damaged (a storage has not the length that it names)")
        places[key] = file.tell()
        file.seek(count * _BYTES[kind], io.SEEK_CUR)
    return content


# ---------------------------------------------------------------- safetensors


def _looks_like_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{"


def _safetensors(file: IO[bytes], size: int) -> Any:
    """Names with tensors, which lie side by side behind a JSON header."""
    length = struct.unpack("<Q", file.read(8))[0]
    if length > HEADER or 8 + length > size:
        raise Unreadable("is not a complete safetensors file (its header is longer than allowed)")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise Unreadable("is not a complete safetensors file (its header is no JSON)") from None
    start, ends = 8 + length, []
    content: dict[str, Stored] = {}
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        if len(content) >= TENSORS:
            raise Unreadable(f"it holds more than {TENSORS:,} tensors")
        content[name] = _slice(file, name, facts, start, size - start)
        ends.append(tuple(facts["data_offsets"]))
    ends.sort()
    if [a for a, _ in ends] != [0, *(b for _, b in ends)][: len(ends)] or (
        (ends[-1][1] if ends else 0) != size - start
    ):
        raise Unreadable("is not a complete safetensors file (its tensors do not lie side by side)")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _slice(file: IO[bytes], name: str, facts: Any, start: int, held: int) -> Stored:
    try:
        word, (first, last) = facts["dtype"], facts["data_offsets"]
        shape = tuple(pickles._whole(size) for size in facts["shape"])
        fits = 0 <= pickles._whole(first) <= pickles._whole(last) <= held
    except (KeyError, TypeError, ValueError):
        raise Unreadable("is not a complete safetensors file (a tensor is not described)") from None
    if not isinstance(word, str) or word not in _SAFETENSORS:
        known = pickles.shown_name(str(word))
        raise Unreadable(f"{shown(name)} is of a type that is not read ({known})")
    kind = _SAFETENSORS[word]
    if (
        len(shape) > pickles.DIMENSIONS
        or not fits
        or count_of(shape) * _BYTES[kind] != last - first
    ):
        raise Unreadable("is not a complete safetensors file (a tensor has not the size it names)")

    def numbers() -> Tensor:
        file.seek(start + first)
        return _numbers(file.read(last - first), kind).view(shape)

    return Stored(kind, shape, lambda: _guarded(numbers))


# ---------------------------------------------------------------- numbers


def _stored(view: View, held: int, numbers: Any) -> Stored:
    """A tensor whose place in its storage of `held` numbers is checked."""
    kind, shape, strides = view.storage.kind, view.shape, view.strides
    if len(strides) != len(shape) or held < view.storage.count:
        raise Unreadable("is truncated or damaged (a tensor lies beyond its numbers)")
    if 0 not in shape:
        last = view.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if last >= held:
            raise Unreadable("is truncated or damaged (a tensor lies beyond its numbers)")
    if kind.startswith("q"):
        return Stored(kind, shape, numbers, odd="quantised")

    def read() -> Tensor:
        if count_of(shape) > held:
            raise InvalidInput(
                f"a tensor of shape {shape} repeats {held} numbers: it is no weight; save a copy of it"
            )
        found: Tensor = numbers()
        return found.as_strided(shape, strides, view.offset).contiguous()

    return Stored(kind, shape, read)


def _numbers(raw: bytes, kind: str) -> Tensor:
    import torch

    if not raw:
        return torch.zeros(0, dtype=getattr(torch, kind))
    return torch.frombuffer(bytearray(raw), dtype=getattr(torch, kind))


def _guarded(numbers: Any) -> Tensor:
    try:
        found: Tensor = numbers()
        return found
    except zipfile.BadZipFile:
        raise InvalidInput("is damaged: a part does not match its checksum") from None
    except _DAMAGE as error:
        raise InvalidInput(f"is truncated or damaged ({type(error).__name__})") from None


def shown(name: object, longest: int = 80) -> str:
    """A tensor's name of a file's own choosing, short and printable."""
    text = "".join(c if c.isprintable() and c.isascii() else "?" for c in str(name))
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def loaded(tensors: Mapping[str, Stored], path: Path) -> dict[str, Tensor]:
    """The numbers of tensors, by name. Raises InvalidInput naming the file, and the tensor."""
    answer = {}
    for name, stored in tensors.items():
        try:
            answer[name] = stored.read()
        except InvalidInput as error:
            raise InvalidInput(f"{path}, {shown(name)}: {error}") from None
    return answer
