"""Images and labels as people hand them in: the right thing, or one sentence that names the value.

N images (N, C, H, W), K classes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.attacks.problem import Model
from bench.datasets import examples_sha256
from bench.judge import Watched
from bench.schema import InvalidInput, MeasurementFailed

CLOSE = 1e-6  # so far outside [0, 1] a pixel is rounding, and is clipped
_GREY, _COLOUR = 1, (3, 4)  # channels
_SIZES = (8, 28, 32, 64, 96, 224)  # of images that a model may have been made for
_SCALES = {16: "scikit-learn's digits", 255: "8-bit pixels"}  # largest value -> whose it is


@dataclass(frozen=True)
class Given:
    """What is measured, and what was done to what was handed in."""

    x: Tensor  # (N, C, H, W) float32 in [0, 1], on the CPU, nobody else's
    y: Tensor  # (N,) int64
    sha256: str  # of the images, 8-bit where they are, and the labels
    note: str = ""  # for people; empty where nothing was changed


def given(x: Any, y: Any = None) -> Given:
    """Images and labels of whatever is like tensors or arrays, or lists of them.

    Without y, x is a DataLoader or a Dataset of (images, labels), or a Given. Nothing handed in is
    changed. Raises InvalidInput naming the value and its place where it is wrong.
    """
    if isinstance(x, Given):
        return x
    if y is None:
        x, y = _pairs(x)
    images = _tensor(x, "images")
    if not images.numel():
        raise InvalidInput(f"expected images (N, C, H, W), got none: {tuple(images.shape)}")
    labels = _labels(y)
    _check_shape(images, len(labels))
    images, notes = _in_range(images)
    if len(labels) != len(images):
        raise InvalidInput(f"expected a label an image, got {len(images)} and {len(labels)} labels")
    sha256 = examples_sha256(images, labels)
    as_float = images.float() / 255 if images.dtype == torch.uint8 else images
    return Given(as_float, labels, sha256, notes)


def check_labels(y: Tensor, classes: int) -> None:
    """InvalidInput where a label (N,) is no class of a model with so many."""
    beyond = (y < 0) | (y >= classes)
    if bool(beyond.any()):
        place = int(beyond.nonzero()[0, 0])
        raise InvalidInput(
            f"labels go up to {int(y.max())}, but the model has {classes} classes, 0 to "
            f"{classes - 1}: label {place} is {int(y[place])}"
        )


def whole(value: Any, what: str, least: int = 1) -> int:
    """A whole number of any integer type, at least `least`. Raises InvalidInput naming it."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise InvalidInput(f"{what} must be an int of at least {least}, got {shown(value)}")
    return number


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


# ---------------------------------------------------------------- what is like a tensor


def _pairs(data: Any) -> tuple[Any, Any]:
    """Images and labels of a DataLoader or a Dataset, read to its end."""
    if data is None:
        raise InvalidInput("expected images (N, C, H, W) and labels (N,), got None")
    if isinstance(data, torch.utils.data.DataLoader):
        batches = [_pair(batch) for batch in data]
        if not batches:
            raise InvalidInput("the DataLoader holds no batch")
        images = [_tensor(x, "images") for x, _ in batches]
        return _joined(images), torch.cat([_labels(y) for _, y in batches])
    if isinstance(data, torch.utils.data.Dataset) and hasattr(data, "__len__"):
        one_by_one = [_pair(data[place]) for place in range(len(data))]
        return [x for x, _ in one_by_one], [y for _, y in one_by_one]
    raise InvalidInput(
        f"no labels: beside images (N, C, H, W) labels (N,) are expected, or in place of both a "
        f"DataLoader or a Dataset of them; got {type(data).__name__}"
    )


def _pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return batch[0], batch[1]
    held = f" of {len(batch)}" if isinstance(batch, Sequence) else ""
    raise InvalidInput(
        f"a data set gives pairs of images and labels, this one a {type(batch).__name__}{held}"
    )


