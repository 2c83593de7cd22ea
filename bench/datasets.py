"""Labelled images as tensors, in official order, with the sha256 of exactly what was used.

N images, C channels. Images stay uint8 where they are uint8 exactly; `as_float` gives [0, 1].
Nothing is shuffled: n means the first n. Where no file and no network is there, the error names the
files that are wanted, where they are got and where to put them.
"""

from __future__ import annotations

import hashlib
import pickle
import pkgutil
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench import cifar10_first, digits_split
from bench.catalogue import DATASETS, dataset_info
from bench.readers import arrays, folders, idx
from bench.readers.idx import DATA_ROOT as DATA_ROOT
from bench.schema import InvalidInput, OwnImages, TrainConfig, safe_name
from bench.schema.ranges import Ranges, count, first_of, ranges_of, ranges_text


@dataclass(frozen=True)
class Examples:
    """Labelled images of one part of a data set."""

    name: str
    split: str  # "test[0:1000]"
    images: Tensor  # (N, C, H, W), uint8, or float32 in [0, 1]
    labels: Tensor  # (N,) int64
    class_count: int
    rest: str = ""  # for people: which images are not here, and where they are got

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Examples:
        return replace(self, images=self.images[index], labels=self.labels[index])

    def first(self, n: int) -> Examples:
        """The first n images; the split says so. Raises InvalidInput where there are fewer."""
        part, ranges = _parse_split(self.split)
        kept = _first_of(_closed(ranges, len(self)), n, self.rest)
        return replace(self[:n], split=f"{part}[{ranges_text(kept)}]")

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
# What a reader gives: where not all images are here, also which, by their official places.
Read = Arrays | tuple[np.ndarray, np.ndarray, Ranges]


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

    dataset: a catalogue name, or `parquet:FOLDER`, `arrays:FOLDER` or `imagefolder:FOLDER`, as
    `bench.readers.folders` describes them. split: "train", "test", or ranges of one of them such as
    "test[1000:2000]" or "train[0:1017,10000:11017]". Where only the first test images of a data set
    are here, "test" is these; "train" is all training images. Raises InvalidInput on anything that is
    missing or malformed.
    """
    part, asked = _parse_split(split)
    there: Ranges | None = None  # None: all of them
    if named := folders.form_and_folder(dataset):
        form, folder = named
        images, labels, class_count = form.read(folder, part)
        if info := DATASETS.get(name or ""):
            class_count = info.class_count
        name = name or safe_name(folder.resolve().name)
    else:
        class_count, name = dataset_info(dataset).class_count, name or dataset
        images, labels, there = _named(dataset, root or DATA_ROOT, part, download)
    _check(images, labels, class_count, dataset)
    rest = "" if there is None else _rest(dataset, part, there, root or DATA_ROOT)
    there = there or ((0, len(labels)),)
    whole = DATASETS[dataset].n_train if rest and part == "train" else there[-1][1]
    ranges = _closed(asked, whole)
    if _slices(ranges, there) is None:
        raise InvalidInput(f"{split}: {rest or f'{dataset} has {len(labels)} {part} images'}")
    if n is not None:
        ranges = _first_of(ranges, n, rest)
    found = _slices(ranges, there) or []
    return Examples(
        name=name,
        split=f"{part}[{ranges_text(ranges)}]",
        images=torch.from_numpy(_joined(images, found)),
        labels=torch.from_numpy(_joined(labels, found).astype(np.int64)),
        class_count=class_count,
        rest=rest,
    )


def _closed(ranges: OpenRanges, whole: int) -> Ranges:
    """The ranges, an open end being that of all images."""
    return tuple((first, whole if last is None else last) for first, last in ranges)


def _slices(ranges: Ranges, there: Ranges) -> list[slice] | None:
    """Where images of official places lie among those that are here; None where one is not here."""
    found = []
    for first, last in ranges:
        before = 0
        for begin, end in there:
            if begin <= first < last <= end:
                found.append(slice(before + first - begin, before + last - begin))
            before += end - begin
    return found if len(found) == len(ranges) else None


def _first_of(ranges: Ranges, n: int, rest: str) -> Ranges:
    if not 1 <= n <= count(ranges):
        raise InvalidInput(f"n must lie in 1..{count(ranges)}, got {n}{rest and f': {rest}'}")
    return first_of(ranges, n)


def _joined(values: np.ndarray, parts: list[slice]) -> np.ndarray:
    """A copy of the rows of all parts, in C order."""
    return np.array(np.concatenate([values[part] for part in parts]), order="C")


def own_images(source: str) -> tuple[str, OwnImages]:
    """The name and the description of images of one's own, for a run that is trained on them.

    The name is that of their folder with the hash of the training images. Where no parts lie apart,
    all are training images. Raises InvalidInput where they cannot be trained on.
    """
    named = folders.form_and_folder(source)
    if named is None:
        raise InvalidInput(f"{source} is no folder of images")
    form, folder = named
    training = load(source, "train")
    test = load(source, "test") if "test" in form.parts(folder) else None
    _, channels, height, width = training.images.shape
    if height != width:
        raise InvalidInput(
            f"{source}: pictures must be as high as wide to train on, got {width} x {height}"
        )
    if test is not None and test.images.shape[1:] != training.images.shape[1:]:
        raise InvalidInput(
            f"{source}: training images are (C, H, W) = {tuple(training.images.shape[1:])}, test "
            f"images {tuple(test.images.shape[1:])}"
        )
    own = OwnImages(
        sha256=training.sha256,
        test_sha256=None if test is None else test.sha256,
        channels=channels,
        image_size=height,
        class_count=max(part.class_count for part in (training, test) if part is not None),
        n_train=len(training),
        n_test=0 if test is None else len(test),
    )
    return f"{training.name[:80]}-{own.sha256[:8]}", own


def of_run(
    config: TrainConfig,
    split: str,
    *,
    n: int | None = None,
    source: str | None = None,
    root: Path | None = None,
) -> Examples:
    """The first n images of a part of the data set that a run is trained on.

    source: where images of one's own lie, as `load` takes it. Raises InvalidInput where it is not
    said, or does not hold the images that the run names.
    """
    own, (part, _) = config.own, _parse_split(split)
    if split == "train" and config.train_indices is not None:
        split = f"train[{config.train_indices}]"
    if own is None:
        return load(config.dataset, split, n=n, root=root)
    if source is None:
        raise InvalidInput(
            f"{config.dataset} are images of one's own: say where they lie with --dataset FORM:FOLDER"
        )
    expected = own.sha256 if part == "train" else own.test_sha256
    if expected is None:
        raise InvalidInput(f"{config.dataset} has no test images")
    whole = load(source, part, name=config.dataset)
    if whole.sha256 != expected:
        raise InvalidInput(
            f"{source} does not hold the {part} images of {config.dataset}: their sha256 is "
            f"{whole.sha256[:12]}…, expected {expected[:12]}…"
        )
    found = whole if split == part and n is None else load(source, split, n=n, name=config.dataset)
    return replace(found, class_count=own.class_count)


def training_split(
    config: TrainConfig, *, source: str | None = None, root: Path | None = None
) -> tuple[Examples, Examples]:
    """(training, validation) images: disjoint draws by the seed from the training part.

    source: where images of one's own lie.
    """
    training, validation, _ = drawn_parts(config, source=source, root=root)
    return training, validation


def drawn_parts(
    config: TrainConfig, *, source: str | None = None, root: Path | None = None
) -> tuple[Examples, Examples, Examples]:
    """(training, validation, unused) images: the training part, divided by the seed.

    A run with the same seed that takes no more images than this one never sees the unused ones.
    """
    everything = of_run(config, "train", source=source, root=root)
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


OpenRanges = tuple[tuple[int, int | None], ...]  # None: to the end


def _parse_split(split: str) -> tuple[str, OpenRanges]:
    match = re.fullmatch(r"(train|test)(?:\[(\d{0,9}):(\d{0,9})\]|\[(\d[\d:,]*)\])?", split.strip())
    if not match:
        raise InvalidInput(
            f'split must be "train", "test" or such as "test[1000:2000]", got {split[:100]!r}'
        )
    part, first, last, several = match.groups()
    if several is not None:
        try:
            return part, ranges_of(several)
        except InvalidInput as error:
            raise InvalidInput(f"split {split[:100]!r}: {error}") from None
    return part, ((int(first or 0), int(last) if last else None),)


def _check(images: np.ndarray, labels: np.ndarray, class_count: int, where: str) -> None:
    if images.ndim != 4 or labels.ndim != 1 or len(images) != len(labels):
        raise InvalidInput(
            f"{where}: expected images (N, C, H, W) and labels (N,), "
            f"got {images.shape} and {labels.shape}"
        )
    if not len(labels):
        raise InvalidInput(f"{where}: there are no images")
    wrong = (labels < 0) | (labels >= class_count)
    if wrong.any():
        at = int(wrong.argmax())
        raise InvalidInput(
            f"{where}: labels must lie in 0..{class_count - 1}; the first that does not, at {at}, is "
            f"{labels[at]}"
        )
    if images.dtype != np.uint8:
        if images.dtype != np.float32:
            raise InvalidInput(f"{where}: images must be uint8 or float32, got {images.dtype}")
        if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise InvalidInput(f"{where}: float images must lie in [0, 1]")


# ---------------------------------------------------------------- named data sets


def _named(
    name: str, root: Path, part: str, download: bool
) -> tuple[np.ndarray, np.ndarray, Ranges | None]:
    """The images of a catalogue entry, by its reader, and which of all they are; None: all.

    Of a half, those of its classes.
    """
    info = DATASETS[name]
    if info.whole is None:
        read: Callable[[str, Path, str, bool], Read] = pkgutil.resolve_name(info.reader)
        images, labels, *there = read(name, root, part, download)
        return images, labels, there[0] if there else None
    images, labels, there_of_whole = _named(info.whole, root, part, download)
    if there_of_whole is not None:
        raise InvalidInput(f"{name}: {_rest(info.whole, part, there_of_whole, root)}")
    first = DATASETS[info.whole].classes.index(info.classes[0])
    kept = (labels >= first) & (labels < first + info.class_count)
    return images[kept], labels[kept] - first, None


def read_digits(name: str, root: Path, part: str, download: bool) -> Arrays:
    """scikit-learn's digits, which come with it."""
    return digits_split.read(part)


