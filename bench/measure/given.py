"""What people hand in as images and labels, as float32 in [0, 1] and class numbers.

Arrays and tensors of any kind, lists of them, and (images, labels) pairs such as a DataLoader gives.
N images, C channels, K classes. What the caller holds is never changed.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from bench.attacks.problem import Model
from bench.datasets import Examples, examples_sha256
from bench.judge import Watched
from bench.records.json_files import first_mistake
from bench.schema import InvalidInput, MeasurementFailed, ModelCard

CLIPPED = 1e-6  # how far outside [0, 1] rounding may have put a pixel
_AS_IT_IS = ConfigDict(arbitrary_types_allowed=True)
_SIZES = (8, 28, 32, 64, 96, 224)  # of images that a model may have been made for
MOST_VALUES = 2**31  # read from an iterator: 8 GiB as float32, in case it has no end
PAIRS = "a DataLoader, a Dataset or an iterable of (images, labels)"
WANTED = {
    "images": "uint8, or float in [0, 1], of shape (N, C, H, W)",
    "labels": "class numbers of shape (N,)",
}


@dataclass(frozen=True)
class Given:
    """Images and labels as they are measured."""

    x: Tensor  # (N, C, H, W) float32 in [0, 1], on the CPU
    y: Tensor  # (N,) int64, on the CPU, none negative
    sha256: str  # of images (uint8 where they were integers) and labels
    note: str  # what was done to them, for people; mostly empty
    device: torch.device  # where the images lay


def given(x: Any, y: Any = None) -> Given:
    """Images x and labels y as handed in; with y None, x has both.

    Images are uint8, integers that can only be 0..255, or float in [0, 1] (within 1e-6: clipped, and
    noted). Raises InvalidInput naming the value and its place.
    """
    if isinstance(x, Given):
        return x
    with torch.inference_mode(False):  # what is cloned outside it may be differentiated
        device = x.device if isinstance(x, Tensor) else torch.device("cpu")
        images, labels = _parted(x, y)
        labels = _labels(_array(labels, "labels"))
        if isinstance(images, Iterator):  # which may have no end
            images = list(itertools.islice(images, len(labels) + 1))
        images = _array(images, "images")
        _check_shapes(images, labels)
        images, note = _pixels(images)
        sha256 = examples_sha256(images, labels)
        x = images.float() / 255 if images.dtype == torch.uint8 else images
        return Given(x, labels, sha256, note, device)


def check_classes(y: Tensor, classes: int) -> None:
    """Raises InvalidInput where a label of y (N,) is no class of a model with so many."""
    if bool((y >= classes).any()):
        place = int((y >= classes).nonzero()[0])
        raise InvalidInput(
            f"labels go up to {int(y.max())}, but the model has {classes} classes (0 to "
            f"{classes - 1}): label {place} is {int(y[place])}"
        )


# ---------------------------------------------------------------- images and labels in one


def _parted(x: Any, y: Any) -> tuple[Any, Any]:
    """Images and labels apart."""
    if y is not None:
        if isinstance(x, Examples | torch.utils.data.DataLoader | torch.utils.data.Dataset):
            raise InvalidInput(f"a {type(x).__name__} has labels of its own: leave y out")
        return x, y
    if isinstance(x, Examples):
        return x.images, x.labels
    if x is None or isinstance(x, str | bytes | dict | set | Tensor) or _is_array(x):
        return x, y
    if (
        isinstance(x, list | tuple)
        and len(x) == 2
        and _is_array(x[0])
        and getattr(x[1], "ndim", 1) <= 1
    ):
        return x[0], x[1]
    return _read(_items(x))


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "to_numpy")


def _items(source: Any) -> Iterable[Any]:
    """What a source gives one after another; a Dataset is asked by number."""
    dataset = torch.utils.data.Dataset
    if isinstance(source, dataset) and not isinstance(source, torch.utils.data.IterableDataset):
        return (source[k] for k in range(len(source)))  # type: ignore[arg-type]
    if not isinstance(source, Iterable):
        raise InvalidInput(f"expected images and labels, or {PAIRS}; got {type(source).__name__}")
    return source


def _read(items: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """All (images, labels) of an iterable, images of one item (C, H, W) or (B, C, H, W)."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    values = 0
    for place, item in enumerate(items):
        if not isinstance(item, list | tuple) or len(item) != 2:
            what = f"{len(item)} values" if isinstance(item, list | tuple) else type(item).__name__
            raise InvalidInput(
                f"y is None, so x must be {PAIRS}; its item {place} is {what}, no such pair"
            )
        x, y = _array(item[0], "images"), _array(item[1], "labels")
        if y.ndim and x.ndim and len(x) != len(y):
            raise InvalidInput(f"batch {place} has {len(x)} images and {len(y)} labels")
        values += x.numel()
        if values > MOST_VALUES:
            raise InvalidInput(
                f"more than {MOST_VALUES} pixel values were read and no end came: hand in fewer "
                "images, for example list(itertools.islice(loader, 10))"
            )
        images.append(x)
        labels.append(y)
    return _joined(images, "images"), _joined(labels, "labels")


