"""Logits of the first clean images: whether what was measured before was the model that is here now.

An id says which tensors and which code a model has; what it computes also depends on what no id reads,
such as a library. N images, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.as_found import exact_float32, left_as_found
from bench.attacks.problem import Model
from bench.judge import ask

IMAGES = 64
FEW = 4  # images where a model is asked often, or one by one
LOOKS = 32  # of a choice of one in ten, 32 passes miss one in thirty
TOLERANCE = 1e-3  # of 1 + the largest logit: machines, batches and thread counts differ by less


def steady_logits(model: Model, x: Tensor, device: torch.device) -> np.ndarray | None:
    """(min(64, N), K) float32: what the model answers to the first of x (N, C, H, W).

    None for a randomised model, which answers otherwise the next time. Raises MeasurementFailed where
    it raises.
    """
    x = x[:IMAGES].to(device)
    with torch.no_grad(), exact_float32(), left_as_found(model):
        first, again = (ask(model, x).float().cpu().numpy() for _ in range(2))
        wavers = difference(first, again) or wavering(model, x)[0]
    return None if wavers else np.array(first, dtype=np.float32)


def wavering(model: Model, x: Tensor) -> tuple[bool, float]:
    """Whether LOOKS passes over the same few of x differ by more than rounding, and by how much.

    So many, because a model that chooses among two networks at random gives the same answer twice
    every other time. They are few images, and together cost less than two passes over 64.
    """
    few = x[:FEW]
    with torch.no_grad():
        first, *others = (ask(model, few).float() for _ in range(LOOKS))
        found = [moved(first, other, 1e-5) for other in others]
    return any(differ for differ, _ in found), max(float(far.max()) for _, far in found)


def moved(a: Tensor, b: Tensor, relative: float) -> tuple[bool, Tensor]:
    """Whether answers (B, K) differ by more than `relative` of the logits' spread, and how far (B,).

    Relative to the spread, so that logits times a constant give the same answer; 1e-6 of the largest
    covers float32 rounding.
    """
    finite = torch.isfinite(a).all(1), torch.isfinite(b).all(1)
    both = finite[0] & finite[1]
    far = (a - b)[both].abs().amax(1) if bool(both.any()) else a.new_zeros(1)
    scale = a[both] if bool(both.any()) else a.new_zeros(1, 1)
    limit = relative * (scale.amax(1) - scale.amin(1)).max() + 1e-6 * scale.abs().max()
    return bool((far > limit).any()) or bool((finite[0] != finite[1]).any()), far


def difference(before: np.ndarray, now: np.ndarray) -> str:
    """In words, how logits differ by more than rounding; empty where they do not."""
    if before.shape != now.shape:
        return f"its logits were {before.shape}, they are {now.shape}"
    finite = np.isfinite(before)
    if not np.array_equal(before[~finite], now[~finite], equal_nan=True) or not np.array_equal(
        finite, np.isfinite(now)
    ):
        return "other logits are not finite"
    if not finite.any():
        return ""
    far = float(np.abs(before[finite].astype(np.float64) - now[finite]).max())
    largest = float(np.abs(before[finite]).max())
    if far <= TOLERANCE * (1 + largest):
        return ""
    return (
        f"its logits on {len(now)} images differ by up to {far:.3g}, the largest is {largest:.3g}"
    )
