"""Mixup (arXiv 1710.09412): training on convex combinations of two images and of their labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def mixup(x: Tensor, y: Tensor, *, classes: int, alpha: float, seed: int) -> tuple[Tensor, Tensor]:
    """share * x + (1 - share) * x of another, and (B, K) shares of the classes.

    One share a batch, drawn from Beta(alpha, alpha), and one permutation of the batch, as in
    Rice et al. 2020 (arXiv 2002.11569, alpha 1.4). Cross-entropy against the shares of the classes is
    share * CE(y) + (1 - share) * CE(y of the other), so an attack on it maximises the mixed loss.
    """
    rng = np.random.default_rng(seed)
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(y))).to(y.device)
    labels = F.one_hot(y, classes).to(x.dtype)
    return (
        torch.lerp(x[other], x, share),
        torch.lerp(labels[other], labels, share),
    )
