"""Logits of the first clean images: whether what was measured before was the model that is here now.

An id says which tensors and which code a model has; what it computes also depends on what no id reads,
such as a library. N images, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.attacks.problem import Model
from bench.judge import exact_float32, guarded
from bench.reliability.checks import left_as_found

IMAGES = 64
TOLERANCE = 1e-3  # of 1 + the largest logit: machines, batches and thread counts differ by less


def steady_logits(model: Model, x: Tensor, device: torch.device) -> np.ndarray | None:
    """(min(64, N), K) float32: what the model answers to the first of x (N, C, H, W).

    None for a randomised model, which answers otherwise the next time. Raises MeasurementFailed where
    it raises.
    """

    def ask() -> np.ndarray:
        with torch.no_grad(), exact_float32(), left_as_found(model):
            answer = model(x[:IMAGES].to(device)).float().cpu().numpy()
        return np.array(answer, dtype=np.float32)

    first, again = guarded(ask), guarded(ask)
    return None if difference(first, again) else first


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