def _tensor(value: Any, what: str) -> Tensor:
    """A dense tensor of numbers on the CPU that shares no memory with what was handed in."""
    if value is None or isinstance(value, str | bytes | dict):
        raise InvalidInput(f"{what}: expected an array or a tensor, got {type(value).__name__}")
    if isinstance(value, Tensor):
        return _plain(value, what)
    if isinstance(value, list | tuple) or (
        isinstance(value, Iterable) and not hasattr(value, "__array__")
    ):
        return _stacked(list(value), what)
    if isinstance(value, np.ma.MaskedArray) and bool(np.any(value.mask)):
        raise InvalidInput(f"{what}: {int(np.sum(value.mask))} values of the array are masked")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{what}: a {type(value).__name__} is no array ({error})") from None
    if array.dtype.kind not in "biuf":
        such = f", such as {shown(array.flat[0])}" if array.size else ""
        raise InvalidInput(f"{what}: expected numbers, got an array of {array.dtype}{such}")
    if array.dtype.kind == "u" and array.size and int(array.max()) >= 2**63:
        raise InvalidInput(f"{what}: {array.max()} is too large")
    # torch knows neither the other byte order nor negative strides, and has no arithmetic for some.
    kind: Any = array.dtype.newbyteorder("=")
    if array.dtype.kind in "ui" and array.dtype != np.uint8:
        kind = np.int64
    elif array.dtype.itemsize > 8:
        kind = np.float64
    return torch.from_numpy(np.array(array, dtype=kind, order="C"))


def _plain(value: Tensor, what: str) -> Tensor:
    if value.layout != torch.strided:
        raise InvalidInput(f"{what}: a tensor of layout {value.layout}; call .to_dense() first")
    if value.is_quantized:
        raise InvalidInput(f"{what}: a quantised tensor; call .dequantize() first")
    if value.device.type == "meta":
        raise InvalidInput(f"{what}: a tensor on the device meta holds no values")
    if value.is_complex():
        raise InvalidInput(f"{what}: expected real numbers, got {value.dtype}")
    # A clone that is made outside inference mode can be differentiated.
    with torch.inference_mode(False):
        plain = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    whole_numbers = not plain.is_floating_point() and plain.dtype not in (torch.uint8, torch.bool)
    return plain.to(torch.int64) if whole_numbers else plain


def _stacked(values: list[Any], what: str) -> Tensor:
    if not values:
        raise InvalidInput(f"{what}: the list is empty")
    if all(isinstance(v, bool | int | float) for v in values):
        try:
            return torch.tensor(values)
        except (OverflowError, ValueError, RuntimeError):
            raise InvalidInput(f"{what}: {shown(max(values, key=abs))} is too large") from None
    wrong = next((v for v in values if v is None or isinstance(v, str | bytes)), values)
    if wrong is not values:
        place = next(k for k, v in enumerate(values) if v is wrong)
        raise InvalidInput(f"{what}: expected numbers, entry {place} is {shown(wrong)}")
    return _joined([_tensor(v, what)[None] for v in values])


def _joined(parts: list[Tensor]) -> Tensor:
    """Batches one after another; InvalidInput names the first of another shape or type."""
    first = parts[0]
    for place, part in enumerate(parts):
        if part.shape[1:] != first.shape[1:]:
            raise InvalidInput(
                f"images differ: the first is {tuple(first.shape[1:])}, number {place} is "
                f"{tuple(part.shape[1:])}; bring them to one size"
            )
        if (part.dtype == torch.uint8) != (first.dtype == torch.uint8):
            raise InvalidInput(
                f"images differ: the first is {first.dtype}, number {place} {part.dtype}"
            )
    return torch.cat(parts)


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


# ---------------------------------------------------------------- labels


def _labels(y: Any) -> Tensor:
    """(N,) int64; whole numbers of any type. Raises InvalidInput naming the first that is none."""
    y = _tensor(y, "labels")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2:
        raise InvalidInput(
            f"labels: expected class numbers (N,), got {tuple(y.shape)}; of scores or one-hot rows "
            "the class is y.argmax(1)"
        )
    if y.ndim != 1 or not len(y):
        raise InvalidInput(f"labels: expected class numbers (N,), got {tuple(y.shape)}")
    if y.is_floating_point():
        whole = torch.isfinite(y) & (y == y.round()) & (y.abs() < 2**53)
        if not bool(whole.all()):
            place = int((~whole).nonzero()[0, 0])
            raise InvalidInput(
                f"labels are class numbers 0, 1, 2 ...: label {place} is {y[place]:g}"
            )
    numbers = y.to(torch.int64)
    if bool((numbers < 0).any()):
        place = int((numbers < 0).nonzero()[0, 0])
        raise InvalidInput(
            f"labels are class numbers 0, 1, 2 ...: label {place} is {y[place].item()}"
        )
    return numbers


