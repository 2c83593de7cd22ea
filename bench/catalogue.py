"""Names, argument schemas and default threats of data sets and architectures, without torch.

A test holds these entries equal to the registries `bench.datasets.DATASETS` and
`models.ARCHITECTURES`, so that pages and error messages can use them without loading torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from bench.schema import InvalidInput


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set without opening it."""

    channels: int
    image_size: int  # pixels, height = width
    classes: tuple[str, ...]
    default_threat: str
    n_train: int
    n_test: int
    note: str = ""

    @property
    def class_count(self) -> int:
        return len(self.classes)


_DIGITS = tuple("0123456789")
_FASHION: tuple[str, ...] = ("T-shirt", "trouser", "pullover", "dress", "coat")
_FASHION += ("sandal", "shirt", "sneaker", "bag", "ankle boot")
_CIFAR10: tuple[str, ...] = ("airplane", "automobile", "bird", "cat", "deer")
_CIFAR10 += ("dog", "frog", "horse", "ship", "truck")
_CIFAR100 = tuple(f"class {k}" for k in range(100))

DATASETS: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        1, 8, _DIGITS, "linf:0.15", 797, 1000, note="demo: scikit-learn's 8x8 digits"
    ),
    "mnist": DatasetInfo(1, 28, _DIGITS, "linf:0.3", 60_000, 10_000),
    "fashion_mnist": DatasetInfo(1, 28, _FASHION, "linf:0.1", 60_000, 10_000),
    "cifar10": DatasetInfo(3, 32, _CIFAR10, "linf:8/255", 50_000, 10_000),
    "cifar100": DatasetInfo(3, 32, _CIFAR100, "linf:8/255", 50_000, 10_000),
    "svhn": DatasetInfo(3, 32, _DIGITS, "linf:8/255", 73_257, 26_032),
}


def _half(name: str, classes: slice, n_train: int, n_test: int) -> DatasetInfo:
    """The images of some classes of a data set, in its order, labels counted from 0."""
    whole = DATASETS[name]
    kept = whole.classes[classes]
    note = f"classes {kept[0]} to {kept[-1]} of {name}"
    note = f"demo: {note}" if whole.note.startswith("demo") else note
    return replace(whole, classes=kept, n_train=n_train, n_test=n_test, note=note)


# Two halves to pre-train on the one and fine-tune on the other: no class is in both.
DATASETS |= {
    "digits-0to4": _half("digits", slice(0, 5), 400, 501),
    "digits-5to9": _half("digits", slice(5, 10), 397, 499),
    "fashion_mnist-0to4": _half("fashion_mnist", slice(0, 5), 30_000, 5_000),
    "fashion_mnist-5to9": _half("fashion_mnist", slice(5, 10), 30_000, 5_000),
}


@dataclass(frozen=True)
class Argument:
    """One argument of an architecture; a default of None means it must be given."""

    default: int | float | None
    meaning: str


@dataclass(frozen=True)
class ArchitectureInfo:
    """What is known of an architecture without building it."""

    arguments: dict[str, Argument] = field(default_factory=dict)
    source: str = ""


_CHANNELS = Argument(3, "image channels")
_CLASSES = Argument(10, "classes, the width of the logits")
_SIZE = Argument(32, "image height = width, pixels")

ARCHITECTURES: dict[str, ArchitectureInfo] = {
    "cnn_a": ArchitectureInfo(
        {"in_channels": _CHANNELS, "image_size": _SIZE, "num_classes": _CLASSES},
        "Dathathri et al. 2020, arXiv 2010.11645",
    ),
    "small_cnn": ArchitectureInfo(
        {
            "in_channels": Argument(1, "image channels"),
            "image_size": Argument(28, "image height = width, pixels"),
            "num_classes": _CLASSES,
            "width": Argument(16, "channels of the first convolution"),
        },
        "this project: three convolutions with BatchNorm, two linear layers",
    ),
    "preact_resnet18": ArchitectureInfo(
        {"in_channels": _CHANNELS, "num_classes": _CLASSES}, "He et al. 2016, arXiv 1603.05027"
    ),
    "wide_resnet28_10": ArchitectureInfo(
        {"in_channels": _CHANNELS, "num_classes": _CLASSES},
        "Zagoruyko and Komodakis 2016, arXiv 1605.07146",
    ),
    "wide_resnet34_10": ArchitectureInfo(
        {"in_channels": _CHANNELS, "num_classes": _CLASSES},
        "Zagoruyko and Komodakis 2016, arXiv 1605.07146",
    ),
    "vgg19_bn": ArchitectureInfo(
        {"in_channels": _CHANNELS, "num_classes": _CLASSES},
        "Simonyan and Zisserman 2014, arXiv 1409.1556",
    ),
}


FEW = 20  # so many names are all told; of more the nearest


def unknown_name(kind: str, name: str, known: Iterable[str], *, listed: str = "") -> InvalidInput:
    """The error for a name that is not known, with the nearest known one.

    listed: a command that lists all of them, told where they are too many for an error.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    if len(known) <= FEW:
        return InvalidInput(f"no {kind} named {name!r}. {hint}Known: {', '.join(known)}")
    nearest = difflib.get_close_matches(name, known, n=FEW // 2, cutoff=0.0)
    told = f"Nearest of {len(known)}: {', '.join(nearest)}"
    return InvalidInput(f"no {kind} named {name!r}. {hint}{told}{listed and f'; all: {listed}'}")


def dataset_info(name: str) -> DatasetInfo:
    """The catalogue entry; InvalidInput suggests the nearest name."""
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name]


def architecture_info(name: str) -> ArchitectureInfo:
    """The catalogue entry; InvalidInput suggests the nearest name."""
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def architecture_arguments(
    name: str, given: dict[str, bool | int | float | str]
) -> dict[str, int | float]:
    """Defaults completed by what was given. Raises InvalidInput on an unknown argument or value."""
    schema = architecture_info(name).arguments
    arguments: dict[str, int | float] = {}
    for key in given:
        if key not in schema:
            raise unknown_name(f"argument of {name}", key, schema)
    for key, argument in schema.items():
        value = given.get(key, argument.default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
            raise InvalidInput(
                f"{name}: {key} ({argument.meaning}) must be a number >= 1, got {value!r}"
            )
        arguments[key] = value
    return arguments
