"""Images beside a data set, with pseudo-labels, as RST trains on them (arXiv 1905.13736).

Three layouts are read, none of which can run code:

* ours, .npz: images (N, C, H, W) or (N, H, W, C) as `layout` says, uint8 or float32 in [0, 1];
  labels (N,)
* the 500,000 pseudo-labelled TinyImages of RST, a pickle: data (N, H, W, C), extrapolated_targets
* images of diffusion models (arXiv 2103.01946), .npz: image (N, H, W, C), label
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from awp_train import array_npz, array_pickle
from bench.catalogue import dataset_info
from bench.datasets import Examples, load, training_split
from bench.records.one_read import read_whole, sha256_of_bytes
from bench.records.store import sha256_of, write_atomic
from bench.schema import ExtraData, InvalidInput, TrainConfig, safe_name

LARGEST = 4 * 2**30  # bytes of a file, and of what it holds; a million images of 32x32 are 3.1e9
COINCIDENCE = 0.05  # share of held-out images that a large set may hold by chance: data sets repeat

# The key of the images -> that of the labels.
_LAYOUTS = {"images": "labels", "image": "label", "data": "extrapolated_targets"}
_EXPECTED = (
    "expected an .npz with images, labels and layout or with image and label, "
    "or RST's pickle with data and extrapolated_targets"
)
_AXES = {"NCHW": (0, 1, 2, 3), "NHWC": (0, 3, 1, 2)}  # layout -> what makes it NCHW


def describe_extra(path: Path, *, fraction: float = 0.5) -> ExtraData:
    """The entry of a configuration for this file; `fraction` is its share of each batch.

    Raises InvalidInput where the file cannot be read.
    """
    raw = _whole(path)
    arrays = _arrays(raw, path, _LAYOUTS.values())
    if not arrays:
        raise InvalidInput(f"{path} has no labels; python -m awp_train pseudo-label makes them")
    labels = _labels(path, *next(iter(arrays.items())))
    return ExtraData(
        file=safe_name(path.name), sha256=sha256_of_bytes(raw), n=len(labels), fraction=fraction
    )


def load_extra(path: Path, config: TrainConfig) -> Examples:
    """The extra images of a run, (N, C, H, W) uint8 or float32, with their pseudo-labels.

    Raises InvalidInput where it is not the file that the configuration names, does not fit the data
    set, or holds images that the run validates on or that are test images. It stays in place.
    """
    if config.extra is None:
        raise InvalidInput(f"the configuration names no extra data, so {path} cannot be used")
    raw = _whole(path)
    if (found := sha256_of_bytes(raw)) != config.extra.sha256:
        raise InvalidInput(
            f"{path} is not the file {config.extra.file} that this run names: its sha256 is "
            f"{found[:12]}…, expected {config.extra.sha256[:12]}…; left in place"
        )
    images, labels = parse_images(raw, path, config.dataset)
    if labels is None:
        raise InvalidInput(f"{path} has no labels; python -m awp_train pseudo-label makes them")
    if len(labels) != config.extra.n:
        raise InvalidInput(f"{path} has {len(labels)} images, this run names {config.extra.n}")
    extra = Examples(
        config.dataset, f"extra[{len(labels)}]", images, labels,
        dataset_info(config.dataset).class_count,
    )  # fmt: skip
    refuse_held_out(extra.images, path, load(config.dataset, "test"), kind="test")
    if config.n_validation:
        refuse_held_out(extra.images, path, training_split(config)[1], kind="validation")
    return extra


def save_extra(path: Path, images: Tensor, labels: Tensor, *, source: str) -> None:
    """Writes images (N, C, H, W) and labels (N,) in our layout; equal input gives equal bytes.

    Raises InvalidInput where the file holds something else already: runs may name it.
    """
    content = array_npz.packed(
        {
            "images": images.cpu().numpy(),
            "labels": labels.cpu().numpy().astype("<i8"),
            "layout": np.array("NCHW"),
            "source": np.array(source),
        }
    )
    if path.exists() and hashlib.sha256(content).hexdigest() != sha256_of(path):
        raise InvalidInput(
            f"{path} holds other images or labels, which runs may name; "
            "choose another --out, or delete it"
        )
    write_atomic(path, content)


def read_source(path: Path) -> str:
    """Where the images and labels of a file in our layout come from; empty where it does not say."""
    return str(_arrays(_whole(path), path, ["source"]).get("source", ""))


# ---------------------------------------------------------------- reading


def read_images(path: Path, dataset: str) -> tuple[Tensor, Tensor | None]:
    """Images (N, C, H, W), uint8 or float32, and labels (N,) int64 if the file has them.

    Raises InvalidInput naming the file where it cannot be read or does not fit the data set.
    """
    return parse_images(_whole(path), path, dataset)


def read_images_and_hash(path: Path, dataset: str) -> tuple[Tensor, Tensor | None, str]:
    """As read_images, and the sha256 (hex) of exactly the bytes that were read."""
    raw = _whole(path)
    return *parse_images(raw, path, dataset), sha256_of_bytes(raw)


def parse_images(raw: bytes, path: Path, dataset: str) -> tuple[Tensor, Tensor | None]:
    """As read_images, of the bytes of a file that errors call `path`."""
    arrays = _arrays(raw, path, (*_LAYOUTS, *_LAYOUTS.values(), "layout"))
    key = next((k for k in _LAYOUTS if k in arrays), None)
    if key is None:
        raise InvalidInput(f"{path} holds no images: {_EXPECTED}; left in place")
    layout = str(arrays.get("layout", "missing")) if key == "images" else "NHWC"
    if layout not in _AXES:
        raise InvalidInput(f"{path}: layout must be NCHW or NHWC, got {layout[:20]!r}")
    images, info = arrays[key], dataset_info(dataset)
    labels = (
        _labels(path, _LAYOUTS[key], arrays[_LAYOUTS[key]]) if _LAYOUTS[key] in arrays else None
    )
    expected = (info.channels, info.image_size, info.image_size)
    if images.ndim != 4 or images.transpose(_AXES[layout]).shape[1:] != expected:
        raise InvalidInput(
            f"{path} has images of shape {images.shape} ({layout}), "
            f"but {dataset} has (C, H, W) = {expected}"
        )
    images = images.transpose(_AXES[layout])
    if images.dtype not in (np.uint8, np.float32):
        raise InvalidInput(f"{path}: images must be uint8 or float32, got {images.dtype}")
    # False for NaN, too.
    if images.dtype != np.uint8 and not (images.min() >= 0 and images.max() <= 1):
        raise InvalidInput(f"{path}: float images must lie in [0, 1]")
    if labels is not None:
        if len(labels) != len(images):
            raise InvalidInput(f"{path} has {len(images)} images, but {len(labels)} labels")
        wrong = (labels < 0) | (labels >= info.class_count)
        if wrong.any():
            first = int(wrong.argmax())
            raise InvalidInput(
                f"{path}: {int(wrong.sum())} labels are no class of {dataset}, whose classes are "
                f"0..{info.class_count - 1}; the first, at {first}, is {labels[first]}"
            )
    native = images.dtype.newbyteorder("=")
    return (
        torch.from_numpy(np.array(images, dtype=native, order="C")),
        None if labels is None else torch.from_numpy(labels.astype(np.int64)),
    )


def _whole(path: Path) -> bytes:
    if not path.is_file():
        raise InvalidInput(f"no extra data at {path}")
    if path.stat().st_size > LARGEST:
        raise InvalidInput(f"{path} has more than {LARGEST:,} bytes; divide it")
    return read_whole(path, largest=LARGEST)


def _arrays(raw: bytes, path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the keys that the file has."""
    try:
        if raw[:2] == b"PK":
            return array_npz.read(io.BytesIO(raw), keys, largest=LARGEST)
        if raw[:1] != b"\x80":
            raise InvalidInput(_EXPECTED)
        content = array_pickle.read(memoryview(raw))
    except InvalidInput as error:
        raise InvalidInput(f"{path} cannot be used as images: {error}; left in place") from None
    found = content if isinstance(content, dict) else {}
    return {k: _numbers(path, k, found[k]) for k in keys if k in found}