# ---------------------------------------------------------------- images


def _check_shape(x: Tensor, labels: int) -> None:
    """InvalidInput with the call that makes (N, C, H, W) of it, where that can be guessed."""
    shape, hint = tuple(x.shape), ""
    if x.ndim == 4 and 0 not in shape:
        if shape[3] in (_GREY, *_COLOUR) and shape[1] == shape[2] > max(_COLOUR):
            raise InvalidInput(
                f"images {shape} look like (N, H, W, C); expected (N, C, H, W): x.permute(0, 3, 1, 2)"
            )
        return
    if x.ndim == 3 and shape[0] == labels:
        hint = "; of grey images (N, H, W): x[:, None]"
    elif x.ndim == 3:
        hint = "; of one image (C, H, W): x[None]"
    elif x.ndim == 2:
        hint = "; of flat images (N, C * H * W): x.reshape(N, C, H, W)"
    raise InvalidInput(f"expected images (N, C, H, W) and labels (N,), got {shape}{hint}")


def _in_range(x: Tensor) -> tuple[Tensor, str]:
    """uint8 or float32 in [0, 1], and what was done; InvalidInput names value, place and scale."""
    if x.dtype == torch.bool:
        raise InvalidInput("images must be uint8 or float in [0, 1], got torch.bool")
    if not x.is_floating_point():
        return _pixels(x)
    x = x.float()
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        place = (~finite).nonzero()[0].tolist()
        raise InvalidInput(f"images must be finite: {_at(place)} is {x[tuple(place)].item()}")
    low, high = float(x.min()), float(x.max())
    outside = (x < 0) | (x > 1)
    if low < -CLOSE or high > 1 + CLOSE:
        beyond = (x < -CLOSE) | (x > 1 + CLOSE)
        place = beyond.nonzero()[0].tolist()
        raise InvalidInput(
            f"images must lie in [0, 1], got {low:g} to {high:g} ({_at(place)} is "
            f"{x[tuple(place)].item():.9g}); {_remedy(x, low, high)}"
        )
    if not bool(outside.any()):
        return x, ""
    worst = max(-low, high - 1)
    note = f"{int(outside.sum())} pixel values up to {worst:.2g} outside [0, 1] were clipped"
    return x.clamp(0, 1), note


def _pixels(x: Tensor) -> tuple[Tensor, str]:
    """Integers: 8-bit pixels, unless they are nearly black or no bytes."""
    low, high = int(x.min()), int(x.max())
    if low < 0 or high > 255:
        beyond = (x < 0) | (x > 255)
        place = beyond.nonzero()[0].tolist()
        raise InvalidInput(
            f"integer images are 8-bit pixels, 0 to 255: {_at(place)} is {x[tuple(place)].item()}"
        )
    if high == 1:
        raise InvalidInput(
            "images of the integers 0 and 1: as 8-bit pixels all would be black; pass them as "
            "x.float() where 1 is white"
        )
    if x.dtype == torch.uint8:
        return x, ""
    if 1 < high <= 16:
        raise InvalidInput(
            f"images of integers up to {high}: of {_SCALES[16]} pass x / 16; of 8-bit pixels that are "
            "nearly black pass them as uint8"
        )
    return x.to(torch.uint8), f"integers ({x.dtype}) are read as 8-bit pixels"


def _at(place: list[int]) -> str:
    image, channel, row, column = place
    return f"image {image}, channel {channel}, row {row}, column {column}"


def _remedy(x: Tensor, low: float, high: float) -> str:
    for largest, whose in _SCALES.items():
        if low >= 0 and largest / 2 < high <= largest and bool((x == x.round()).all()):
            return f"0 to {largest}, as of {whose}? Divide by {largest}"
    if low >= 0 and 16 < high <= 255:
        return "divide by 255"
    if low >= -1 - CLOSE and high <= 1 + CLOSE:
        return "of -1 to 1: (x + 1) / 2, and put the normalisation inside the model"
    return "divide by 255, and put the normalisation inside the model"
