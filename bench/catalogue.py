"""THE list of data sets, architectures and objectives: shapes, classes, costs, sources, without torch.

A data set is one reader in `bench.datasets` and one line here, an architecture one function in
`models/` and one line here, an objective one function in `awp_train.objectives` and one line here.
Pages and error messages read this file, so it never loads torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bench.schema import InvalidInput, OwnImages, Scalar, TrainConfig
from bench.schema.ranges import count, ranges_of

if TYPE_CHECKING:
    from bench.models import Normalized


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set without opening it."""

    channels: int
    image_size: int  # pixels, height = width
    classes: tuple[str, ...]
    default_threat: str
    n_train: int
    n_test: int
    reader: str  # `module:function`: (name, root, train or test, download) -> images, labels
    note: str = ""  # beginning with demo: shown as demo data, last
    whole: str | None = None  # the data set that this is some classes of, labels counted from 0

    @property
    def class_count(self) -> int:
        return len(self.classes)


_DIGITS = tuple("0123456789")
_FASHION = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_CIFAR100 = tuple(f"class {k}" for k in range(100))


def _half(name: str, whole: DatasetInfo, classes: slice, n_train: int, n_test: int) -> DatasetInfo:
    """The images of some classes of a data set, in its order, labels counted from 0."""
    kept = whole.classes[classes]
    note = f"{whole.note and 'demo: '}classes {kept[0]} to {kept[-1]} of {name}"
    return replace(whole, classes=kept, n_train=n_train, n_test=n_test, note=note, whole=name)


_digits = DatasetInfo(
    1,
    8,
    _DIGITS,
    "linf:0.15",
    797,
    1000,
    "bench.datasets:read_digits",
    note="demo: scikit-learn's 8x8 digits",
)
_fashion = DatasetInfo(1, 28, _FASHION, "linf:0.1", 60_000, 10_000, "bench.datasets:read_idx")
DATASETS: dict[str, DatasetInfo] = {
    "digits": _digits,
    "mnist": DatasetInfo(1, 28, _DIGITS, "linf:0.3", 60_000, 10_000, "bench.datasets:read_idx"),
    "fashion_mnist": _fashion,
    "cifar10": DatasetInfo(
        3, 32, _CIFAR10, "linf:8/255", 50_000, 10_000, "bench.datasets:read_cifar10"
    ),
    "cifar100": DatasetInfo(
        3, 32, _CIFAR100, "linf:8/255", 50_000, 10_000, "bench.datasets:read_torchvision"
    ),
    "svhn": DatasetInfo(
        3, 32, _DIGITS, "linf:8/255", 73_257, 26_032, "bench.datasets:read_torchvision"
    ),
    # Two halves to pre-train on the one and fine-tune on the other: no class is in both.
    "digits-0to4": _half("digits", _digits, slice(0, 5), 400, 501),
    "digits-5to9": _half("digits", _digits, slice(5, 10), 397, 499),
    "fashion_mnist-0to4": _half("fashion_mnist", _fashion, slice(0, 5), 30_000, 5_000),
    "fashion_mnist-5to9": _half("fashion_mnist", _fashion, slice(5, 10), 30_000, 5_000),
}


_SPELLED = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
}


def spelled(dataset: str) -> str:
    """A data set as people write its name; some classes of one go by the whole."""
    info = DATASETS.get(dataset)
    name = info.whole if info is not None and info.whole is not None else dataset
    return _SPELLED.get(name, name)


@dataclass(frozen=True)
class Argument:
    """One argument of an architecture, a whole number."""

    default: int
    meaning: str
    least: int = 1
    # Left out where it has its default: configurations from before there was one keep their text.
    later: bool = False


@dataclass(frozen=True)
class ArchitectureInfo:
    """What is known of an architecture without building it."""

    arguments: dict[str, Argument]
    source: str


_CHANNELS = Argument(3, "image channels")
_CLASSES = Argument(10, "classes, the width of the logits", least=2)
_COMMON = {"in_channels": _CHANNELS, "num_classes": _CLASSES}
_SIZE = "image height = width, pixels"
_WIDTH = "channels of the first convolution"