def _numbers(path: Path, key: str, content: object) -> np.ndarray:
    """A list of whole numbers as an array; an array as it is."""
    if isinstance(content, list) and all(type(v) is int and abs(v) < 2**63 for v in content):
        content = np.array(content, dtype=np.int64)
    if not isinstance(content, np.ndarray) or not content.size:
        raise InvalidInput(f"{path}: {key} is no array of numbers; left in place")
    return content


def _labels(path: Path, key: str, labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InvalidInput(
            f"{path}: {key} must be whole numbers (N,), "
            f"got {labels.dtype} {labels.shape}; left in place"
        )
    return labels


# ---------------------------------------------------------------- what must not be trained on


def refuse_held_out(images: Tensor, path: Path, held_out: Examples, *, kind: str) -> None:
    """InvalidInput where the images hold more of the held-out ones than data sets repeat themselves.

    kind: "test" or "validation" images. Another seed's pseudo-labels hold many of the latter.
    """
    found = shared_images(held_out.images, images)
    if found > COINCIDENCE * min(len(held_out), len(images)):
        raise InvalidInput(
            f"{path} holds {found} of the {len(held_out)} {kind} images of {held_out.name}, which "
            "are never trained on. Pseudo-labels belong to the seed of their teacher, and to runs "
            "that take no more training and validation images than it took"
        )


def shared_images(few: Tensor, many: Tensor) -> int:
    """How many different images of `few` are among `many`, both (N, C, H, W), compared in 8 bits."""
    wanted = set(_rows(few))
    return len({row for row in _rows(many) if row in wanted})


def _rows(images: Tensor) -> Iterator[bytes]:
    """Each image as bytes; a part at a time, since millions of images may be looked at."""
    for part in images.split(10_000):
        if part.dtype != torch.uint8:
            part = (part * 255).round().to(torch.uint8)
        yield from (row.tobytes() for row in part.flatten(1).numpy())
