"""Labelled images as tensors, in official order, with the sha256 of exactly what was used.

N images, C channels. Images stay uint8 where they are uint8 exactly; `as_float` gives [0, 1].
Nothing is shuffled: n means the first n. Where no file and no network is there, the error names the
files that are wanted and where to put them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pkgutil
import re
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import digits_split
from bench.catalogue import DATASETS, dataset_info
from bench.schema import InvalidInput, TrainConfig, safe_name

DATA_ROOT = Path("var/data")
# Where Debian's package dataset-fashion-mnist puts its IDX files.
_DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}


@dataclass(frozen=True)
class Examples:
    """Labelled images of one part of a data set."""

    name: str
    split: str  # "test[0:1000]"
    images: Tensor  # (N, C, H, W), uint8, or float32 in [0, 1]
    labels: Tensor  # (N,) int64
    class_count: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Examples:
        return replace(self, images=self.images[index], labels=self.labels[index])

    def first(self, n: int) -> Examples:
        """The first n images; the split says so."""
        part, start, _ = _parse_split(self.split)
        return replace(self[:n], split=f"{part}[{start}:{start + n}]")

    @property
    def sha256(self) -> str:
        """Over dtype, shape and bytes of exactly these images and labels."""
        return examples_sha256(self.images, self.labels)

    @property
    def x(self) -> Tensor:
        """(N, C, H, W) float32 in [0, 1]."""
        return as_float(self.images)


def as_float(images: Tensor) -> Tensor:
    """uint8 or float images as float32 in [0, 1]."""
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.float()


def examples_sha256(images: Tensor, labels: Tensor) -> str:
    """sha256 (hex) over dtype, shape and bytes of images and labels."""
    digest = hashlib.sha256()
    for array in (images.cpu().contiguous().numpy(), labels.cpu().to(torch.int64).numpy()):
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- loading


Arrays = tuple[np.ndarray, np.ndarray]  # images (N, C, H, W), labels (N,)


def load(
    dataset: str,
    split: str = "test",
    *,
    n: int | None = None,
    root: Path | None = None,
    name: str | None = None,
    download: bool = True,
) -> Examples:
    """The first n images of a part of a data set.

    dataset: a catalogue name, `parquet:FOLDER` (the Hugging Face CIFAR-10 layout) or `arrays:FOLDER`
    (images.npy (N, H, W, C), labels.npy). split: "train", "test", or a range of one of them such as
    "test[1000:2000]". Raises InvalidInput on anything that is missing or malformed.
    """
    part, first, last = _parse_split(split)
    scheme, colon, path = dataset.partition(":")
    if colon and scheme in _FOLDERS:
        folder = Path(path)
        if not folder.is_dir():
            raise InvalidInput(f"no data folder at {folder}; {_FOLDER_LAYOUT[scheme]}")
        images, labels = _FOLDERS[scheme](folder, part)
        info = DATASETS.get(name or "")
        class_count = info.class_count if info else max(2, int(labels.max(initial=0)) + 1)
        name = name or safe_name(folder.name)
    else:
        class_count, name = dataset_info(dataset).class_count, name or dataset
        images, labels = _named(dataset, root or DATA_ROOT, part, download)
    _check(images, labels, class_count, dataset)
    last = len(labels) if last is None else last
    if not first < last <= len(labels):
        raise InvalidInput(f"{split}: {dataset} has {len(labels)} {part} images")
    if n is not None:
        if n < 1:
            raise InvalidInput(f"n must be at least 1, got {n}")
        if n > last - first:
            raise InvalidInput(f"n = {n}, but {dataset} {split} has {last - first} images")
        last = first + n
    images, labels = images[first:last], labels[first:last]
    return Examples(
        name=name,
        split=f"{part}[{first}:{last}]",
        images=torch.from_numpy(np.array(images, order="C")),
        labels=torch.from_numpy(np.array(labels, dtype=np.int64)),
        class_count=class_count,
    )


def training_split(config: TrainConfig, *, root: Path | None = None) -> tuple[Examples, Examples]:
    """(training, validation) images: disjoint draws by the seed from the training part."""
    training, validation, _ = drawn_parts(config, root=root)
    return training, validation


def drawn_parts(
    config: TrainConfig, *, root: Path | None = None
) -> tuple[Examples, Examples, Examples]:
    """(training, validation, unused) images: the training part, divided by the seed.

    A run with the same seed that takes no more images than this one never sees the unused ones.
    """
    everything = load(config.dataset, "train", root=root)
    n_train = config.n_train
    if n_train is None:
        n_train = len(everything) - config.n_validation
    if n_train < 1 or n_train + config.n_validation > len(everything):
        raise InvalidInput(
            f"{config.dataset} has {len(everything)} training images; {n_train} for training and "
            f"{config.n_validation} for validation do not fit"
        )
    drawn = np.random.default_rng([config.seed, 0x5EED]).permutation(len(everything))
    order, taken, seed = torch.from_numpy(drawn), n_train + config.n_validation, config.seed
    train, rest, unused = order[:n_train], order[n_train:taken], order[taken:]
    return (
        replace(everything[train], split=f"train[{n_train} drawn by seed {seed}]"),
        replace(everything[rest], split=f"train[{len(rest)} others drawn by seed {seed}]"),
        replace(everything[unused], split=f"train[{len(unused)} left by the draw of seed {seed}]"),
    )


def _parse_split(split: str) -> tuple[str, int, int | None]:
    match = re.fullmatch(r"(train|test)(?:\[(\d*):(\d*)\])?", split.strip())
    if not match:
        raise InvalidInput(
            f'split must be "train", "test" or such as "test[1000:2000]", got {split!r}'
        )
    part, first, last = match.groups()
    return part, int(first or 0), int(last) if last else None


def _check(images: np.ndarray, labels: np.ndarray, class_count: int, where: str) -> None:
    if images.ndim != 4 or labels.ndim != 1 or len(images) != len(labels):
        raise InvalidInput(
            f"{where}: expected images (N, C, H, W) and labels (N,), "
            f"got {images.shape} and {labels.shape}"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < class_count):
        raise InvalidInput(f"{where}: labels must lie in 0..{class_count - 1}")
    if images.dtype != np.uint8:
        if images.dtype != np.float32:
            raise InvalidInput(f"{where}: images must be uint8 or float32, got {images.dtype}")
        if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise InvalidInput(f"{where}: float images must lie in [0, 1]")


# ---------------------------------------------------------------- named data sets


def _named(name: str, root: Path, part: str, download: bool) -> Arrays:
    """The images of a catalogue entry, by its reader; of a half, those of its classes."""
    info = DATASETS[name]
    if info.whole is None:
        read: Callable[[str, Path, str, bool], Arrays] = pkgutil.resolve_name(info.reader)
        return read(name, root, part, download)
    images, labels = _named(info.whole, root, part, download)
    first = DATASETS[info.whole].classes.index(info.classes[0])
    kept = (labels >= first) & (labels < first + info.class_count)
    return images[kept], labels[kept] - first


def read_digits(name: str, root: Path, part: str, download: bool) -> Arrays:
    """scikit-learn's digits, which come with it."""
    from sklearn.datasets import load_digits

    data = load_digits()
    where = digits_split.test_indices() if part == "test" else digits_split.pool_indices()
    images = (data.images[where] / 16).astype(np.float32)[:, None]  # 17 grey levels: not uint8
    return images, data.target[where].astype(np.int64)


