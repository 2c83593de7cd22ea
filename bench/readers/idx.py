"""MNIST and Fashion-MNIST from IDX files on this machine, and where they may lie; loads no torch.

N images, H = W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.catalogue import DATASETS
from bench.readers import arrays
from bench.schema import InvalidInput

DATA_ROOT = Path("var/data")
# Where Debian's package dataset-fashion-mnist puts its IDX files.
DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
KINDS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}  # what torchvision calls their folders


def names(part: str) -> tuple[str, str]:
    """Images and labels of "train" or "test", as their home page names the files."""
    stem = "t10k" if part == "test" else "train"
    return f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"


def read(name: str, root: Path, part: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Images (N, 1, H, W) uint8 and labels (N,) int64, in official order; None where none are here.

    Raises InvalidInput naming a file that is damaged or holds images of another size.
    """
    info = DATASETS[name]
    n = info.n_test if part == "test" else info.n_train
    for folder in _folders(name, root):
        images, labels = (
            next(filter(Path.exists, _spellings(folder / file)), None) for file in names(part)
        )
        if images and labels:
            pictures = arrays.read_idx(images, largest=n * info.image_size**2)
            classes = arrays.read_idx(labels, largest=n).astype(np.int64)
            if pictures.ndim != 3 or pictures.shape[1:] != (info.image_size, info.image_size):
                raise InvalidInput(
                    f"{images} holds an array {pictures.shape}, expected images of "
                    f"{info.image_size} x {info.image_size}; fetch it again"
                )
            return pictures[:, None], classes
    return None


def _folders(name: str, root: Path) -> Iterator[Path]:
    yield root / name
    yield root / KINDS[name] / "raw"
    if name in DEBIAN:
        yield DEBIAN[name]


def _spellings(path: Path) -> list[Path]:
    """Plain or gzipped, and with a dot in the name as copies that others hand on have it."""
    plain = [path, path.with_name(path.name.replace("-idx", ".idx"))]
    return [each.with_name(each.name + end) for each in plain for end in ("", ".gz")]