ARCHITECTURES: dict[str, ArchitectureInfo] = {
    "cnn_a": ArchitectureInfo(
        {
            "in_channels": _CHANNELS,
            "image_size": Argument(32, _SIZE),
            "num_classes": _CLASSES,
        },
        "Dathathri et al. 2020, arXiv 2010.11645",
    ),
    "small_cnn": ArchitectureInfo(
        {
            "in_channels": Argument(1, "image channels"),
            "image_size": Argument(28, _SIZE),
            "num_classes": _CLASSES,
            "width": Argument(16, _WIDTH),
        },
        "this project: three convolutions with BatchNorm, two linear layers",
    ),
    "preact_resnet18": ArchitectureInfo(
        {**_COMMON, "width": Argument(64, _WIDTH, later=True)}, "He et al. 2016, arXiv 1603.05027"
    ),
    "wide_resnet28_10": ArchitectureInfo(_COMMON, "Zagoruyko and Komodakis 2016, arXiv 1605.07146"),
    "wide_resnet34_10": ArchitectureInfo(_COMMON, "Zagoruyko and Komodakis 2016, arXiv 1605.07146"),
    "vgg19_bn": ArchitectureInfo(_COMMON, "Simonyan and Zisserman 2014, arXiv 1409.1556"),
}


@dataclass(frozen=True)
class ObjectiveInfo:
    """What is minimised while training; functions are those of `awp_train.objectives`.

    Costs are of an image, in forward passes; going back to the weights costs two more.
    """

    loss: str
    craft: str | None  # None: the clean images themselves
    source: str
    loss_passes: int = 1  # clean and adversarial images, or adversarial ones alone
    craft_passes: int = 0  # before the first step, where crafting follows the clean output
    weighs: bool = False  # its KL term, by beta
    mixes: bool = True  # labels, by mixup
    extra: bool = False  # it may learn from images beside the data set
    unlabelled: float = 0.0  # share of a batch that such images are, which it cannot do without
    starts: bool = False  # from a trained network
    settings: Mapping[str, Scalar] = field(default_factory=dict)  # other than those of AT
    wide: Mapping[str, Scalar] = field(default_factory=dict)  # other ones of wide networks


_UNIFORM, _NEARBY = "from_uniform_on_cross_entropy", "from_nearby_on_cross_entropy"
_AT = ObjectiveInfo("cross_entropy_of_adversarial", _UNIFORM, "arXiv 1706.06083", extra=True)
_TRADES = ObjectiveInfo(
    "trades", "from_nearby_on_divergence", "arXiv 1901.08573", loss_passes=2, craft_passes=1,
    weighs=True, mixes=False, settings={"beta": 6.0, "craft_mode": "eval"},
)  # fmt: skip
# Those that compare with the clean output craft in eval mode, as their codes do. RST is TRADES on
# labelled and pseudo-labelled images together, pre-training AT from a checkpoint.
OBJECTIVES: dict[str, ObjectiveInfo] = {
    "natural": ObjectiveInfo("cross_entropy_of_adversarial", None, ""),
    "at": _AT,
    "trades": _TRADES,
    "mart": replace(
        _TRADES, loss="mart", craft=_NEARBY, source="Wang et al., ICLR 2020", craft_passes=0,
        settings={"beta": 5.0, "craft_mode": "eval"}, wide={"beta": 6.0},
    ),
    "rst": replace(_TRADES, source="arXiv 1905.13736", extra=True, unlabelled=0.5),
    "pretrain": replace(_AT, source="arXiv 1901.09960", extra=False, starts=True),
}  # fmt: skip


LONGEST_NAME = 100  # characters of an unknown name that are compared and shown
FEW = 20  # so many names are all told; of more the nearest


def nearest(name: str, known: Iterable[str], *, n: int = 1, cutoff: float) -> list[str]:
    """At most n known names, the nearest first; none for a text far longer than a name."""
    if len(name) > LONGEST_NAME:
        return []
    known = [each for each in known if len(each) <= LONGEST_NAME]
    return difflib.get_close_matches(name, known, n=n, cutoff=cutoff)