def read_idx(name: str, root: Path, part: str, download: bool) -> Arrays:
    """MNIST and Fashion-MNIST: two IDX files a part, gzipped or not."""
    found = idx.read(name, root, part)
    if found is None and download and _opened(name, root, part, download=True) is not None:
        found = idx.read(name, root, part)
    if found is None:
        raise _missing(name, root / name, [f"{file}.gz" for file in idx.names(part)])
    return found


class _OfTorchvision(NamedTuple):
    """A data set that torchvision reads."""

    kind: str  # its class there
    files: tuple[str, ...]  # that it wants, for people
    read: tuple[str, ...]  # patterns of what it may open
    home: str  # where people get the files


_LARGEST_FILE = 2**29  # bytes of a file that torchvision reads; the largest wanted one has 1.9e8
_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
_TORCHVISION: dict[str, _OfTorchvision] = {
    "mnist": _OfTorchvision(
        "MNIST", (), ("MNIST/*/*",), "https://ossci-datasets.s3.amazonaws.com/mnist/"
    ),
    "fashion_mnist": _OfTorchvision(
        "FashionMNIST",
        (),
        ("FashionMNIST/*/*",),
        "https://github.com/zalandoresearch/fashion-mnist",
    ),
    "cifar10": _OfTorchvision(
        "CIFAR10",
        ("cifar-10-python.tar.gz (or the folder cifar-10-batches-py)",),
        ("cifar-10-*", "cifar-10-*/*"),
        _CIFAR,
    ),
    "cifar100": _OfTorchvision(
        "CIFAR100",
        ("cifar-100-python.tar.gz (or the folder cifar-100-python)",),
        ("cifar-100-*", "cifar-100-*/*"),
        _CIFAR,
    ),
    "svhn": _OfTorchvision(
        "SVHN",
        ("train_32x32.mat", "test_32x32.mat"),
        ("*_32x32.mat",),
        "http://ufldl.stanford.edu/housenumbers/",
    ),
}