# ---------------------------------------------------------------- one array of anything


def _array(value: Any, what: str) -> Tensor:
    """A tensor of its own on the CPU, of a kind that torch computes with."""
    if isinstance(value, Tensor):
        return _tensor(value, what)
    if type(value).__module__.startswith("PIL."):
        return _picture(value)
    if isinstance(value, np.ma.MaskedArray):
        hidden = int(np.ma.count_masked(value))
        if hidden:
            raise InvalidInput(f"{what}: {hidden} values are masked; fill them, or leave them out")
        value = value.data
    if hasattr(value, "to_numpy"):  # of pandas, say
        value = value.to_numpy()
    if isinstance(value, np.ndarray | np.generic | memoryview) or hasattr(value, "__array__"):
        return _numpy(np.asarray(value), what)
    if isinstance(value, bool | int | float | complex):
        return _numpy(np.asarray(value), what)
    if value is None or isinstance(value, str | bytes | dict | set):
        _refuse(what, repr(value)[:60] if not isinstance(value, dict | set) else value)
    if isinstance(value, Iterable):
        return _sequence(list(itertools.islice(value, MOST_VALUES)), what)
    return _refuse(what, value)


def _refuse(what: str, value: object) -> NoReturn:
    said = value if isinstance(value, str) else type(value).__name__
    missing = ""
    if what == "labels" and value == "None":
        missing = f", or none beside x that is {PAIRS}"
    raise InvalidInput(f"expected {what}: {WANTED[what]}{missing}; got {said}")


def _tensor(value: Any, what: str) -> Tensor:
    if value.is_nested or value.layout != torch.strided:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        _refuse(what, f"a tensor of layout {kind}: call .to_dense(), or stack its parts")
    if value.is_quantized:
        _refuse(what, f"a quantised tensor ({value.dtype}): call .dequantize()")
    if value.device.type == "meta":
        _refuse(what, "a tensor on the meta device, which has no values")
    if any(getattr(value, "names", ())):  # later versions of torch name no axes
        value = value.rename(None)
    # Cloned: a model may change what it is given, and what inference mode made cannot be attacked.
    plain: Tensor = (
        value.detach().as_subclass(Tensor).cpu().clone(memory_format=torch.contiguous_format)
    )
    return plain.resolve_neg()


