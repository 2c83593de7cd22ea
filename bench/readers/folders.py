"""Folders of images and labels of one's own: Parquet files, .npy arrays, a folder of pictures a class.

N images, C channels. Parts are "train" and "test". Files may be links to regular files, as in the
caches of data sets: whoever names the folder chose them. Pipes and devices are never opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.readers.arrays import opened, read_npy
from bench.readers.pictures import FORMATS, LONGEST, stacked
from bench.records.one_read import read_whole
from bench.schema import InvalidInput

PARTS = ("train", "test")
MOST_CLASSES = 100_000
MOST_IMAGES = 10_000_000

Labelled = tuple[np.ndarray, np.ndarray, int]  # images (N, C, H, W), labels (N,) int64, classes


@dataclass(frozen=True)
class Form:
    """A way in which images and labels lie in a folder."""

    layout: str  # for people
    read: Callable[[Path, str], Labelled]  # of a folder and one of its parts
    parts: Callable[[Path], list[str]]  # those that lie apart; none: all images are one part


def whole_numbers(labels: np.ndarray, n: int, where: str) -> tuple[np.ndarray, int]:
    """(N,) int64 labels of n images, and how many classes they speak of.

    Raises InvalidInput where they are no whole numbers, negative, too large, or not n.
    """
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InvalidInput(
            f"{where}: labels must be whole numbers (N,), got {labels.dtype} {labels.shape}"
        )
    if len(labels) != n:
        raise InvalidInput(
            f"{where}: expected a label for each of {n:,} images, got {len(labels):,}"
        )
    wrong = (labels < 0) | (labels >= MOST_CLASSES)
    if wrong.any():
        at = int(wrong.argmax())
        raise InvalidInput(
            f"{where}: labels must lie in 0..{MOST_CLASSES - 1}; the first that does not, at {at}, "
            f"is {labels[at]}"
        )
    return labels.astype(np.int64), max(2, int(labels.max(initial=0)) + 1)


# ---------------------------------------------------------------- Parquet

_PICTURES, _LABELS = ("image", "img"), ("label", "labels", "fine_label")  # columns
_MOST_CHUNK = 192 * 2**20  # bytes of one column in one group of rows: they may be read at once
_ROWS = 8  # read at a time: one picture that is repeated is small in the file, and not in memory
_PARQUET = (
    "test-*.parquet with a column image or img (bytes of a PNG or JPEG, alone or as {bytes, path}) and "
    "a column label or labels (whole numbers)"
)


def _shards(folder: Path, part: str) -> list[Path]:
    """The Parquet files of a part, in order. Raises InvalidInput where one of several is missing."""
    names = re.compile(rf"{part}(-.*)?\.parquet")
    found = [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]
    found = [p for p in found if names.fullmatch(p.name)]
    folders = sorted({p.parent for p in found})
    if folder in folders:
        found = [p for p in found if p.parent == folder]
    elif len(folders) > 1:
        raise InvalidInput(
            f"{part}-*.parquet lies in several folders of {folder}: "
            f"{', '.join(p.name for p in folders[:5])}; name one of them"
        )
    found.sort(
        key=lambda p: [t.zfill(12) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)]
    )
    for wanted in {
        int(m[1]) for p in found if (m := re.search(r"-of-(\d{1,6})\.parquet$", p.name))
    }:
        if wanted != len(found):
            raise InvalidInput(f"{folder} has {len(found)} of {wanted} files {part}-*.parquet")
    return found


def _parquet_parts(folder: Path) -> list[str]:
    return [part for part in PARTS if _shards(folder, part)]


def _parquet(folder: Path, part: str) -> Labelled:
    """Parquet files as Hugging Face's data sets have them, shard after shard."""
    import pyarrow

    files = _shards(folder, part)
    if not files:
        raise InvalidInput(f"no {part}-*.parquet in {folder}; expected {_PARQUET}")
    try:
        total = sum(_row_count(file) for file in files)
        if not 0 < total <= MOST_IMAGES:
            raise InvalidInput(f"{folder}: {part}-*.parquet holds {total:,} rows")
        labels: list[np.ndarray] = []
        images = stacked((row for file in files for row in _pictures(file, labels)), total)
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidInput(
            f"{part}-*.parquet in {folder} cannot be read as Parquet ({type(error).__name__}): one is "
            "damaged or cut short; fetch them again"
        ) from None
    return images, *whole_numbers(np.concatenate(labels), total, f"{folder}, {part}-*.parquet")


