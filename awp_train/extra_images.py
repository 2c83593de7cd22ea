"""Images beside a data set, with pseudo-labels, as RST trains on them (arXiv 1905.13736).

Three layouts are read, none of which can run code:

* ours, .npz: images (N, C, H, W) or (N, H, W, C) as `layout` says, uint8 or float32 in [0, 1];
  labels (N,)
* the 500,000 pseudo-labelled TinyImages of RST, a pickle: data (N, H, W, C), extrapolated_targets
* images of diffusion models (arXiv 2103.01946), .npz: image (N, H, W, C), label
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from awp_train.array_files import packed, read_npz, read_pickle
from bench.catalogue import DatasetInfo, dataset_info
from bench.datasets import Examples, as_float, drawn_parts, load, of_run, training_split
from bench.records.one_read import read_whole, sha256_of_bytes
from bench.records.store import sha256_of, write_atomic
from bench.schema import ExtraData, InvalidInput, ModelCard, OwnImages, TrainConfig, safe_name
from bench.sources import checkpoint

LARGEST = 4 * 2**30  # bytes of a file, and of what it holds; a million images of 32x32 are 3.1e9
COINCIDENCE = 0.05  # share of held-out images that a large set may hold by chance: data sets repeat
_BATCH = 500  # images

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
    n = len(_labels(path, *next(iter(arrays.items()))))
    name, sha256 = safe_name(path.name), sha256_of_bytes(raw)
    return ExtraData(file=name, sha256=sha256, n=n, fraction=fraction)


def load_extra(path: Path, config: TrainConfig, *, source: str | None = None) -> Examples:
    """The extra images of a run, (N, C, H, W) uint8 or float32, with their pseudo-labels.

    source: where the run's own images lie, if it is trained on such.
    Raises InvalidInput where it is not the file that the configuration names, does not fit the data
    set, or holds images that the run validates on or that are test images. It stays in place.
    """
    if config.extra is None:
        raise InvalidInput(f"the configuration names no extra data, so {path} cannot be used")
    images, labels, _ = read_images(path, config.dataset, config.own, expected=config.extra)
    if labels is None:
        raise InvalidInput(f"{path} has no labels; python -m awp_train pseudo-label makes them")
    if len(labels) != config.extra.n:
        raise InvalidInput(f"{path} has {len(labels)} images, this run names {config.extra.n}")
    info = dataset_info(config.dataset, config.own)
    if info.n_test:
        refuse_held_out(images, path, of_run(config, "test", source=source), kind="test")
    if config.n_validation:
        validation = training_split(config, source=source)[1]
        refuse_held_out(images, path, validation, kind="validation")
    return Examples(config.dataset, f"extra[{len(labels)}]", images, labels, info.class_count)


def save_extra(path: Path, images: Tensor, labels: Tensor, *, source: str) -> None:
    """Writes images (N, C, H, W) and labels (N,) in our layout; equal input gives equal bytes.

    Raises InvalidInput where the file holds something else already: runs may name it.
    """
    content = packed(
        {
            "images": images.cpu().numpy(),
            "labels": labels.cpu().numpy().astype("<i8"),
            "layout": np.array("NCHW"),
            "source": np.array(source),
        }
    )
    if path.exists() and sha256_of_bytes(content) != sha256_of(path):
        raise InvalidInput(
            f"{path} holds other images or labels, which runs may name; "
            "choose another --out, or delete it"
        )
    write_atomic(path, content)


# ---------------------------------------------------------------- reading


def read_images(
    path: Path,
    dataset: str,
    own: OwnImages | None = None,
    *,
    expected: ExtraData | None = None,
) -> tuple[Tensor, Tensor | None, str]:
    """Images (N, C, H, W), uint8 or float32; labels (N,) int64 if there are some; sha256 (hex).

    The sha256 is that of exactly the bytes that were read. Raises InvalidInput naming the file where
    it is another than expected, cannot be read or does not fit the data set.
    """
    raw = _whole(path)
    sha256 = sha256_of_bytes(raw)
    if expected is not None and sha256 != expected.sha256:
        raise InvalidInput(
            f"{path} is not the file {expected.file} that this run names: its sha256 is "
            f"{sha256[:12]}…, expected {expected.sha256[:12]}…; left in place"
        )
    arrays = _arrays(raw, path, (*_LAYOUTS, *_LAYOUTS.values(), "layout"))
    key = next((k for k in _LAYOUTS if k in arrays), None)
    if key is None:
        raise InvalidInput(f"{path} holds no images: {_EXPECTED}; left in place")
    layout = str(arrays.get("layout", "missing")) if key == "images" else "NHWC"
    if layout not in _AXES:
        raise InvalidInput(f"{path}: layout must be NCHW or NHWC, got {layout[:20]!r}")
    info = dataset_info(dataset, own)
    images = _fitting(path, arrays[key], layout, dataset, info)
    if _LAYOUTS[key] not in arrays:
        return images, None, sha256
    labels = _labels(path, _LAYOUTS[key], arrays[_LAYOUTS[key]])
    if len(labels) != len(images):
        raise InvalidInput(f"{path} has {len(images)} images, but {len(labels)} labels")
    classes = info.class_count
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        first = int(wrong.argmax())
        raise InvalidInput(
            f"{path}: {int(wrong.sum())} labels are no class of {dataset}, whose classes are "
            f"0..{classes - 1}; the first, at {first}, is {labels[first]}"
        )
    return images, torch.from_numpy(labels.astype(np.int64)), sha256


def _whole(path: Path) -> bytes:
    if not path.is_file():
        raise InvalidInput(f"no extra data at {path}")
    if path.stat().st_size > LARGEST:
        raise InvalidInput(f"{path} has more than {LARGEST:,} bytes; divide it")
    return read_whole(path, largest=LARGEST, follow=True)


def _arrays(raw: bytes, path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the keys that the file has, arrays or lists of whole numbers, as arrays."""
    try:
        if raw[:2] == b"PK":
            return read_npz(io.BytesIO(raw), keys, largest=LARGEST)
        if raw[:1] != b"\x80":
            raise InvalidInput(_EXPECTED)
        content = read_pickle(raw)
    except InvalidInput as error:
        raise InvalidInput(f"{path} cannot be used as images: {error}; left in place") from None
    arrays = {}
    for key in keys if isinstance(content, dict) else ():
        if key in content:
            found = content[key]
            if isinstance(found, list) and all(type(v) is int and abs(v) < 2**63 for v in found):
                found = np.array(found, dtype=np.int64)
            if not isinstance(found, np.ndarray) or not found.size:
                raise InvalidInput(f"{path}: {key} is no array of numbers; left in place")
            arrays[key] = found
    return arrays