def read_torchvision(name: str, root: Path, part: str, download: bool) -> Arrays:
    """CIFAR-10, CIFAR-100 and SVHN through torchvision, which checks md5 sums."""
    there = root.is_dir() and any(root.iterdir())  # importing torchvision takes seconds
    data = _opened(name, root, part, download=False) if there else None
    if data is None and download:
        data = _opened(name, root, part, download=True)
    if data is None:
        raise _missing(name, root, _TORCHVISION[name].files)
    if name == "svhn":
        return np.asarray(data.data), np.asarray(data.labels, dtype=np.int64)
    return np.asarray(data.data).transpose(0, 3, 1, 2), np.asarray(data.targets, dtype=np.int64)


def read_cifar10(name: str, root: Path, part: str, download: bool) -> Read:
    """CIFAR-10 through torchvision; the first images of its batches where only those are here.

    Where they are, nothing is downloaded. They are what the same places of CIFAR-10 hold, to the bit.
    """
    folder = root / cifar10_first.FOLDER
    if not folder.is_dir() or any(root.glob("cifar-10-*")):
        return read_torchvision(name, root, part, download)
    images, labels, _ = folders.FORMS["parquet"].read(folder, part)
    found = examples_sha256(torch.from_numpy(images), torch.from_numpy(labels))
    if found != cifar10_first.SHA256[part]:
        raise InvalidInput(
            f"{folder} does not hold the first {part} images of CIFAR-10's batches: their sha256 is "
            f"{found[:12]}…, expected {cifar10_first.SHA256[part][:12]}…; fetch them again"
        )
    return images, labels, cifar10_first.THERE[part]