def _picture(value: Any) -> Tensor:
    """(C, H, W) uint8 of an image of PIL."""
    if value.mode not in ("L", "RGB"):
        raise InvalidInput(
            f"expected PIL images of mode L or RGB, got {value.mode}; call .convert('RGB')"
        )
    pixels = np.array(value)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def _numpy(value: np.ndarray, what: str) -> Tensor:
    kind = value.dtype.kind
    if kind == "O":
        return _sequence(value.tolist(), what) if value.ndim else _refuse(what, value.item())
    if kind not in "biufc":
        first = (
            repr(value.flat[0].item() if kind != "V" else value.dtype)[:60] if value.size else ""
        )
        _refuse(what, f"an array of {value.dtype}, the first value being {first}")
    if value.dtype in (np.uint16, np.uint32, np.uint64):  # of which torch can do little
        if int(value.max(initial=0)) > np.iinfo(np.int64).max:
            _refuse(what, f"the value {value.max()}")
        return torch.from_numpy(value.astype(np.int64))
    if kind == "f" and value.dtype.itemsize > 8:
        return torch.from_numpy(value.astype(np.float64))
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))


def _sequence(values: list[Any], what: str) -> Tensor:
    if not values:
        raise InvalidInput(f"there are no {what}: expected {WANTED[what]}, got an empty list")
    for place, value in enumerate(values):
        if value is None or isinstance(value, str | bytes | dict | set):
            raise InvalidInput(f"expected {what}: {WANTED[what]}; number {place} is {value!r:.60}")
        if (
            what == "images"
            and isinstance(value, tuple)
            and len(value) == 2
            and _is_array(value[0])
        ):
            raise InvalidInput("x holds (images, labels) already: leave y out")
    if isinstance(values[0], bool | int | float | list) and not _holds_tensors(values[0]):
        try:
            array = np.asarray(values)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InvalidInput(f"{what} in a list must be of one shape ({error})") from None
        if array.dtype.kind in "biufc":
            return _numpy(array, what)
        for place, value in enumerate(values):
            if not isinstance(value, bool | int | float | list):
                _array(value, what)
            elif not isinstance(value, list) and isinstance(value, int) and abs(value) >= 2**63:
                _refuse(what, f"the value {value} as number {place}")
        raise InvalidInput(f"expected {what}: {WANTED[what]}; got a list of {array.dtype}")
    return _joined([_array(value, what) for value in values], what)


def _holds_tensors(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, Tensor) or _is_array(value)


def _joined(parts: Sequence[Tensor], what: str) -> Tensor:
    """Images (C, H, W) stacked and batches put together; labels likewise."""
    if not parts:
        raise InvalidInput(f"there are no {what}: x came to its end at once")
    first = parts[0]
    batched = first.ndim >= (4 if what == "images" else 1)
    for place, part in enumerate(parts):
        same = part.shape[1:] == first.shape[1:] if batched else part.shape == first.shape
        if part.ndim != first.ndim or not same or part.dtype != first.dtype:
            if what == "labels" and part.ndim == first.ndim and same:
                continue  # 1 beside 1.0: judged by their values
            raise InvalidInput(
                f"{what} must be of one shape and dtype: number {place} is {tuple(part.shape)} "
                f"{part.dtype}, the first is {tuple(first.shape)} {first.dtype}"
            )
    return torch.cat(list(parts)) if batched else torch.stack(list(parts))


# ---------------------------------------------------------------- labels


