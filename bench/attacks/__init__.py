"""ATTACKS: name -> attack(model, x, y, threat, *, streams, **parameters) -> x_adv.

The contract, tested for every entry: x float32 in [0, 1], (B, C, H, W), logits out; the result has
the same shape, is detached and lies inside the ball and the box; the model's mode, parameter gradients
and BatchNorm statistics are left as found; randomness comes from `streams` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from bench.attacks.apgd import apgd, apgd_t
from bench.attacks.fab import fab, fab_t
from bench.attacks.fmn import fmn
from bench.attacks.pgd import fgsm, pgd
from bench.attacks.spsa import spsa
from bench.attacks.square import square

__all__ = [
    "ATTACKS", "ENGINE_VERSION", "MINIMUM_NORM", "apgd", "apgd_t", "fab", "fab_t", "fgsm", "fmn", "pgd",
    "spsa", "square",
]  # fmt: skip

# Part of a record's identity: raised when any attack here may answer differently.
ENGINE_VERSION = "2"

ATTACKS: dict[str, Callable[..., Tensor]] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "apgd-ce": apgd,
    "apgd-margin": partial(apgd, loss="margin"),
    "apgd-dlr": partial(apgd, loss="dlr"),
    "apgd-t": apgd_t,
    "fab": fab,
    "fab-t": fab_t,
    "square": square,
    "spsa": spsa,
}

# Attacks with the same call whose result may lie anywhere in the box: they look for the nearest
# misclassified point, and the threat's radius does not count.
MINIMUM_NORM: dict[str, Callable[..., Tensor]] = {"fmn": fmn}