def unknown_name(
    kind: str, name: object, known: Iterable[str], *, listed: str = ""
) -> InvalidInput:
    """The error for a name that is not known, with the nearest known one.

    listed: a command that lists all of them, told where they are too many for an error.
    """
    known, name = sorted(known), name if isinstance(name, str) else repr(name)
    near = nearest(name, known, cutoff=0.5)
    shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    hint = f"Did you mean {near[0]!r}? " if near else ""
    if len(known) <= FEW:
        return InvalidInput(f"no {kind} named {shown!r}. {hint}Known: {', '.join(known)}")
    nearby = nearest(name, known, n=FEW // 2, cutoff=0.0)
    told = f"Nearest of {len(known)}: {', '.join(nearby)}"
    return InvalidInput(f"no {kind} named {shown!r}. {hint}{told}{listed and f'; all: {listed}'}")


def dataset_info(name: str, own: OwnImages | None = None) -> DatasetInfo:
    """The catalogue entry, or what a run says of images of its own; InvalidInput suggests a name."""
    if own is not None:
        classes = tuple(f"class {k}" for k in range(own.class_count))
        return DatasetInfo(
            own.channels, own.image_size, classes, "linf:8/255", own.n_train, own.n_test, reader=""
        )
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name]


def training_images(config: TrainConfig) -> int:
    """How many training images there are for a run, those for validation among them."""
    if config.train_indices is not None:
        return count(ranges_of(config.train_indices))
    return dataset_info(config.dataset, config.own).n_train


def architecture_info(name: str) -> ArchitectureInfo:
    """The catalogue entry; InvalidInput suggests the nearest name."""
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def architecture_arguments(name: str, given: Mapping[str, Scalar]) -> dict[str, int | float]:
    """Defaults completed by what was given. Raises InvalidInput on an unknown argument or value."""
    schema = architecture_info(name).arguments
    for key in given:
        if key not in schema:
            raise unknown_name(f"argument of {name}", key, schema)
    arguments: dict[str, int | float] = {}
    for key, argument in schema.items():
        value = given.get(key, argument.default)
        if isinstance(value, bool | str) or value < argument.least or value != value // 1:
            raise InvalidInput(
                f"{name}: {key} ({argument.meaning}) must be a whole number >= {argument.least}, "
                f"got {value!r}"
            )
        arguments[key] = value
    return arguments


# What a data set decides about an architecture.
DECIDED = ("in_channels", "image_size", "num_classes")


def fitted_arguments(
    name: str, dataset: str, own: OwnImages | None = None, /, **others: Scalar
) -> dict[str, Scalar]:
    """All arguments of an architecture, as cards hold them; what a data set decides is taken from it.

    An argument that came later is left out where it has its default.
    """
    info = dataset_info(dataset, own)
    decided = dict(zip(DECIDED, (info.channels, info.image_size, info.class_count), strict=True))
    schema = architecture_info(name).arguments
    given = {key: value for key, value in decided.items() if key in schema}
    complete = architecture_arguments(name, {**given, **others})
    return {
        key: value
        for key, value in complete.items()
        if not schema[key].later or value != schema[key].default
    }


def build(
    name: str,
    arguments: Mapping[str, Scalar],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Normalized:
    """`models.build` for what a user wrote. Raises InvalidInput where it cannot be built."""
    from bench import models

    complete = architecture_arguments(name, arguments)
    check_normalisation(complete, mean, std)
    try:
        return models.build(name, complete, mean=mean, std=std)
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def check_normalisation(
    arguments: Mapping[str, Scalar], mean: Sequence[float] | None, std: Sequence[float] | None
) -> None:
    """InvalidInput where mean or std has not one value for each image channel."""
    channels = arguments["in_channels"]
    for kind, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != channels:
            raise InvalidInput(
                f"{kind} must have one value for each of the {channels} image channels, "
                f"got {len(values)}: {tuple(values)}"
            )


def check_pixels(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """InvalidInput where somebody states a mean or std that pixels in [0, 1] cannot have."""
    wrong = None
    if mean is not None and not all(0 <= value <= 1 for value in mean):
        wrong = f"mean is that of pixels in [0, 1], expected 0 to 1, got {tuple(mean)}"
    elif std is not None and not all(0 < value <= 1 for value in std):
        wrong = f"std is that of pixels in [0, 1], expected above 0 and at most 1, got {tuple(std)}"
    if wrong:
        raise InvalidInput(f"{wrong}; what is of pixels in 0..255 is divided by 255")