def read_idx(name: str, root: Path, part: str, download: bool) -> Arrays:
    """MNIST and Fashion-MNIST: four IDX files, gzipped or not."""
    stem = "t10k" if part == "test" else "train"
    names = (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")
    folders = [root / name, root / _TORCHVISION[name][0] / "raw"]
    folders += [_DEBIAN[name]] if name in _DEBIAN else []
    for folder in folders:
        images, labels = (
            next((p for p in (folder / f, folder / f"{f}.gz") if p.is_file()), None) for f in names
        )
        if images and labels:
            return _idx(images)[:, None], _idx(labels).astype(np.int64)
    if download and _opened(name, root, part, download=True) is not None:
        return read_idx(name, root, part, False)
    raise _missing(name, root / name, [f"{f}.gz" for f in names])


def _idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes; the format of the MNIST home page."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path} cannot be read ({error}); fetch it again") from None
    axes = raw[3] if raw[:3] == b"\0\0\x08" else 0
    shape = tuple(int(v) for v in np.frombuffer(raw[4 : 4 + 4 * axes], dtype=">i4"))
    if not axes or len(raw) != 4 + 4 * axes + int(np.prod(shape)):
        raise InvalidInput(f"{path} is not a complete IDX file; fetch it again")
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)


# catalogue name -> (torchvision's class, the files it wants)
_TORCHVISION: dict[str, tuple[str, list[str]]] = {
    "mnist": ("MNIST", []),
    "fashion_mnist": ("FashionMNIST", []),
    "cifar10": ("CIFAR10", ["cifar-10-python.tar.gz (or the folder cifar-10-batches-py)"]),
    "cifar100": ("CIFAR100", ["cifar-100-python.tar.gz (or the folder cifar-100-python)"]),
    "svhn": ("SVHN", ["train_32x32.mat", "test_32x32.mat"]),
}