def _opened(name: str, root: Path, part: str, *, download: bool) -> Any:
    """torchvision's data set; None where its files are not there and do not come.

    It opens what is there, whatever that is: a pipe would hold it for ever.
    """
    for pattern in _TORCHVISION[name].read:
        for path in root.glob(pattern):
            arrays.refuse_special(path, largest=_LARGEST_FILE)
    from bench.sources.robustbench_repairs import repair_torchvision

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's and numpy's own deprecations
        repair_torchvision()  # a CPU build of torch beside the index's torchvision
        from torchvision import datasets

        kind = getattr(datasets, _TORCHVISION[name].kind)
        chosen = {"split": part} if name == "svhn" else {"train": part == "train"}
        try:
            return kind(root, download=download, **chosen)
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError):
            return None


def _missing(name: str, folder: Path, files: Sequence[str]) -> InvalidInput:
    debian = " or install Debian's package dataset-fashion-mnist" if name in idx.DEBIAN else ""
    return InvalidInput(
        f"{name} is not on this machine and could not be downloaded. "
        f"Put {', '.join(files)} into {folder} (from {_TORCHVISION[name].home}){debian}"
    )


def _rest(name: str, part: str, there: Ranges, root: Path) -> str:
    """Which images of a part are here, and where all of them are got."""
    info, wanted = DATASETS[name], _TORCHVISION[name]
    n, kind = (info.n_test, "test") if part == "test" else (info.n_train, "training")
    return (
        f"of the {n:,} {kind} images of {name} only {part}[{ranges_text(there)}] are here. To have "
        f"them all, put {', '.join(wanted.files)} into {root} (from {wanted.home})"
    )
