"""Adversarial images that people hand in: a safetensors file, every size compared before it is used.

K images (C, H, W) for some of N examples; nothing is larger than N images of that shape.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.records.one_read import opened
from bench.schema import InvalidInput
from bench.sources import weight_files
from bench.sources.pickles import Stored

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 2**30  # bytes of a file
INDICES, IMAGES = "indices", "images"
_KINDS = {INDICES: ("int64",), IMAGES: ("float32", "uint8")}


@dataclass(frozen=True)
class Adversarial:
    """Images that were handed in, with the places of the examples that they are for."""

    indices: Tensor  # (K,) int64, ascending, each once, of N examples
    images: Tensor  # (K, C, H, W) float32, any values at all
    sha256: str  # of the file


def read(path: Path, *, n: int, shape: tuple[int, ...]) -> Adversarial:
    """The images in a file for some of n examples of `shape` (C, H, W).

    `indices` int64 (K,) and `images` float32 or uint8 (K, C, H, W); uint8 is divided by 255. Raises
    InvalidInput naming the file where it is anything else.
    """
    with opened(path, largest=LARGEST, follow=True) as (file, _):
        tensors = weight_files.read_safetensors(file, path)
        _check(tensors, path, n, shape)
        found = weight_files.loaded(tensors, path)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    indices, images = found[INDICES], found[IMAGES]
    wrong = (indices < 0) | (indices >= n)
    if bool(wrong.any()):
        raise InvalidInput(
            f"{path}: {INDICES} names example {int(indices[wrong][0])}; expected 0 to {n - 1}"
        )
    indices, order = indices.sort()
    twice = indices[1:] == indices[:-1]
    if bool(twice.any()):
        raise InvalidInput(
            f"{path}: {INDICES} names example {int(indices[1:][twice][0])} twice; one image each"
        )
    images = images[order]
    return Adversarial(
        indices, images if images.is_floating_point() else images.float() / 255, sha256
    )


def _check(tensors: dict[str, Stored], path: Path, n: int, shape: tuple[int, ...]) -> None:
    """Raises InvalidInput where names, types or shapes are not those asked for; reads no number."""
    if set(tensors) != set(_KINDS):
        names = ", ".join(weight_files.shown(name, 40) for name in sorted(tensors)[:5]) or "nothing"
        raise InvalidInput(
            f"{path} holds {names}; expected {INDICES} and {IMAGES}, and nothing else"
        )
    for name, kinds in _KINDS.items():
        if tensors[name].kind not in kinds:
            raise InvalidInput(
                f"{path}: {name} is {tensors[name].kind}, expected {' or '.join(kinds)}"
            )
    count = tensors[INDICES].shape[0] if len(tensors[INDICES].shape) == 1 else None
    if count is None or tensors[IMAGES].shape != (count, *shape):
        raise InvalidInput(
            f"{path}: {INDICES} has the shape {tensors[INDICES].shape} and {IMAGES} "
            f"{tensors[IMAGES].shape}; expected (K,) and (K, {', '.join(map(str, shape))})"
        )
    if not 1 <= count <= n:
        raise InvalidInput(f"{path} holds {count:,} images, expected 1 to {n:,}: one an example")