def _row_count(file: Path) -> int:
    """How many rows a file says that it has; its columns and sizes are checked before any is read."""
    with opened(file) as (source, _):
        table = _table(source, file)
        picture, label = _columns(table.schema_arrow, file)
        for group in range(table.metadata.num_row_groups):
            row_group = table.metadata.row_group(group)
            for column in map(row_group.column, range(row_group.num_columns)):
                size = column.total_uncompressed_size
                wanted = column.path_in_schema in (picture, label)
                most = min(_MOST_CHUNK, (row_group.num_rows + 1) * LONGEST)
                if wanted and not 0 <= size <= most:
                    raise InvalidInput(
                        f"{file}: {column.path_in_schema} has {size:,} bytes in one group of rows, at "
                        f"most {most:,} are read: write it with smaller groups or pictures"
                    )
        return max(0, int(table.metadata.num_rows))


def _table(source: Any, file: Path) -> Any:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(
            source, thrift_string_size_limit=2**24, thrift_container_size_limit=2**18
        )
    except (pyarrow.ArrowException, OSError):
        raise InvalidInput(f"{file} is no Parquet file, or is damaged; fetch it again") from None


def _columns(schema: Any, file: Path) -> tuple[str, str]:
    """The columns of encoded pictures and of labels, as paths in the file."""
    from pyarrow import types

    def first(kind: str, names: tuple[str, ...]) -> Any:
        for name in names:
            if schema.names.count(name) > 1:
                raise InvalidInput(f"{file} has several columns {name}: keep one")
            if name in schema.names:
                return schema.field(name)
        raise InvalidInput(
            f"{file} has no column {kind} ({' or '.join(names)}); expected {_PARQUET}"
        )

    picture, label = first("of pictures", _PICTURES), first("of labels", _LABELS)
    path, kind = picture.name, picture.type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        path, kind = f"{path}.bytes", kind.field("bytes").type
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise InvalidInput(
            f"{file}: column {picture.name} must hold the bytes of pictures, got {kind}"
        )
    if not types.is_integer(label.type):
        raise InvalidInput(f"{file}: column {label.name} must hold whole numbers, got {label.type}")
    return path, label.name


def _pictures(file: Path, labels: list[np.ndarray]) -> Iterator[tuple[str, bytes]]:
    """The encoded pictures of a file, one after another; their labels are added to `labels`."""
    with opened(file) as (source, _):
        table, row = _table(source, file), 0
        picture, label = _columns(table.schema_arrow, file)
        for batch in table.iter_batches(
            batch_size=_ROWS, columns=[picture, label], use_threads=False
        ):
            if batch.column(label).null_count:
                raise InvalidInput(
                    f"{file}: a label is missing between rows {row} and {row + len(batch)}"
                )
            labels.append(batch.column(label).to_numpy())
            held = batch.column(picture.removesuffix(".bytes"))
            for value in held.field("bytes") if picture.endswith(".bytes") else held:
                raw = value.as_buffer()  # not copied yet
                if raw is None:
                    raise InvalidInput(f"{file}, row {row}: its picture is not in the file")
                yield f"{file}, row {row}", raw[: LONGEST + 1].to_pybytes()
                row += 1


# ---------------------------------------------------------------- arrays

_ARRAYS = (
    "images.npy (N, H, W, C; uint8, or float in [0, 1]) and labels.npy (N,; whole numbers), of one "
    "part, or a folder train and a folder test that hold them"
)


def _array_parts(folder: Path) -> list[str]:
    return [part for part in PARTS if (folder / part).is_dir()]


def _arrays(folder: Path, part: str) -> Labelled:
    """images.npy (N, H, W, C), uint8 or float in [0, 1], and labels.npy (N,); never unpickled."""
    folder = _of_part(folder, part, _array_parts(folder))
    images, labels = _array(folder / "images.npy"), _array(folder / "labels.npy")
    if images.ndim != 4:
        raise InvalidInput(f"{folder}/images.npy must be (N, H, W, C), got {images.shape}")
    if images.dtype.kind == "f":
        images = images.astype(np.float32)
    elif images.dtype != np.uint8:
        raise InvalidInput(
            f"{folder}/images.npy must be uint8, or float in [0, 1], got {images.dtype}"
        )
    return images.transpose(0, 3, 1, 2), *whole_numbers(labels, len(images), f"{folder}/labels.npy")


def _array(path: Path) -> np.ndarray:
    if not path.exists():
        raise InvalidInput(f"{path} is missing; expected {_ARRAYS}")
    try:
        with opened(path) as (file, size):
            return read_npy(file, size)
    except InvalidInput as error:
        if str(path) in str(error):
            raise
        raise InvalidInput(f"{path} is no plain .npy array: {error}") from None


