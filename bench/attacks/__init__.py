"""ATTACKS: name -> what runs and what it costs. A new attack is a function and a line here.

The contract, tested for every entry: `attack(problem, **parameters) -> x_adv`, x float32 in [0, 1],
(B, C, H, W), logits out; the result has the same shape, is detached and lies inside the ball and the
box; the model's mode, parameter gradients and BatchNorm statistics are left as found; randomness comes
from the problem's streams alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from bench.attacks.apgd import apgd, apgd_t
from bench.attacks.cascade import diverse, near_boundary, near_targets, probability_margin
from bench.attacks.fab import fab, fab_t
from bench.attacks.fmn import fmn
from bench.attacks.pgd import fgsm, pgd
from bench.attacks.problem import Problem, Search
from bench.attacks.spsa import spsa
from bench.attacks.square import square
from bench.schema import AttackSpec

__all__ = [
    "ATTACKS", "ENGINE_VERSION", "Attack", "Problem", "Search", "apgd", "apgd_t", "attack_cost", "fab",
    "fab_t", "fgsm", "fmn", "pgd", "spsa", "square",
]  # fmt: skip

# Part of a record's identity: raised when any attack here may answer differently.
ENGINE_VERSION = "2"


def _by_gradients(
    passes: int = 3, *, steps: int = 1, restarts: int = 1, targets: int = 1, samples: int = 1,
    **_: Any,
) -> float:  # fmt: skip
    return passes * steps * restarts * targets * samples


def _by_walks(
    *, steps: int = 0, opening: int = 0, restarts: int = 1, targets: int = 1, candidates: int = 0,
    **_: Any,
) -> float:  # fmt: skip
    """A walk looks once more than it steps."""
    return 1 + 2 * candidates + 3 * restarts * targets * (opening + steps + 1)


def _by_nearness(
    *, probes: int = 5, opening: int = 7, steps: int = 8, reach: float = 0.1, restarts: int = 7,
    long_opening: int = 10, long_steps: int = 45, close: float = 0.03, again: int = 20,
    apgd_steps: int = 100, targets: int = 9, queries: int = 5000,
) -> float:  # fmt: skip
    """Of standing images about so many are near as `reach` and `close` are eps."""
    long = 3 * (long_opening + long_steps + 1)
    autoattack = apgd_steps * (3 + 7 * targets) + queries
    near, nearest = min(1.0, reach) * restarts * long, min(1.0, close) * (again * long + autoattack)
    return 1 + 3 * probes * (opening + steps + 1) + near + nearest


@dataclass(frozen=True)
class Attack:
    """A function under the contract, and about what an image costs that stays robust."""

    function: Callable[..., Tensor]  # (problem, **parameters) -> (B, C, H, W)
    # **parameters -> forward passes; a backward pass counts as two.
    cost: Callable[..., float] = _by_gradients
    # It looks for the nearest misclassified point: the radius does not count, and what it finds may
    # lie anywhere in the box.
    minimum_norm: bool = False
    least_classes: int = 2  # below, its loss is not defined
    # In pyautoattack: module, class, and settings that ours has not.
    published: tuple[str, str, Mapping[str, Any]] | None = None
    settings: str = (
        ""  # the name of its settings in AutoAttack's interface, where it is part of that
    )


ATTACKS: dict[str, Attack] = {
    "fgsm": Attack(fgsm),
    "pgd": Attack(pgd),
    "apgd-ce": Attack(
        apgd, published=("autopgd_base", "APGDAttack", {"loss": "ce"}), settings="apgd",
    ),
    # For fewer than four classes, where the targeted DLR loss is not defined.
    "apgd-margin": Attack(
        partial(apgd, loss="margin"), published=("autopgd_base", "APGDAttack", {"loss": "dlr"}),
    ),
    "apgd-dlr": Attack(partial(apgd, loss="dlr"), least_classes=3, settings="apgd"),
    "apgd-t": Attack(
        apgd_t, least_classes=4, published=("autopgd_base", "APGDAttack_targeted", {}),
        settings="apgd_targeted",
    ),
    "fab": Attack(fab, partial(_by_gradients, 4), settings="fab"),
    "fab-t": Attack(
        fab_t, partial(_by_gradients, 4), published=("fab_pt", "FABAttack_PT", {"targeted": True}),
        settings="fab",
    ),
    "square": Attack(
        square, lambda queries=5000, restarts=1, **_: queries * restarts,
        published=("square", "SquareAttack", {"resc_schedule": False}), settings="square",
    ),
    "spsa": Attack(spsa, lambda steps=100, samples=256, **_: steps * (2 * samples + 1)),
    "fmn": Attack(fmn, minimum_norm=True),
    "diverse": Attack(diverse, _by_walks),
    "near-targets": Attack(near_targets, _by_walks),
    "probability-margin": Attack(probability_margin, _by_walks),
    "near-boundary": Attack(near_boundary, _by_nearness),
}  # fmt: skip


def attack_cost(spec: AttackSpec) -> float:
    """Rough cost of a specification for an image that stays robust, in forward passes."""
    return float(ATTACKS[spec.name].cost(**spec.params))
