"""Hostile data: IDX files, arrays, Parquet files and folders of images that lie, swell or never end."""

from __future__ import annotations

import functools
import gzip
import io
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.cards import npy
from tests.hostile.member import (
    CANARY,
    Accepted,
    Act,
    Build,
    Either,
    Member,
    Outcome,
    Refused,
    called,
    command,
)


def loaded(dataset: str, **how: Any) -> Act:
    """`bench.datasets.load`, with the shape and the labels of what it read."""

    def load() -> str:
        from bench import datasets

        found = datasets.load(dataset, download=False, **how)
        return f"{tuple(found.images.shape)} {found.labels.tolist()[:10]} of {found.class_count}"

    return called(load)


IDX, ARRAYS = loaded("mnist", root=Path("root")), loaded("arrays:held")
PARQUET, FOLDER = loaded("parquet:held"), loaded("imagefolder:held")

# ---------------------------------------------------------------- IDX


def idx(shape: tuple[int, ...], content: bytes | None = None, *, kind: int = 8) -> bytes:
    """An IDX file of unsigned bytes, or one that says so."""
    head = struct.pack(f">HBB{len(shape)}i", 0, kind, len(shape), *shape)
    return head + (bytes(int(np.prod(shape))) if content is None else content)


def _mnist(
    images: bytes | None = None, labels: bytes | None = None, *, packed: bool = False
) -> Build:
    """The test images of MNIST as IDX files, by default two sound ones."""

    def build(folder: Path) -> None:
        there = folder / "root" / "mnist"
        there.mkdir(parents=True)
        for name, raw, sound in (
            ("t10k-images-idx3-ubyte", images, idx((2, 28, 28))),
            ("t10k-labels-idx1-ubyte", labels, idx((2,), b"\1\2")),
        ):
            content = sound if raw is None else raw
            (there / (f"{name}.gz" if packed else name)).write_bytes(
                gzip.compress(content) if packed and raw is None else content
            )

    return build