def _fitting(
    path: Path, images: np.ndarray, layout: str, dataset: str, info: DatasetInfo
) -> Tensor:
    """(N, C, H, W), of the data set's shape and in its range."""
    expected = (info.channels, info.image_size, info.image_size)
    if images.ndim != 4 or images.transpose(_AXES[layout]).shape[1:] != expected:
        raise InvalidInput(
            f"{path} has images of shape {images.shape} ({layout}), "
            f"but {dataset} has (C, H, W) = {expected}"
        )
    if images.dtype not in (np.uint8, np.float32):
        raise InvalidInput(f"{path}: images must be uint8 or float32, got {images.dtype}")
    # False for NaN, too.
    if images.dtype != np.uint8 and not (images.min() >= 0 and images.max() <= 1):
        raise InvalidInput(f"{path}: float images must lie in [0, 1]")
    native = images.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(images.transpose(_AXES[layout]), dtype=native, order="C"))


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


# ---------------------------------------------------------------- pseudo-labels


def pseudo_label(
    teacher: Path,
    *,
    out: Path,
    n: int | None = None,
    images: Path | None = None,
    source: str | None = None,
    device: str = "cpu",
) -> Path:
    """Labels images with the checkpoint `teacher`; returns the file `<out>/<teacher>-pseudo.npz`.

    The images are those of the teacher's data set that its run used neither for training nor for
    validation, as its seed drew them, or those of the file `images`, whose labels are not used; of
    either the first n, by default all. source: where the data set lies, if it is one's own. Test
    images are never among them. Equal images and answers give the same bytes. Raises InvalidInput
    where there are no such images, or where the file holds others already.
    """
    model, card = checkpoint.load(teacher, device=device)
    true_labels: Tensor | None
    if images is None:
        unused = _left_by(card, source)
        pictures, true_labels = unused.images, unused.labels
        origin = f"{card.dataset} {unused.split}"
    else:
        own = card.train.own if card.train else None
        pictures, true_labels, sha256 = read_images(images, card.dataset, own)
        if card.train is None or own is None:
            refuse_held_out(pictures, images, load(card.dataset, "test"), kind="test")
        elif own.n_test:
            test = of_run(card.train, "test", source=source)
            refuse_held_out(pictures, images, test, kind="test")
        origin = f"{images.name} (sha256 {sha256[:12]})"
    if n is not None and not 1 <= n <= len(pictures):
        raise InvalidInput(f"n must lie in 1..{len(pictures)}, the images there are; got {n}")
    pictures = pictures[:n]
    with torch.no_grad():
        parts = pictures.split(_BATCH)
        labels = torch.cat([model(as_float(p.to(device))).argmax(1).cpu() for p in parts])
    told = f"pseudo-labels of {card.name} (weights {card.weights_sha256[:12]}) for {origin}"
    if true_labels is not None:
        right = int((labels == true_labels[:n]).sum())
        told += f"; {right} of {len(labels)} equal the true labels"
    path = out / f"{card.name}-pseudo.npz"
    save_extra(path, pictures, labels, source=told)
    return path


def _left_by(card: ModelCard, source: str | None) -> Examples:
    """What a teacher's run used neither for training nor for validation."""
    if card.train is None:
        raise InvalidInput(
            f"{card.name} was not trained here, so it is not known which images of {card.dataset} "
            "it has seen: give images of your own with --images FILE"
        )
    *_, unused = drawn_parts(card.train, source=source)
    if not len(unused):
        raise InvalidInput(
            f"{card.name} took every image of {card.dataset}: none is left to label. Train a "
            "teacher with --n_train, or give images of your own with --images FILE"
        )
    return unused


def read_source(path: Path) -> str:
    """Where the images and labels of a file in our layout come from; empty where it does not say."""
    return str(_arrays(_whole(path), path, ["source"]).get("source", ""))


def run(call: argparse.Namespace) -> int:
    """Labels, says how good the labels are where that is known, and prints the file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = pseudo_label(
        call.teacher, out=call.out, n=call.n, images=call.images, source=call.dataset, device=device
    )
    print(read_source(path), file=sys.stderr)
    print(path)
    return 0