def _labels(y: Tensor) -> Tensor:
    """(N,) int64, none negative."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 0:
        y = y[None]
    if y.ndim != 1:
        shape = tuple(y.shape)
        hint = f"; if a row holds a value for each of {shape[-1]} classes, give y.argmax(1)"
        hint = "; give y[0]" if shape[0] == 1 else hint
        raise InvalidInput(f"expected labels (N,), got {shape}{hint if y.ndim == 2 else ''}")
    if y.is_complex():
        raise InvalidInput(f"labels are class numbers, got {y.dtype}")
    if y.is_floating_point():
        y = y.double()
        odd = ~(y == y.round()) | (y.abs() >= 2**53)  # NaN equals nothing
    else:
        y = y.long()
        odd = torch.zeros_like(y, dtype=torch.bool)
    odd |= y < 0
    if bool(odd.any()):
        place = int(odd.nonzero()[0])
        raise InvalidInput(
            f"labels are class numbers from 0: label {place} is {y[place].item():g}"
            + (f", and {int(odd.sum()) - 1} more" if int(odd.sum()) > 1 else "")
        )
    return y.long()


# ---------------------------------------------------------------- images


def _check_shapes(x: Tensor, y: Tensor) -> None:
    """Raises InvalidInput that says how to bring the images into (N, C, H, W)."""
    shape, hint = tuple(x.shape), ""
    if x.ndim == 3 and len(x) == len(y) != 1:
        hint = ": grey images (N, H, W) want a channel, x[:, None]"
    elif x.ndim == 3:
        hint = ": one image (C, H, W) wants x[None]"
    elif x.ndim == 2:
        hint = ": flattened images want x.reshape(N, C, H, W)"
    elif x.ndim == 4 and min(shape[1:3]) > 4 and shape[3] in (1, 3, 4):
        hint = ": these look like (N, H, W, C) and want x.permute(0, 3, 1, 2) (numpy: x.transpose)"
    if x.ndim != 4 or hint or len(x) != len(y) or not x.numel():
        counts = (
            f", {len(x)} images but {len(y)} labels" if x.ndim == 4 and len(x) != len(y) else ""
        )
        raise InvalidInput(
            f"expected images (N, C, H, W) and labels (N,), got {shape} and {tuple(y.shape)}"
            f"{counts}{hint}"
        )


def _pixels(x: Tensor) -> tuple[Tensor, str]:
    """Images as they are hashed, uint8 or float32 in [0, 1], and what was done to them."""
    if x.dtype == torch.bool or x.is_complex():
        raise InvalidInput(f"images must be {WANTED['images']}, got {x.dtype}")
    if not x.is_floating_point():
        return _integers(x)
    if not bool(torch.isfinite(x).all()):
        raise _misplaced(x, ~torch.isfinite(x), "images must lie in [0, 1]")
    single = x.float()
    low, high = single.min().item(), single.max().item()
    outside = (single < -CLIPPED) | (single > 1 + CLIPPED)
    if bool(outside.any()):
        raise _misplaced(x, outside, f"images must lie in [0, 1], got {low:.8g} to {high:.8g}",
                         _remedy(single, low, high))  # fmt: skip
    clipped = (single < 0) | (single > 1)
    if not bool(clipped.any()):
        return single, ""
    worst = max(high - 1, -low)
    note = f"{int(clipped.sum())} pixels up to {worst:.1e} outside [0, 1] were clipped"
    ends = [f"{low:.8g} to 0"] * (low < 0) + [f"{high:.8g} to 1"] * (high > 1)
    return single.clamp(0, 1), f"{note} ({', '.join(ends)})"


def _integers(x: Tensor) -> tuple[Tensor, str]:
    low, high = int(x.min()), int(x.max())
    kind, x = x.dtype, x if x.dtype == torch.uint8 else x.long()  # in int8 there is no 255
    if kind == torch.uint8:
        dark = high <= 16
        return x, f"uint8 images of at most {high}, where 255 is white" if dark else ""
    if low < 0 or high > 255:
        raise _misplaced(x, (x < 0) | (x > 255), f"images of {kind} must lie in 0..255")
    if high <= 16:
        divisor = "x.float()" if high <= 1 else "x / 16"
        raise InvalidInput(
            f"images of {kind} in {low}..{high} do not say what is white: give {divisor}, or "
            "uint8 where 255 is white"
        )
    return x.to(torch.uint8), f"{kind} images in {low}..{high} were read as uint8".replace(
        "torch.", ""
    )


def _misplaced(x: Tensor, wrong: Tensor, wanted: str, remedy: str = "") -> InvalidInput:
    """The error for the first wrong pixel, with its place."""
    image, channel, row, column = (int(k) for k in wrong.nonzero()[0])
    value = x[image, channel, row, column].item()
    return InvalidInput(
        f"{wanted}: image {image}, channel {channel}, row {row}, column {column} is {value:.8g}"
        f"{remedy}"
    )


def _remedy(x: Tensor, low: float, high: float) -> str:
    """What to do with a range of pixels that is known."""
    if low >= 0 and 1.5 < high <= 16 and bool((x == x.round()).all()):
        return "; a range of 0..16, as of scikit-learn's digits: divide by 16"
    if low >= 0 and 1.5 < high <= 255 + CLIPPED:
        return "; divide by 255, if 255 is white"
    if -1 - CLIPPED <= low < -0.1 and high <= 1 + CLIPPED:
        return "; a range of -1..1: give (x + 1) / 2, and let the model undo it"
    if low < -0.1 and high < 20:
        return "; normalised by mean and std, it seems: put the normalisation inside the model"
    return ""


# ---------------------------------------------------------------- images and a model


def check_card(card: ModelCard, x: Tensor) -> None:
    """Raises InvalidInput where a card names other images than x (N, C, H, W)."""
    for name, seen in (("in_channels", {x.shape[1]}), ("image_size", set(x.shape[2:]))):
        said = card.arch_args.get(name)
        if said is not None and seen != {said}:
            raise InvalidInput(
                f"images are (C, H, W) = {tuple(x.shape[1:])}, but the card of {card.name} says "
                f"{name} {said}"
            )


def check_layers(model: object, x: Tensor) -> None:
    """For a model that raised: InvalidInput where its first layer wants other images than x."""
    layers = model.modules() if isinstance(model, nn.Module) else ()
    first = next((m for m in layers if isinstance(m, nn.Conv2d | nn.Linear)), None)
    wanted = said = None
    if isinstance(first, nn.Conv2d) and first.in_channels != x.shape[1]:
        wanted, said = first.in_channels, f"{x.shape[1]} channels, but the first convolution"
    elif isinstance(first, nn.Linear) and first.in_features not in (x[0].numel(), x.shape[-1]):
        wanted, said = first.in_features, f"{x[0].numel()} values each, but the first linear layer"
    if wanted is not None:
        raise InvalidInput(
            f"images are (C, H, W) = {tuple(x.shape[1:])}, {said} of the model takes {wanted}"
        )


# ---------------------------------------------------------------- what is said beside them


MOST_COUNTED = 10**15  # of a count or a seed: more digits than that are not read back


def whole(value: Any, what: str, least: int = 1) -> int:
    """A whole number of any integer type, at least `least`. Raises InvalidInput naming it."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise InvalidInput(f"{what} must be an int of at least {least}, got {value!r:.60}")
    if number > MOST_COUNTED:
        raise InvalidInput(f"{what} must be at most {MOST_COUNTED}, got {value!r:.60}")
    return number


