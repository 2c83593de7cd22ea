"""Reasons to doubt a number: checks of a model and of an evaluation, each with its values.

After AutoAttack's flags (Croce & Hein 2020, arXiv 2003.01690) and Carlini et al. 2019,
arXiv 1902.06705. B images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.attacks.losses import cross_entropy
from bench.attacks.pgd import Model, frozen, logits_and_gradient
from bench.schema import ColumnOutcome, Flag

IMAGES = 64  # enough to see each of these; a flag is about the model, not about accuracy


def model_flags(model: Model, x: Tensor, y: Tensor) -> list[Flag]:
    """What can be seen of a model on a few clean images x (B, C, H, W), y (B,)."""
    x, y = x[:IMAGES], y[:IMAGES]
    found: list[Flag] = []
    if isinstance(model, nn.Module) and any(m.training for m in model.modules()):
        found.append(
            Flag(name="train-mode", message="The model is in train mode: call model.eval() first.")
        )
    with torch.no_grad():
        first, second = model(x), model(x)
    finite = torch.isfinite(first).all(1)
    if not finite.all():
        found.append(
            Flag(
                name="non-finite-logits",
                message="Some logits are NaN or infinite; such images count as broken.",
                values={"images": int((~finite).sum()), "of": len(x)},
            )
        )
    moved = (first - second).abs().nan_to_num().amax().item()
    if moved > 1e-5 * (1 + first.abs().nan_to_num().amax().item()):
        found.append(
            Flag(
                name="randomised",
                message="Two passes over the same images differ: attacks need expectations over "
                "randomness, and one pass does not judge.",
                values={"largest_difference": round(moved, 6)},
            )
        )
    sums = first.sum(1)
    if bool((first >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
        found.append(
            Flag(
                name="probabilities",
                message="The outputs sum to 1: return logits, softmax hides the gradient.",
            )
        )
    found += _vanishing_gradients(model, x, y)
    if first.shape[1] < 4:
        found.append(
            Flag(
                name="few-classes",
                message="The DLR losses need 3 or 4 classes; the margin replaces them.",
                values={"classes": first.shape[1]},
            )
        )
    return found


def _vanishing_gradients(model: Model, x: Tensor, y: Tensor) -> list[Flag]:
    with frozen(model):
        _, _, grad = logits_and_gradient(model, x, y, cross_entropy)
    zero = grad.flatten(1).abs().amax(1) == 0
    share = zero.double().mean().item()
    if share <= 0.1:
        return []
    return [
        Flag(
            name="zero-gradients",
            message="The gradient vanishes on more than 10 % of the images: gradient attacks see "
            "nothing there, and a high number may be masking.",
            values={"share": round(share, 4), "images": len(x)},
        )
    ]


def outcome_flags(columns: Mapping[str, ColumnOutcome], clean: int, n: int, k: int) -> list[Flag]:
    """What the counts of an evaluation say; clean of n images were right, k classes."""
    found: list[Flag] = []
    if clean <= n / k:
        found.append(
            Flag(
                name="chance-level",
                message="Clean accuracy is not above chance.",
                values={"clean": clean, "n": n, "classes": k},
            )
        )
    broken = {name: sum(o.broken for o in c.outcomes) for name, c in columns.items()}
    if {"fgsm", "pgd20"} <= set(broken) and broken["pgd20"] < broken["fgsm"]:
        found.append(
            Flag(
                name="one-step-stronger",
                message="One step breaks more than twenty: a sign of masked gradients.",
                values={"fgsm": broken["fgsm"], "pgd20": broken["pgd20"]},
            )
        )
    for name, column in columns.items():
        square = sum(o.broken for o in column.outcomes if o.spec.name == "square")
        if square > 0.002 * n:
            found.append(
                Flag(
                    name="square-breaks-more",
                    message=f"{name}: the black-box Square attack broke images that every white-box "
                    "attack had left: a sign of masked gradients.",
                    values={"square": square, "n": n},
                )
            )
    return found
