"""Evidence: the adversarial images behind every broken bit, stored compactly and judged as stored.

A perturbation is kept as int8 steps of its own largest value / 127 where the decoded image still is
admissible and misclassified; otherwise the image is kept as float32. M images.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.attacks.geometry import per_image
from bench.records import npz
from bench.schema import InvalidInput


@dataclass(frozen=True)
class Perturbations:
    """Adversarial images of some of the examples, encoded."""

    index: np.ndarray  # (M,) int32: which example; quantised ones first
    steps: np.ndarray  # (Q, C, H, W) int8
    scale: np.ndarray  # (Q,) float32: size of one step
    exact: np.ndarray  # (M - Q, C, H, W) float32 images

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Perturbations:
        """No images of shape (C, H, W)."""
        steps, exact = np.zeros((0, *shape), np.int8), np.zeros((0, *shape), np.float32)
        return cls(np.zeros(0, np.int32), steps, np.zeros(0, np.float32), exact)

    def decode(self, x: Tensor) -> Tensor:
        """(M, C, H, W) images, in the order of `index`; x (N, C, H, W) are all the examples."""
        clean = x[torch.from_numpy(self.index[: len(self.steps)]).long()]
        near = dequantise(clean, torch.from_numpy(self.steps), torch.from_numpy(self.scale))
        return torch.cat([near, torch.from_numpy(self.exact)])


def quantise(x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """int8 steps (M, C, H, W) and step sizes (M,) of the perturbations x_adv - x."""
    delta = (x_adv - x).cpu()
    scale = delta.flatten(1).abs().amax(1) / 127
    steps = (delta / per_image(scale.clamp_min(1e-30), delta)).round().clamp(-127, 127)
    return steps.to(torch.int8), scale


def dequantise(x: Tensor, steps: Tensor, scale: Tensor) -> Tensor:
    """The images that int8 steps stand for, on the CPU, clipped to the box."""
    x = x.cpu()
    return (x + steps.to(torch.float32) * per_image(scale, x)).clamp(0, 1)


def merge(parts: list[Perturbations]) -> Perturbations:
    """One set from several over disjoint examples, in the order of the examples."""
    quantised = np.concatenate([p.index[: len(p.steps)] for p in parts])
    rest = np.concatenate([p.index[len(p.steps) :] for p in parts])
    order, after = np.argsort(quantised), np.argsort(rest)
    return Perturbations(
        np.concatenate([quantised[order], rest[after]]),
        np.concatenate([p.steps for p in parts])[order],
        np.concatenate([p.scale for p in parts])[order],
        np.concatenate([p.exact for p in parts])[after],
    )


FIELDS = ("index", "steps", "scale", "exact")
_LARGEST_LOGITS = 2**26  # bytes; of 64 images
MOST_IMAGES = 10_000_000  # of a record
LOGITS = "clean_logits"  # without a slash: no column's


def of_audit(column: str) -> str:
    """Where the images are kept that the audit of a column broke."""
    return f"{column}/audit"


def to_bytes(columns: dict[str, Perturbations], *, logits: np.ndarray | None = None) -> bytes:
    """A compressed .npz with `<column>/<field>` arrays; the same bytes for the same content.

    logits (min(64, N), K) float32 are those of the first clean images, see bench.measure.clean_logits.
    """
    buffer = io.BytesIO()
    arrays = {f"{c}/{f}": getattr(p, f) for c, p in columns.items() for f in FIELDS}
    if logits is not None:
        arrays[LOGITS] = logits
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def from_bytes(
    raw: bytes,
    *,
    n: int = MOST_IMAGES,
    shape: tuple[int, ...] | None = None,
    where: str = "the evidence",
) -> dict[str, Perturbations]:
    """What to_bytes made of some of n images of shape (C, H, W); None: whatever shape they have.

    Raises InvalidInput, naming `where` they are from, where they are damaged or of other images.
    """
    with _opened(raw, where) as archive:
        columns = sorted({name.rpartition("/")[0] for name in archive.namelist()} - {""})
        return {c: Perturbations(*npz.perturbations(archive, f"{c}/", n, shape)) for c in columns}


def logits_in(raw: bytes, *, where: str = "the evidence") -> np.ndarray | None:
    """The (M, K) float32 logits that evidence holds; None in that of versions that kept none."""
    with _opened(raw, where) as archive:
        if f"{LOGITS}.npy" not in archive.namelist():
            return None
        return npz.array(archive, LOGITS, np.float32, (None, None), largest=_LARGEST_LOGITS)


@contextmanager
def _opened(raw: bytes, where: str) -> Iterator[zipfile.ZipFile]:
    try:
        with npz.opened(raw) as archive:
            yield archive
    except npz.UNREADABLE as error:
        why = " ".join(str(error).split())[:200]
        raise InvalidInput(f"{where} is not readable evidence ({why}); left in place") from None


def on_256_levels(images: Tensor) -> Tensor:
    """Images in [0, 1] as an 8-bit file would hold them: each value the nearest of 0/255..255/255."""
    return (images * 255).round() / 255