def fitting(what: str, kind: Any, value: Any) -> Any:
    """The value as an annotated type has it. Raises InvalidInput naming both what and the value."""
    try:
        return TypeAdapter(kind, config=_AS_IT_IS).validate_python(value)
    except ValidationError as error:
        raise InvalidInput(f"{what}: {first_mistake(error)}, got {value!r:.60}") from None


def misfit(model: Model, x: Tensor) -> str:
    """`; it answers images (3, 32, 32)` where a model answers others than these; else nothing.

    For a model that raised on x (N, C, H, W): tried with one grey image of each usual shape, and of
    the channels that its first convolution takes.
    """
    channels, height, width = (int(size) for size in x.shape[1:])
    modules = model.modules() if isinstance(model, nn.Module) else ()
    taken = [m.in_channels for m in modules if isinstance(m, nn.Conv2d | nn.Conv3d)][:1]
    for count in dict.fromkeys((*taken, channels, 1, 3)):
        for size in dict.fromkeys(((height, width), *((s, s) for s in _SIZES))):
            if (count, *size) != (channels, height, width) and _answers(model, x, (count, *size)):
                return f"; it answers images {(count, *size)}"
    return ""


def _answers(model: Model, x: Tensor, shape: tuple[int, ...]) -> bool:
    with torch.no_grad():
        try:
            Watched(model)(torch.full((len(x), *shape), 0.5, device=x.device))
        except MeasurementFailed:
            return False
    return True