def _of_part(folder: Path, part: str, parts: list[str]) -> Path:
    """The folder of a part; the folder itself where no parts lie apart."""
    if parts and part not in parts:
        raise InvalidInput(f"{folder} has no {part} images: there is {parts[0]}, but no {part}")
    return folder / part if parts else folder


# ---------------------------------------------------------------- a folder of pictures a class

_IMAGE_FOLDER = (
    "class-name/picture.png or .jpg, at least two classes, in the folder itself or in its folders "
    "train and test"
)
_ENDINGS = (".png", ".jpg", ".jpeg")
_LITTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}  # that systems leave among pictures


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; hidden files and what systems leave there left out."""
    try:
        with os.scandir(folder) as found:
            kept = [e for e in found if e.name[0] != "." and e.name.casefold() not in _LITTER]
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be read ({error.strerror})") from None
    return sorted(kept, key=lambda entry: entry.name)


def _picture_parts(folder: Path) -> list[str]:
    """A folder named train that holds pictures is a class of vehicles."""
    return [
        part
        for part in PARTS
        if (folder / part).is_dir() and any(entry.is_dir() for entry in _entries(folder / part))
    ]


def _classes(folder: Path) -> list[str]:
    """The class folders by name; other files beside them, such as a licence, do not count."""
    entries = _entries(folder)
    for entry in entries:
        if entry.name.casefold().endswith(_ENDINGS) and not entry.is_dir():
            raise InvalidInput(f"{entry.path} lies in no class folder; expected {_IMAGE_FOLDER}")
    return [entry.name for entry in entries if entry.is_dir()]


def _image_folder(folder: Path, part: str) -> Labelled:
    """PNG and JPEG pictures, a folder a class; classes are numbered by name.

    There is no order to keep, and the first images are often those that are measured: every class is
    spread evenly over the whole, its pictures by name.
    """
    parts = _picture_parts(folder)
    inside = _of_part(folder, part, parts)
    # Of all parts, so that a class means the same in each.
    classes = sorted({name for p in parts or [""] for name in _classes(folder / p)})
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise InvalidInput(f"{folder} has {len(classes)} class folders; expected {_IMAGE_FOLDER}")
    placed: list[tuple[float, int, Path]] = []
    for label, name in enumerate(classes):
        if (inside / name).is_dir():
            files = _class_files(inside / name)
            placed += [((k + 0.5) / len(files), label, file) for k, file in enumerate(files)]
        if len(placed) > MOST_IMAGES:
            raise InvalidInput(f"{inside} has more than {MOST_IMAGES:,} pictures")
    placed.sort(key=lambda each: each[:2])
    pictures = ((str(f), read_whole(f, follow=True, largest=LONGEST)) for _, _, f in placed)
    labels = np.array([label for _, label, _ in placed], dtype=np.int64)
    return stacked(pictures, len(placed)), labels, len(classes)


def _class_files(folder: Path) -> list[Path]:
    """The pictures of a class, by name. Raises InvalidInput naming what is none, or an empty folder."""
    files = []
    for entry in _entries(folder):
        if not (entry.is_file() and entry.name.casefold().endswith(_ENDINGS)):
            raise InvalidInput(
                f"{entry.path} is no {' or '.join(FORMATS)} file: a class folder holds nothing else"
            )
        files.append(Path(entry.path))
    if not files:
        raise InvalidInput(f"class folder {folder} holds no pictures: fill it, or remove it")
    return files


FORMS = {
    "parquet": Form(_PARQUET, _parquet, _parquet_parts),
    "arrays": Form(_ARRAYS, _arrays, _array_parts),
    "imagefolder": Form(_IMAGE_FOLDER, _image_folder, _picture_parts),
}


def form_and_folder(source: str) -> tuple[Form, Path] | None:
    """What `imagefolder:FOLDER` names; None for the name of a data set.

    Raises InvalidInput for an unknown form or where there is no such folder.
    """
    scheme, colon, text = source.partition(":")
    if not colon:
        return None
    if scheme not in FORMS:
        raise InvalidInput(
            f"no form of data named {scheme[:40]!r}: expected a data set's name, or "
            f"{', '.join(f'{known}:FOLDER' for known in FORMS)}"
        )
    try:
        folder = Path(text).expanduser()
        there = bool(text) and folder.is_dir()
    except (OSError, RuntimeError):  # no such home, a name that is too long
        there = False
    if not there:
        raise InvalidInput(f"no data folder at {text[:200]!r}; expected {FORMS[scheme].layout}")
    return FORMS[scheme], folder
