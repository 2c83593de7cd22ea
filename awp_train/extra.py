"""The pseudo-labelled images of a run, read from one file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from bench.catalogue import dataset_info
from bench.datasets import Examples
from bench.results import sha256_of
from bench.schema import InvalidInput, TrainConfig


def load_extra(path: Path, config: TrainConfig) -> Examples:
    """An .npz with `images` (N, C, H, W), uint8 or float32 in [0, 1], and `labels` (N,).

    Raises InvalidInput where it is not the file that config.extra names, or does not fit the data set.
    """
    entry, info = config.extra, dataset_info(config.dataset)
    if entry is None or not path.is_file():
        raise InvalidInput(f"no extra images at {path}")
    if sha256_of(path) != entry.sha256:
        raise InvalidInput(f"{path} is not {entry.file} of this run (sha256 differs)")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{path} cannot be read as images and labels ({error})") from None
    shape = (entry.n, info.channels, info.image_size, info.image_size)
    if images.shape != shape or labels.shape != (entry.n,):
        raise InvalidInput(f"{path}: expected images {shape}, got {images.shape}, {labels.shape}")
    if not (labels.min() >= 0 and labels.max() < info.class_count):
        raise InvalidInput(f"{path}: labels must lie in 0..{info.class_count - 1}")
    if images.dtype != np.uint8 and not (images.min() >= 0 and images.max() <= 1):
        raise InvalidInput(f"{path}: images must be uint8, or float32 in [0, 1]")
    return Examples(
        name=entry.file,
        split=f"extra[0:{entry.n}]",
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels.astype(np.int64)),
        class_count=info.class_count,
    )