def _inflating(size: int) -> bytes:
    """gzip of an IDX file with that many zeros behind its header: one deflated block over and over.

    The sum at its end is wrong, which nobody knows who has not inflated it all.
    """
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = made.compress(idx((size // 784, 28, 28), b"")) + made.flush(zlib.Z_FULL_FLUSH)
    block = made.compress(bytes(2**24)) + made.flush(zlib.Z_FULL_FLUSH)
    end = made.flush() + struct.pack("<II", 0, (size + 16) % 2**32)
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + head + block * (size >> 24) + end


def _idx_thing(make: Callable[[Path], object]) -> Build:
    def build(folder: Path) -> None:
        _mnist()(folder)
        path = folder / "root" / "mnist" / "t10k-images-idx3-ubyte"
        path.unlink()
        make(path)

    return build


_IDX: dict[str, Build] = {
    "gzip of 4 GB": lambda folder: _mnist(_inflating(2**32), packed=True)(folder),
    "gzip cut short": _mnist(gzip.compress(idx((2, 28, 28)))[:40], packed=True),
    "gzip of other sums": _mnist(gzip.compress(idx((2, 28, 28)))[:-8] + bytes(8), packed=True),
    "no gzip": _mnist(b"<html>quota</html>", packed=True),
    "empty": _mnist(b""),
    "three bytes": _mnist(b"\0\0\x08"),
    "2^31 images": _mnist(idx((2**31 - 1, 28, 28), b"")),
    "images below zero": _mnist(idx((-2, -28, 28))),
    "sizes whose product overflows": _mnist(idx((2**31 - 1, 2**31 - 1, 4), b"")),
    "255 axes": _mnist(struct.pack(">HBB", 0, 8, 255) + bytes(2000)),
    "one axis": _mnist(idx((1568,))),
    "floats": _mnist(idx((2, 28, 28), bytes(4 * 1568), kind=13)),
    "bytes too many": _mnist(idx((2, 28, 28)) + b"x"),
    "a label of 11": _mnist(labels=idx((2,), b"\1\x0b")),
    "labels of two axes": _mnist(labels=idx((2, 1), b"\1\2")),
    "a label too few": _mnist(labels=idx((1,), b"\1")),
    "no image": _mnist(idx((0, 28, 28)), idx((0,), b"")),
    "a pipe": _idx_thing(os.mkfifo),
    "a link to /dev/zero": _idx_thing(lambda path: path.symlink_to("/dev/zero")),
    "a link to a private file": _idx_thing(
        lambda path: path.symlink_to(Path("secret.json").absolute())
    ),
    "32 GB of nothing": _idx_thing(lambda path: _sparse(path, idx((2, 28, 28)))),
}


def _sparse(path: Path, head: bytes) -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(32 * 2**30)


# ---------------------------------------------------------------- arrays


def _arrays(
    images: bytes | np.ndarray | None = None, labels: bytes | np.ndarray | None = None
) -> Build:
    """images.npy and labels.npy, by default of three sound images."""

    def build(folder: Path) -> None:
        (folder / "held").mkdir()
        sound = np.zeros((3, 4, 4, 1), np.uint8), np.arange(3)
        for name, given, default in zip(("images", "labels"), (images, labels), sound, strict=True):
            path, content = folder / "held" / f"{name}.npy", default if given is None else given
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                np.save(path, content, allow_pickle=True)

    return build


def _array_thing(name: str, make: Callable[[Path], object]) -> Build:
    def build(folder: Path) -> None:
        _arrays()(folder)
        (folder / "held" / name).unlink()
        make(folder / "held" / name)

    return build


class _Runs:
    """Touches the canary when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


def _says(descr: str, shape: str, content: bytes = b"", **how: Any) -> bytes:
    return npy(
        f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}", content, **how
    )


_FLOATS = np.full((3, 4, 4, 1), 0.5, np.float32)
_NPY: dict[str, Build] = {
    "pickled images": _arrays(np.array([_Runs()], dtype=object)),
    "pickled labels": _arrays(labels=np.array([_Runs()] * 3, dtype=object)),
    "a bare pickle": _arrays(pickle.dumps(_Runs())),
    "a header of 2.8 TiB": _arrays(_says("|u1", "(3000000000000, 1, 1, 1)")),
    "a shape that overflows": _arrays(_says("|u1", "(4294967296, 4294967296, 4294967296, 1)")),
    "a shape below zero": _arrays(_says("|u1", "(-3, 4, 4, 1)", bytes(48))),
    "a shape of 10^6 axes": _arrays(_says("|u1", "(" + "1," * 10**4 + ")", b"\0")),
    "a shape of words": _arrays(_says("|u1", "('a', 4, 4, 1)")),
    "a shape of True": _arrays(_says("|u1", "(True, 4, 4, 1)", bytes(16))),
    "a type of fields": _arrays(
        npy(
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 4, 4, 1), }", bytes(192)
        )
    ),
    "a type of 2^31 bytes": _arrays(_says("|S2147483647", "(1, 1, 1, 1)")),
    "an unknown type": _arrays(_says("<q99", "(3, 4, 4, 1)")),
    "a header that calls": _arrays(npy(f"open('{CANARY}', 'w')")),
    "a header 30,000 deep": _arrays(npy("(" * 30_000 + ")" * 30_000)),
    "a header of 200 MB": lambda folder: _arrays(npy(" " * 200_000_000, version=2))(folder),
    "a header of null bytes": _arrays(npy("\0" * 100)),
    "cut short": _arrays(_says("|u1", "(3, 4, 4, 1)", bytes(10))),
    "empty": _arrays(b""),
    "a web page": _arrays(b"<html>quota</html>"),
    "an npz": _arrays(b"PK\x05\x06" + bytes(18)),
    "NaN": _arrays(_FLOATS * np.nan),
    "infinity": _arrays(_FLOATS * np.inf),
    "above 1": _arrays(_FLOATS * 255),
    "int64": _arrays(np.full((3, 4, 4, 1), 200)),
    "complex": _arrays(_FLOATS.astype(np.complex64)),
    "dates": _arrays(np.zeros((3, 4, 4, 1), "M8[s]")),
    "bools": _arrays(np.zeros((3, 4, 4, 1), bool)),
    "words": _arrays(np.full((3, 4, 4, 1), "x")),
    "three axes": _arrays(np.zeros((3, 4, 4), np.uint8)),
    "no image": _arrays(np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, int)),
    "images of no pixel": _arrays(np.zeros((3, 0, 4, 1), np.uint8)),
    "labels of words": _arrays(labels=np.array(["a", "b", "c"])),
    "labels of halves": _arrays(labels=np.array([0.5, 1, 2])),
    "labels of NaN": _arrays(labels=np.array([np.nan, 1, 2])),
    "labels below zero": _arrays(labels=np.array([-1, 1, 2])),
    "labels of 2^63": _arrays(labels=np.array([2**64 - 1, 1, 2], np.uint64)),
    "labels of 10^12": _arrays(labels=np.array([10**12, 1, 2])),
    "labels complex": _arrays(labels=np.array([1j, 1, 2])),
    "labels of two axes": _arrays(labels=np.zeros((3, 1), int)),
    "a single label": _arrays(labels=np.array(3)),
    "a label too few": _arrays(labels=np.zeros(2, int)),
    "images are a pipe": _array_thing("images.npy", os.mkfifo),
    "images are a link to /dev/zero": _array_thing(
        "images.npy", lambda path: path.symlink_to("/dev/zero")
    ),
    "images are a folder": _array_thing("images.npy", lambda path: path.mkdir()),
    "images are missing": _array_thing("images.npy", lambda path: None),
    "labels are a pipe": _array_thing("labels.npy", os.mkfifo),
    "labels are a link to /dev/zero": _array_thing(
        "labels.npy", lambda path: path.symlink_to("/dev/zero")
    ),
    "labels are a link to a private file": _array_thing(
        "labels.npy", lambda path: path.symlink_to(Path("secret.json").absolute())
    ),
    "32 GB of nothing": _array_thing(
        "images.npy", lambda path: _sparse(path, _says("|u1", "(3, 4, 4, 1)", bytes(48)))
    ),
    "32 GB of zeros as said": _array_thing(
        "images.npy", lambda path: _sparse(path, _says("|u1", "(33554432, 32, 32, 1)"))
    ),
}

# ---------------------------------------------------------------- pictures


@functools.cache
def picture(kind: str = "PNG", size: int = 8, mode: str = "RGB") -> bytes:
    """A sound picture of one colour."""
    from PIL import Image

    made = io.BytesIO()
    Image.new(mode, (size, size)).save(made, kind)
    return made.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(width: int, height: int, *chunks: bytes, data: bytes | None = None) -> bytes:
    """A PNG of 8-bit grey whose header says the sizes; more chunks before its data."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    held = zlib.compress(bytes((min(width, 8) + 1) * min(height, 8))) if data is None else data
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(chunks)
        + _chunk(b"IDAT", held)
        + _chunk(b"IEND", b"")
    )


def _swelling(name: bytes, size: int) -> bytes:
    part, made = bytes(2**20), zlib.compressobj(9)
    packed = b"".join(made.compress(part) for _ in range(size >> 20)) + made.flush()
    return _chunk(name, b"a\0\0" + packed)


PICTURES: dict[str, Callable[[], bytes]] = {
    "13,000 x 13,000": lambda: picture("PNG", 13_000, "L"),
    "a header of 10^9 x 10^9": lambda: png(10**9, 10**9),
    "a header of 40,000 x 40,000": lambda: png(40_000, 40_000),
    "a header of 0 x 0": lambda: png(0, 0),
    "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(canary) (w) file\n",
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>x</script></svg>',
    "GIF": lambda: picture("GIF"),
    "TIFF": lambda: picture("TIFF"),
    "WebP": lambda: picture("WEBP"),
    "ICO": lambda: picture("ICO", 16),
    "a JPEG cut short": lambda: picture("JPEG", 64)[:-300],
    "a PNG cut short": lambda: picture()[:-20],
    "a PNG of other sums": lambda: picture()[:-14] + bytes(2) + picture()[-12:],
    "zTXt of 256 MB": lambda: png(8, 8, _swelling(b"zTXt", 2**28)),
    "iCCP of 256 MB": lambda: png(8, 8, _swelling(b"iCCP", 2**28)),
    "100,000 chunks": lambda: png(8, 8, *[_chunk(b"tEXt", b"a\0b")] * 100_000, data=b""),
    "a chunk of 2^31": lambda: (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"IHDR" + bytes(9)
    ),
    "text": lambda: b"a picture of a cat\n",
    "empty": lambda: b"",
    "a pickle": lambda: pickle.dumps(_Runs()),
}


def _parquet(columns: Callable[[], dict[str, Any]], *, part: str = "test-0.parquet") -> Build:
    def build(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        (folder / "held").mkdir()
        pq.write_table(pa.table(columns()), folder / "held" / part)

    return build


def _rows(raw: bytes, *more: bytes) -> list[dict[str, object]]:
    return [{"bytes": each, "path": "a.png"} for each in (raw, *more)]


def _parquet_bytes(change: Callable[[bytes], bytes]) -> Build:
    def build(folder: Path) -> None:
        _parquet(lambda: {"img": _rows(picture()), "label": [1]})(folder)
        path = folder / "held" / "test-0.parquet"
        path.write_bytes(change(path.read_bytes()))

    return build


def _parquet_thing(make: Callable[[Path], object]) -> Build:
    def build(folder: Path) -> None:
        (folder / "held").mkdir()
        make(folder / "held" / "test-0.parquet")

    return build


def _swollen(folder: Path) -> None:
    """A Parquet file of a few kilobytes whose column is 600 MB of one value."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "held").mkdir()
    raw = pa.array([bytes(10**7)] * 60, pa.binary())
    img = pa.StructArray.from_arrays([raw, pa.array(["a"] * 60)], ["bytes", "path"])
    table = pa.table({"img": img, "label": list(range(60))})
    pq.write_table(table, folder / "held" / "test-0.parquet", compression="zstd")


_PARQUETS: dict[str, Build] = {
    **{
        f"picture: {name}": _parquet(lambda make=make: {"img": _rows(make()), "label": [1]})  # type: ignore[misc]
        for name, make in PICTURES.items()
        if name not in ("GIF", "TIFF", "WebP", "ICO")
    },
    "labels of words": _parquet(lambda: {"img": _rows(picture()), "label": ["cat"]}),
    "labels of halves": _parquet(lambda: {"img": _rows(picture()), "label": [0.5]}),
    "no label": _parquet(lambda: {"img": _rows(picture()), "label": [None]}),
    "labels below zero": _parquet(lambda: {"img": _rows(picture()), "label": [-1]}),
    "labels of 2^62": _parquet(lambda: {"img": _rows(picture()), "label": [2**62]}),
    "labels that are lists": _parquet(lambda: {"img": _rows(picture()), "label": [[1, 2]]}),
    "no column of labels": _parquet(lambda: {"img": _rows(picture())}),
    "no column of pictures": _parquet(lambda: {"label": [1]}),
    "pictures that are words": _parquet(lambda: {"img": ["a.png"], "label": [1]}),
    "pictures that are paths": _parquet(
        lambda: {"img": [{"bytes": None, "path": "secret.json"}], "label": [1]}
    ),
    "pictures of two sizes": _parquet(
        lambda: {"img": _rows(picture(), picture("PNG", 9)), "label": [1, 2]}
    ),
    "no row": _parquet(lambda: {"img": _rows(picture())[:0], "label": []}),
    "pictures of 600 MB": _swollen,
    "cut short": _parquet_bytes(lambda raw: raw[:-20]),
    "a footer of 2^31": _parquet_bytes(
        lambda raw: raw[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1"
    ),
    "a footer of zeros": _parquet_bytes(lambda raw: raw[:-60] + bytes(52) + raw[-8:]),
    "flipped bytes in the footer": _parquet_bytes(
        lambda raw: raw[:-200] + bytes(b ^ 0x55 for b in raw[-200:-100]) + raw[-100:]
    ),
    "flipped bytes in a page": _parquet_bytes(
        lambda raw: raw[:40] + bytes(b ^ 0x55 for b in raw[40:60]) + raw[60:]
    ),
    "empty": _parquet_bytes(lambda raw: b""),
    "a web page": _parquet_bytes(lambda raw: b"<html>quota</html>"),
    "a pipe": _parquet_thing(os.mkfifo),
    "a link to /dev/zero": _parquet_thing(lambda path: path.symlink_to("/dev/zero")),
    "a link to a private file": _parquet_thing(
        lambda path: path.symlink_to(Path("secret.json").absolute())
    ),
    "a folder": _parquet_thing(lambda path: path.mkdir()),
    "no file": _parquet_thing(lambda path: None),
    "32 GB of nothing": _parquet_thing(lambda path: _sparse(path, b"PAR1")),
}

# ---------------------------------------------------------------- folders of pictures


def _folder(*more: tuple[str, bytes], test: str = "") -> Build:
    """Two classes of two pictures, and other files."""

    def build(folder: Path) -> None:
        for name in ("cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png"):
            path = folder / "held" / test / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture())
        for name, raw in more:
            (folder / "held" / test / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "held" / test / name).write_bytes(raw)

    return build


def _folder_thing(name: str, make: Callable[[Path], object]) -> Build:
    def build(folder: Path) -> None:
        _folder()(folder)
        make(folder / "held" / name)

    return build


_FOLDERS: dict[str, Build] = {
    **{
        f"picture: {name}": (lambda folder, make=make: _folder(("cat/odd.png", make()))(folder))  # type: ignore[misc]
        for name, make in PICTURES.items()
    },
    "a picture of another size": lambda folder: _folder(("cat/odd.png", picture("PNG", 9)))(folder),
    "a pipe": _folder_thing("cat/odd.png", os.mkfifo),
    "a link to /dev/zero": _folder_thing("cat/odd.png", lambda path: path.symlink_to("/dev/zero")),
    "a link to a private file": _folder_thing(
        "cat/odd.png", lambda path: path.symlink_to(Path("secret.json").absolute())
    ),
    "a folder of that name": _folder_thing("cat/odd.png", lambda path: path.mkdir()),
    "32 GB of nothing": _folder_thing("cat/odd.png", lambda path: _sparse(path, picture())),
}


def _emptied(folder: Path) -> None:
    (folder / "held").mkdir()


def _hollow(folder: Path) -> None:
    _folder()(folder)
    shutil.rmtree(folder / "held" / "cat")
    (folder / "held" / "cat").mkdir()


# The sums of a PNG's chunks are not those of its pixels, which zlib holds: either is right.
_OUTCOMES = {"picture: a PNG of other sums": Either(Refused("png|parquet"), Accepted("3, 8, 8"))}


def _of(
    kind: str, builds: dict[str, Build], act: Act, words: str, every: int
) -> list[Member]:  # fmt: skip
    return [
        Member(
            f"{kind}: {name}",
            "data",
            build,
            act,
            _OUTCOMES.get(name, Refused(words)),
            short=k % every == 0,
        )
        for k, (name, build) in enumerate(builds.items())
    ]


def _fine(name: str, build: Build, act: Act, outcome: Outcome) -> Member:
    return Member(name, "data", build, act, outcome, short=True)


_CLI = command(
    "evaluate",
    "digits-at-s0-last",
    "--dataset",
    "arrays:held",
    "--protocol",
    "only-fgsm",
    "--n",
    "2",
    "--workers",
    "1",
    "--out",
    "made",
)


def _measured(folder: Path) -> None:
    from tests.hostile.cards import checkpoint

    checkpoint(folder)
    _arrays(_says("|u1", "(3000000000000, 1, 1, 1)"))(folder)


MEMBERS = (
    *_of("IDX", _IDX, IDX, r"t10k-|mnist|/dev/zero", 5),
    *_of("arrays", _NPY, ARRAYS, r"images|labels", 6),
    *_of("Parquet", _PARQUETS, PARQUET, r"parquet", 7),
    *_of("folder", _FOLDERS, FOLDER, r"odd\.png", 6),
    Member("folder: empty", "data", _emptied, FOLDER, Refused("held"), short=True),
    Member("folder: a class without a picture", "data", _hollow, FOLDER, Refused("cat")),
    Member("evaluate: an array of 2.8 TiB", "data", _measured, _CLI, Refused(r"images\.npy|held")),
    _fine("IDX: honest", _mnist(), IDX, Accepted(r"\(2, 1, 28, 28\) \[1, 2\] of 10")),
    _fine("IDX: honest, packed", _mnist(packed=True), IDX, Accepted(r"\(2, 1, 28, 28\) \[1, 2\]")),
    _fine("arrays: honest", _arrays(), ARRAYS, Accepted(r"\(3, 1, 4, 4\) \[0, 1, 2\] of 3")),
    _fine(
        "Parquet: honest",
        _parquet(lambda: {"img": _rows(picture(), picture()), "label": [1, 0]}),
        PARQUET,
        Accepted(r"\(2, 3, 8, 8\) \[1, 0\] of 2"),
    ),
    _fine("folder: honest", _folder(), FOLDER, Accepted(r"\(4, 3, 8, 8\) \[0, 1, 0, 1\] of 2")),
)
