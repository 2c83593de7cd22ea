"""Logits of the first clean images: whether what was measured before was the model that is here now.

An id says which tensors and which code a model has; what it computes also depends on what no id reads,
such as a library. N images, K classes.
"""

from __future__ import annotations

import logging
import shutil

import numpy as np
import torch
from torch import Tensor

from bench.attacks.problem import Model
from bench.judge import exact_float32, guarded
from bench.measure.shards import Job, load_array, save_array
from bench.reliability.checks import left_as_found

log = logging.getLogger(__name__)
IMAGES = 64
TOLERANCE = 1e-3  # of 1 + the largest logit: machines, batches and thread counts differ by less


def logits_of(model: Model, x: Tensor, device: torch.device) -> np.ndarray:
    """(min(64, N), K) float32: what the model answers to the first of x (N, C, H, W), by one pass.

    Raises MeasurementFailed where it raises.
    """
    with torch.no_grad(), exact_float32(), left_as_found(model):
        answer = guarded(lambda: model(x[:IMAGES].to(device)).float().cpu().numpy())
    return np.array(answer, dtype=np.float32)


def steady_logits(model: Model, x: Tensor, device: torch.device) -> np.ndarray | None:
    """As logits_of; None for a randomised model, which answers otherwise the next time."""
    first = logits_of(model, x, device)
    return None if difference(first, logits_of(model, x, device)) else first


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


# ---------------------------------------------------------------- parts of a measurement


def begun(job: Job) -> np.ndarray | None:
    """The logits of a job whose folder holds parts of its own model alone from here on.

    Parts that another model left are removed, and that is said. None for a randomised model, whose
    parts stay. Raises MeasurementFailed where the model raises.
    """
    path = job.folder / "logits.npy"
    now = None
    if job.request.protocol.passes == 1:
        now = steady_logits(job.model, job.x, job.device)
    if now is None:
        return None
    try:
        kept = load_array(path)
        found = "" if kept is None else difference(kept, now)
    except ValueError as error:
        kept = None
        found = f"{path} is damaged ({error}), so that they cannot be told from another model's"
    if found:
        log.warning("the parts in %s are not used: %s", job.folder, found)
        shutil.rmtree(job.folder)
    elif kept is not None:
        return kept
    save_array(path, now)
    return now
