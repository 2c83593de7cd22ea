"""Data that people hand in: every form read to the right values, every other file refused in bounds."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench.datasets import load
from bench.readers.pictures import decode
from bench.schema import InvalidInput

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
OPAQUE = np.full((6, 5, 1), 255, np.uint8)


def encoded(image: Image.Image | np.ndarray, form: str = "PNG", **more) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, format=form, **more)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# ---------------------------------------------------------------- pictures

TWO_COLOURS = Image.fromarray(GREY > 128)
PALETTE = Image.fromarray(RGB).quantize(16)
RIGHT = {
    "rgb": (encoded(RGB), RGB),
    "grey": (encoded(GREY), GREY[..., None]),
    "one bit": (encoded(TWO_COLOURS), np.where(GREY > 128, 255, 0)[..., None]),
    "four bits": (png(2, 1, 4, 0, b"\0\x0f"), [[[0], [255]]]),
    "palette": (encoded(PALETTE), np.asarray(PALETTE.convert("RGB"))),
    "opaque": (encoded(np.dstack([RGB, OPAQUE])), RGB),
    "opaque grey": (encoded(np.dstack([GREY, OPAQUE])), GREY[..., None]),
    "one pixel": (encoded(RGB[:1, :1]), RGB[:1, :1]),
    "jpeg": (
        encoded(RGB, "JPEG"),
        np.asarray(Image.open(io.BytesIO(encoded(RGB, "JPEG")))),
    ),
    "grey jpeg": (encoded(np.full((8, 8), 77, np.uint8), "JPEG"), np.full((8, 8, 1), 77)),
}


@pytest.mark.parametrize(("raw", "values"), RIGHT.values(), ids=RIGHT)
def test_a_picture_is_read_to_its_values(raw, values):
    found = decode(raw, "it")
    assert found.dtype == np.uint8
    assert np.array_equal(found, values)


CLEAR = PALETTE.copy()
CLEAR.info["transparency"] = 0
MOVING = {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}
LONG = encoded(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
LONG_JPEG = encoded(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")
WRONG = {
    "16 bits": (encoded(GREY.astype(np.uint16)), "16 bits"),
    "16 bits of RGB": (png(1, 1, 16, 2, b"\0" + b"abcdef"), "16 bits"),
    "transparent": (encoded(np.dstack([RGB, OPAQUE - 1])), "partly transparent"),
    "transparent palette": (encoded(CLEAR, transparency=0), "partly transparent"),
    "cmyk": (encoded(Image.new("CMYK", (4, 4)), "JPEG"), "CMYK"),
    "moving": (encoded(RGB, **MOVING), "moves"),
    "a gif": (encoded(RGB, "GIF"), "expected a PNG or JPEG"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected a PNG or JPEG"),
    "text": (b"secret", "expected a PNG or JPEG"),
    "nothing": (b"", "expected a PNG or JPEG"),
    "a beginning": (LONG[:20], "cut short"),
    "too many pixels": (png(5000, 5000, 1, 0, b"\0"), "at most 16,777,216 pixels"),
    "another checksum": (LONG.replace(LONG[60:64], bytes(4), 1), "damaged"),
    "a tail alone": (b"\x89PNG\r\n\x1a\n" + b"\0" * 20 + LONG[-12:], "damaged"),
    "too long": (LONG[:-12] + bytes(9 * 2**20) + LONG[-12:], "a longer one"),
}


@pytest.mark.parametrize(("raw", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_picture_of_eight_bits_is_refused(raw, words):
    with pytest.raises(InvalidInput, match=words) as error:
        decode(raw, "it")
    assert "secret" not in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("raw", [LONG, LONG_JPEG], ids=["png", "jpeg"])
@pytest.mark.parametrize("left", [0.5, 0.99, -13, -1])
def test_a_picture_that_is_cut_short_is_refused(raw, left):
    with pytest.raises(InvalidInput, match="cut short|damaged"):
        decode(raw[: int(left * len(raw)) if left > 0 else left], "it")


# ---------------------------------------------------------------- Parquet

PICTURES = RNG.integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 1]


def table(
    pictures=PICTURES, labels=LABELS, *, column="img", label="label", struct=True
) -> pa.Table:
    raw = [encoded(picture) for picture in pictures]
    cells = [{"bytes": each, "path": "a.png"} for each in raw] if struct else raw
    return pa.table({column: cells, label: labels})


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("column", ["image", "img"])
@pytest.mark.parametrize("label", ["label", "labels", "fine_label"])
def test_parquet_by_any_of_its_names(tmp_path, column, label, struct):
    content = table(column=column, label=label, struct=struct)
    pq.write_table(content, tmp_path / "test-00000-of-00001.parquet")
    data = load(f"parquet:{tmp_path}")
    assert np.array_equal(data.images, PICTURES.transpose(0, 3, 1, 2))
    assert data.labels.tolist() == LABELS


def test_parquet_of_grey_pictures_stays_grey_and_shards_are_in_order(tmp_path):
    grey = RNG.integers(0, 256, (11, 5, 4), dtype=np.uint8)
    folder = tmp_path / "data"
    folder.mkdir()
    for k in range(11):  # 10 comes after 2
        pq.write_table(table(grey[k : k + 1], [k]), folder / f"test-{k}-of-11.parquet")
    data = load(f"parquet:{tmp_path}")
    assert data.labels.tolist() == list(range(11))
    assert np.array_equal(data.images[:, 0], grey)
    (folder / "test-3-of-11.parquet").unlink()
    with pytest.raises(InvalidInput, match="10 of 11 files"):
        load(f"parquet:{tmp_path}")


OTHERS = {
    "text labels": (table(labels=list("abca")), "whole numbers, got string"),
    "float labels": (table(labels=[0.0, 1, 2, 1]), "whole numbers, got double"),
    "negative labels": (table(labels=[0, -1, 2, 1]), "at 1, is -1"),
    "huge labels": (table(labels=[0, 1, 2**40, 1]), "at 2, is 1099511627776"),
    "no label": (table(labels=[0, None, 2, 1]), "a label is missing"),
    "no picture": (
        pa.table({"img": [{"bytes": None}, {"bytes": LONG}], "label": [1, 1]}),
        "row 0: its picture",
    ),
    "texts": (pa.table({"img": ["secret"], "label": [1]}), "got string"),
    "other names": (pa.table({"picture": [b"a"], "label": [1]}), "no column of pictures"),
    "a column twice": (
        pa.Table.from_arrays(
            [pa.array([LONG])] * 2 + [pa.array([1])], names=["img", "img", "label"]
        ),
        "several columns img",
    ),
    "no labels": (pa.table({"img": [b"a"]}), "no column of labels"),
    "no rows": (table()[:0], "holds 0 rows"),
    "no picture's bytes": (pa.table({"img": [b"secret"], "label": [1]}), "row 0: expected a PNG"),
    "another size": (
        pa.concat_tables([table(), table(PICTURES[:1, :3], [0])]),
        "row 4 is 6 x 3 RGB, but .*row 0 is 6 x 6 RGB",
    ),
    "grey among RGB": (pa.concat_tables([table(), table(PICTURES[:1, ..., 0], [0])]), "6 x 6 grey"),
}


@pytest.mark.parametrize(("content", "words"), OTHERS.values(), ids=OTHERS)
def test_other_parquet_is_refused(tmp_path, content, words):
    pq.write_table(content, tmp_path / "test-00000.parquet")
    with pytest.raises(InvalidInput, match=words) as error:
        load(f"parquet:{tmp_path}")
    assert "secret" not in str(error.value)


def test_a_damaged_parquet_file_is_named(tmp_path):
    path = tmp_path / "test-00000.parquet"
    pq.write_table(table(), path)
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:300] + bytes(200) + whole[500:], b"PAR1", b""):
        path.write_bytes(damaged)
        with pytest.raises(InvalidInput, match=f"{tmp_path}"):
            load(f"parquet:{tmp_path}")


# ---------------------------------------------------------------- arrays


def arrays(folder: Path, images, labels) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    return folder


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (PICTURES.astype(np.uint16), LABELS, "must be uint8, or float in .*got uint16"),
        (PICTURES.astype(np.int64), LABELS, "got int64"),
        (PICTURES, [*LABELS, 1, 1], "a label for each of 4 images, got 6"),
        (PICTURES, np.array(LABELS, bool), "whole numbers .*got bool"),
        (PICTURES, np.array([LABELS]).T, r"got int64 \(4, 1\)"),
        (PICTURES, np.array([0, 1, 2**63, 1], "u8"), "at 2, is 9223372036854775808"),
        (PICTURES, np.array(list("abca")), "whole numbers .*got <U1"),
        (PICTURES / 255 + 0.001, LABELS, r"must lie in \[0, 1\]"),
        (PICTURES[:0], LABELS[:0], "it is empty"),
    ],
)  # fmt: skip
def test_other_arrays_are_refused(tmp_path, images, labels, words):
    with pytest.raises(InvalidInput, match=words):
        load(f"arrays:{arrays(tmp_path, images, labels)}")


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_float_arrays_of_every_kind_are_float32(tmp_path, dtype, order):
    images = np.asarray(PICTURES / 256, dtype=dtype, order=order)
    data = load(f"arrays:{arrays(tmp_path, images, np.array(LABELS, '>u2'))}")
    assert np.array_equal(data.images, images.astype(np.float32).transpose(0, 3, 1, 2))
    assert data.labels.tolist() == LABELS


def test_labels_beyond_the_classes_of_a_named_data_set_are_refused(tmp_path):
    source = f"arrays:{arrays(tmp_path, PICTURES, [0, 1, 10, 1])}"
    assert load(source).class_count == 11
    with pytest.raises(InvalidInput, match=r"0\.\.9; the first that does not, at 2, is 10"):
        load(source, name="cifar10")


def test_arrays_may_lie_in_parts(tmp_path):
    arrays(tmp_path / "train", PICTURES, LABELS)
    with pytest.raises(InvalidInput, match="no test images: there is train"):
        load(f"arrays:{tmp_path}")
    arrays(tmp_path / "test", PICTURES[:2], LABELS[:2])
    assert [len(load(f"arrays:{tmp_path}", part)) for part in ("train", "test")] == [4, 2]


# ---------------------------------------------------------------- a folder of pictures a class


def image_folder(folder: Path, counts: dict[str, int], shade: int = 0) -> Path:
    """Pictures whose first pixel is the class's number, the second the picture's."""
    for label, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            picture = np.full((4, 4, 3), shade, np.uint8)
            picture[0, :2, 0] = label, k
            Image.fromarray(picture).save(folder / name / f"{k:02}.png")
    return folder


def test_classes_are_spread_evenly_and_numbered_by_name(tmp_path):
    data = load(f"imagefolder:{image_folder(tmp_path / 'größe 1', {'b é': 2, 'a': 4, '日本': 2})}")
    assert data.name == "gr-e-1"
    assert data.images.shape == (8, 3, 4, 4)
    assert data.class_count == 3
    assert data.labels.tolist() == [0, 1, 2, 0, 0, 1, 2, 0]
    assert data.images[:, 0, 0, :2].tolist() == [
        [0, 0], [1, 0], [2, 0], [0, 1], [0, 2], [1, 1], [2, 1], [0, 3],
    ]  # fmt: skip


def test_a_class_means_the_same_in_both_parts(tmp_path):
    image_folder(tmp_path / "train", {"a": 2, "b": 2, "c": 2})
    image_folder(tmp_path / "test", {"a": 1, "c": 1}, shade=9)
    data = load(f"imagefolder:{tmp_path}")
    assert (data.labels.tolist(), data.class_count) == ([0, 2], 3)
    assert len(load(f"imagefolder:{tmp_path}", "train")) == 6


def test_a_class_named_train_is_a_class(tmp_path):
    data = load(f"imagefolder:{image_folder(tmp_path, {'car': 1, 'plane': 1, 'train': 1})}")
    assert data.labels.tolist() == [0, 1, 2]


def test_hidden_files_and_those_that_systems_leave_do_not_count(tmp_path):
    image_folder(tmp_path, {"a": 1, "b": 1})
    for name in (".DS_Store", ".git/x", "__MACOSX/a.png", "README.md", "a/Thumbs.db", "b/._00.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"text")
    assert load(f"imagefolder:{tmp_path}").labels.tolist() == [0, 1]


def test_links_to_files_and_folders_are_followed(tmp_path):
    real = image_folder(tmp_path / "real", {"a": 2, "b": 1})
    linked = tmp_path / "linked"
    (linked / "a").mkdir(parents=True)
    (linked / "a" / "00.png").symlink_to(real / "a" / "01.png")
    (linked / "b").symlink_to(real / "b")
    assert load(f"imagefolder:{linked}").images[:, 0, 0, 1].tolist() == [1, 0]


def put(name: str, content: bytes):
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return change


FAULTS = {
    "a text": (put("a/notes.txt", b"secret"), "a/notes.txt is no PNG or JPEG file"),
    "a text by the name of a picture": (put("a/x.png", b"secret"), "a/x.png: expected a PNG"),
    "a picture beside the classes": (put("x.jpg", b""), "lies in no class folder"),
    "a folder in a class": (lambda f: (f / "a" / "b").mkdir(), "a/b is no PNG"),
    "an empty class": (lambda f: (f / "c").mkdir(), "c holds no pictures"),
    "a broken link": (lambda f: (f / "a" / "l.png").symlink_to("no"), "a/l.png is no PNG"),
    "a pipe": (lambda f: os.mkfifo(f / "a" / "p.png"), "a/p.png is no PNG"),
    "a device": (lambda f: (f / "a" / "d.png").symlink_to("/dev/zero"), "a/d.png is no PNG"),
    "another size": (put("b/x.png", encoded(RGB)), "b/x.png is 5 x 6 RGB, but .* is 4 x 4 RGB"),
    "one class": (lambda f: (f / "b").rename(f / ".b"), "has 1 class folders"),
}


@pytest.mark.parametrize(("change", "words"), FAULTS.values(), ids=FAULTS)
def test_what_is_no_folder_of_pictures_is_named(tmp_path, change, words):
    change(image_folder(tmp_path, {"a": 2, "b": 2}))
    with pytest.raises(InvalidInput, match=words) as error:
        load(f"imagefolder:{tmp_path}")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("form", ["parquet", "arrays", "imagefolder"])
def test_an_empty_folder_says_what_was_expected(tmp_path, form):
    with pytest.raises(InvalidInput, match="expected"):
        load(f"{form}:{tmp_path}")


def test_an_unknown_form_is_told_those_there_are(tmp_path):
    with pytest.raises(InvalidInput, match="no form of data named 'zip'.*imagefolder:FOLDER"):
        load(f"zip:{tmp_path}")
    for name in (
        "x" * 1_000_000,
        "arrays:" + "x" * 5000,
        "arrays:a\0b",
        "arrays:~nobody-here/x",
        "arrays:",
    ):
        with pytest.raises(InvalidInput) as error:
            load(name)
        assert len(str(error.value)) < 600


# ---------------------------------------------------------------- MNIST, and what is hostile


def idx(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    head = b"\0\0\x08" + bytes([array.ndim])
    return head + np.array(shape or array.shape, dtype=">u4").tobytes() + array.tobytes()


def mnist(folder: Path, images: bytes, labels: bytes, ending: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / f"t10k-images-idx3-ubyte{ending}").write_bytes(images)
    (folder / f"t10k-labels-idx1-ubyte{ending}").write_bytes(labels)
    return folder


DIGITS = RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)
THREE = idx(np.array([7, 2, 1], np.uint8))


@pytest.mark.parametrize("place", ["mnist", "MNIST/raw"])
def test_the_test_files_alone_are_enough_to_measure_on(tmp_path, place):
    mnist(tmp_path / place, idx(DIGITS), THREE)
    data = load("mnist", root=tmp_path, download=False)
    assert np.array_equal(data.images[:, 0], DIGITS)
    assert data.labels.tolist() == [7, 2, 1]
    with pytest.raises(InvalidInput, match="train-images-idx3-ubyte"):
        load("mnist", "train", root=tmp_path, download=False)


def zipped(content: bytes, zeros: int = 0) -> bytes:
    """gzip of the content and so many zeros after it; the checksum of many is not made."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    start = packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH)
    block = 2**24
    if zeros:
        piece = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
        return start + piece * (zeros // block)
    return start + packer.flush()


def test_a_gzip_stream_is_read_to_its_checksum(tmp_path):
    folder = mnist(tmp_path / "mnist", zipped(idx(DIGITS)), zipped(THREE), ".gz")
    assert np.array_equal(load("mnist", root=tmp_path, download=False).images[:, 0], DIGITS)
    path = folder / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-8] + bytes(8), whole[: len(whole) // 2], b"", whole[1:]):
        path.write_bytes(damaged)
        with pytest.raises(InvalidInput, match=f"{path.name} is"):
            load("mnist", root=tmp_path, download=False)


def sparse(path: Path, size: int, head: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def npy(described: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(described)) + described.encode()


def header(shape: str, code: str = "|u1") -> bytes:
    return npy(f"{{'descr': '{code}', 'fortran_order': False, 'shape': ({shape}), }}")


def images_npy(content: bytes):
    return lambda folder: f"arrays:{put_npy(folder, content)}"


def put_npy(folder: Path, content: bytes) -> Path:
    put("images.npy", content)(arrays(folder, PICTURES, LABELS))
    return folder


def linked(name: str, target: str):
    def make(folder: Path) -> str:
        folder.mkdir()
        (folder / name).symlink_to(target)
        form = "parquet" if name.endswith("parquet") else "arrays"
        return f"{form}:{folder}"

    return make


def pipe(name: str, source: str):
    def make(folder: Path) -> str:
        (folder / name).parent.mkdir(parents=True)
        os.mkfifo(folder / name)
        return source.format(folder)

    return make


def large(name: str, form: str, head: bytes = b"", size: int = 8 * 10**9):
    def make(folder: Path) -> str:
        sparse(folder / name, size, head)
        (folder / "b").mkdir()
        return f"{form}:{folder}"

    return make


def of_mnist(images: bytes):
    return lambda folder: f"mnist {mnist(folder / 'mnist', images, zipped(THREE), '.gz').parent}"


def repeated(folder: Path) -> str:
    """A picture that lies in the file once, and in memory 2,000 times."""
    folder.mkdir()
    one = encoded(np.zeros((1024, 1024, 3), np.uint8))
    content = pa.table({"img": [one] * 2000, "label": [1] * 2000})
    pq.write_table(content, folder / "test-0.parquet")
    return f"parquet:{folder}"


def one_long(folder: Path) -> str:
    """A picture of 100 MB that is nearly nothing in the file."""
    folder.mkdir()
    content = pa.table({"img": [LONG, LONG[:-12] + bytes(10**8) + LONG[-12:]], "label": [1, 1]})
    pq.write_table(content, folder / "test-0.parquet", compression="zstd")
    return f"parquet:{folder}"


def pixels(folder: Path) -> str:
    rows = bytes(13_000 * (1 + 13_000 // 8))
    image_folder(folder, {"b": 1})
    put("a/large.png", png(13_000, 13_000, 1, 0, rows))(folder)
    return f"imagefolder:{folder}"


MANY = b"\0\0\x08\x03" + struct.pack(">III", 5_000_000, 28, 28)
HOSTILE = {
    "4 GB in an IDX.gz": (of_mnist(zipped(MANY, 4 * 10**9)), r"declares an array \(5000000, 28, 28"),
    "4 GB after three images": (of_mnist(zipped(idx(DIGITS), 4 * 10**9)), "more came"),
    "an IDX header alone": (of_mnist(zipped(idx(DIGITS[:0], (9999, 28, 28)))), "fewer came"),
    "IDX of overflowing shape": (of_mnist(zipped(idx(DIGITS[:0], (2**32 - 1,) * 3))), "declares"),
    "IDX of many axes": (of_mnist(zipped(b"\0\0\x08\xff" + bytes(1020))), "not a complete IDX"),
    "IDX of floats": (of_mnist(zipped(b"\0\0\x0d\x03" + bytes(12))), "not a complete IDX"),
    "13,000 x 13,000 pixels": (pixels, "at most 16,777,216 pixels"),
    "npy of 2.8 TiB": (images_npy(header("1000000000, 32, 32, 3")), "the bytes of an array"),
    "npy of objects": (images_npy(header("4,", "|O")), "an array of objects"),
    "npy with a long header": (images_npy(npy("[" * 60_000)), "longer than any"),
    "npy with nested brackets": (images_npy(npy("[" * 9_000)), "records or is damaged"),
    "npy of nothing": (images_npy(b""), "it is no array"),
    "npy of 8 GB of holes": (
        large("images.npy", "arrays", header("8000000, 10, 10, 10")), "at most 2,147,483,648",
    ),
    "npy of 2 GB of holes": (large("images.npy", "arrays", size=2 * 10**9), "it is no array"),
    "parquet of 8 GB of holes": (large("test-0.parquet", "parquet"), "at most 2,147,483,648"),
    "parquet of 2 GB of holes": (large("test-0.parquet", "parquet", size=2 * 10**9), "no Parquet"),
    "picture of 8 GB of holes": (large("a/x.png", "imagefolder", LONG), "class folder|at most"),
    "a picture again and again": (repeated, "2,000 pictures of 1024 x 1024 RGB are 6,291,456,000"),
    "one long picture": (one_long, "bytes in one group of rows, at most 25,165,824"),
    "a pipe of arrays": (pipe("images.npy", "arrays:{}"), "not a regular file"),
    "a pipe of parquet": (pipe("test-0.parquet", "parquet:{}"), "not a regular file"),
    "a pipe of IDX": (pipe("mnist/t10k-images-idx3-ubyte", "mnist {}"), "not on this machine"),
    "a pipe of CIFAR-10": (pipe("cifar-10-python.tar.gz", "cifar10 {}"), "not a regular file"),
    "a device of arrays": (linked("images.npy", "/dev/zero"), "not a regular file"),
    "a device of parquet": (linked("test-0.parquet", "/dev/zero"), "not a regular file"),
    "a link to itself": (linked("images.npy", "images.npy"), "missing|cannot be read"),
}  # fmt: skip

# The limits kill the child: 5 seconds of its processor, a minute of the clock, 500 MB beyond what is
# there once everything is imported.
CHILD = """
import json, resource, signal, sys
from pathlib import Path
import torch, torchvision, PIL.Image, PIL.PngImagePlugin, PIL.JpegImagePlugin, pyarrow.parquet
from bench import datasets
from bench.schema import InvalidInput

held = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + 500_000_000,) * 2)
for name, source in json.load(sys.stdin).items():
    print(json.dumps(name), end=" ", flush=True)
    signal.setitimer(signal.ITIMER_PROF, 5)
    signal.alarm(60)
    dataset, _, root = source.partition(" ")
    try:
        datasets.load(dataset, root=Path(root), download=False)
        print(json.dumps("it was read"), flush=True)
    except InvalidInput as error:
        print(json.dumps(str(error)), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, str]:
    """Hostile member -> the error that it ended in, all of one child under limits."""
    root = tmp_path_factory.mktemp("hostile")
    sources = {name: make(root / str(k)) for k, (name, (make, _)) in enumerate(HOSTILE.items())}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(sources), capture_output=True, text=True,
        check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, f"killed at {done.stdout[-200:]}\n{done.stderr[-2000:]}"
    lines = map(json.JSONDecoder().raw_decode, done.stdout.splitlines())
    return {
        name: json.loads(line[end:])
        for line, (name, end) in zip(done.stdout.splitlines(), lines, strict=True)
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.slow
def test_hostile_files_are_refused_within_limits(answers, name):
    assert re.search(HOSTILE[name][1], answers[name]), answers[name]
    assert len(answers[name]) < 500