def read_torchvision(name: str, root: Path, part: str, download: bool) -> Arrays:
    """CIFAR-10, CIFAR-100 and SVHN through torchvision, which checks md5 sums."""
    there = root.is_dir() and any(root.iterdir())  # importing torchvision takes seconds
    data = _opened(name, root, part, download=False) if there else None
    if data is None and download:
        data = _opened(name, root, part, download=True)
    if data is None:
        raise _missing(name, root, _TORCHVISION[name][1])
    if name == "svhn":
        return np.asarray(data.data), np.asarray(data.labels, dtype=np.int64)
    return np.asarray(data.data).transpose(0, 3, 1, 2), np.asarray(data.targets, dtype=np.int64)


def _opened(name: str, root: Path, part: str, *, download: bool) -> Any:
    """torchvision's data set; None where its files are not there and do not come."""
    from bench.sources.robustbench_repairs import repair_torchvision

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's and numpy's own deprecations
        repair_torchvision()  # a CPU build of torch beside the index's torchvision
        from torchvision import datasets

        kind = getattr(datasets, _TORCHVISION[name][0])
        chosen = {"split": part} if name == "svhn" else {"train": part == "train"}
        try:
            return kind(root, download=download, **chosen)
        except (RuntimeError, OSError):
            return None


def _missing(name: str, folder: Path, files: list[str]) -> InvalidInput:
    debian = " or install Debian's package dataset-fashion-mnist" if name in _DEBIAN else ""
    return InvalidInput(
        f"{name} is not on this machine and could not be downloaded. "
        f"Put {', '.join(files)} into {folder}{debian}"
    )


# ---------------------------------------------------------------- folders


def _parquet(folder: Path, part: str) -> Arrays:
    """Parquet files of the Hugging Face CIFAR-10 layout: img: {bytes, path}, label: int64."""
    import pyarrow.parquet
    from PIL import Image

    files = sorted(folder.glob(f"{part}-*.parquet")) or sorted(folder.glob(f"*/{part}-*.parquet"))
    if not files:
        raise InvalidInput(f"no {part}-*.parquet in {folder}; {_FOLDER_LAYOUT['parquet']}")
    images, labels = [], []
    for file in files:
        try:
            table = pyarrow.parquet.read_table(file)
            label = next(c for c in ("label", "fine_label") if c in table.column_names)
            for row in table.column("img").to_pylist():
                images.append(np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")))
            labels.extend(table.column(label).to_pylist())
        except (pyarrow.ArrowException, KeyError, StopIteration, OSError, TypeError) as error:
            raise InvalidInput(
                f"{file} is not in the layout of {_FOLDER_LAYOUT['parquet']} ({error})"
            ) from None
    return np.stack(images).transpose(0, 3, 1, 2), np.asarray(labels, dtype=np.int64)


def _arrays(folder: Path, part: str) -> Arrays:
    """images.npy (N, H, W, C), uint8 or float in [0, 1], and labels.npy (N,); never unpickled."""
    try:
        images = np.load(folder / "images.npy", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
    except FileNotFoundError as error:
        raise InvalidInput(f"{error.filename} is missing; {_FOLDER_LAYOUT['arrays']}") from None
    except (ValueError, EOFError, OSError) as error:
        raise InvalidInput(f"{folder}: not plain .npy arrays ({error})") from None
    if images.ndim != 4:
        raise InvalidInput(f"{folder}/images.npy must be (N, H, W, C), got {images.shape}")
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
    return images.transpose(0, 3, 1, 2), labels.astype(np.int64)


_FOLDERS: dict[str, Callable[[Path, str], Arrays]] = {"parquet": _parquet, "arrays": _arrays}
_FOLDER_LAYOUT = {
    "parquet": "a Hugging Face CIFAR-10 folder: test-*.parquet with img {bytes, path} and label",
    "arrays": "expected images.npy (N, H, W, C; uint8, or float in [0, 1]) and labels.npy (N,)",
}
