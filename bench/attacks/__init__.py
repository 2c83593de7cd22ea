"""ATTACKS: name -> attack(model, x, y, threat, *, streams, **parameters) -> x_adv.

The contract, tested for every entry: x float32 in [0, 1], (B, C, H, W), logits out; the result has
the same shape, is detached and lies inside the ball and the box; the model's mode, parameter gradients
and BatchNorm statistics are left as found; randomness comes from `streams` alone.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bench.attacks.pgd import fgsm, pgd

__all__ = ["ATTACKS", "fgsm", "pgd"]

ATTACKS: dict[str, Callable[..., Tensor]] = {
    "fgsm": fgsm,
    "pgd": pgd,
}
