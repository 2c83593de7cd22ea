"""The published AutoAttack (pyautoattack), attack by attack: the engine ours is compared with.

Its own driver cannot resume and writes its warnings to a log, so the attack classes are driven here.
Its random numbers come from torch's global generator, seeded at each call: the outcome depends on the
batch, unlike that of our attacks.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.attacks.losses import margin
from bench.attacks.pgd import Model, frozen
from bench.schema import AttackSpec, InvalidInput, ThreatModel

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def version() -> str:
    """`pyautoattack 0.2.0`."""
    return f"pyautoattack {importlib.metadata.version('pyautoattack')}"


def _silent() -> logging.Logger:
    logger = logging.getLogger("bench.reference.silent")
    logger.disabled = True
    return logger


def _common(threat: ThreatModel, seed: int, x: Tensor) -> dict[str, Any]:
    return {
        "eps": threat.epsilon,
        "norm": _NORMS[threat.norm],
        "seed": seed,
        "device": x.device,
        "verbose": False,
    }


def _apgd_ce(
    model: Model, common: dict[str, Any], *, steps: int, restarts: int, large_steps: bool = False
) -> Any:
    from pyautoattack.autopgd_base import APGDAttack

    return APGDAttack(
        model, n_iter=steps, n_restarts=restarts, loss="ce", eot_iter=1, rho=0.75,
        use_largereps=large_steps, logger=_silent(), **common,
    )  # fmt: skip


def _apgd_margin(model: Model, common: dict[str, Any], *, steps: int, restarts: int) -> Any:
    """For fewer than four classes, where the targeted DLR loss is not defined."""
    attack = _apgd_ce(model, common, steps=steps, restarts=restarts)
    attack.loss = "dlr"
    attack.dlr_loss = margin
    return attack


def _apgd_t(
    model: Model,
    common: dict[str, Any],
    *,
    steps: int,
    restarts: int,
    targets: int,
    large_steps: bool = False,
) -> Any:
    from pyautoattack.autopgd_base import APGDAttack_targeted

    return APGDAttack_targeted(
        model, n_iter=steps, n_restarts=restarts, n_target_classes=targets, eot_iter=1, rho=0.75,
        use_largereps=large_steps, logger=_silent(), **common,
    )  # fmt: skip


def _fab_t(model: Model, common: dict[str, Any], *, steps: int, restarts: int, targets: int) -> Any:
    from pyautoattack.fab_pt import FABAttack_PT

    return FABAttack_PT(
        model, n_iter=steps, n_restarts=restarts, n_target_classes=targets, targeted=True, **common
    )


def _square(
    model: Model, common: dict[str, Any], *, queries: int, p_init: float, restarts: int
) -> Any:
    from pyautoattack.square import SquareAttack

    return SquareAttack(
        model, n_queries=queries, p_init=p_init, n_restarts=restarts, resc_schedule=False, **common
    )


REFERENCE_ATTACKS: dict[str, Callable[..., Any]] = {
    "apgd-ce": _apgd_ce,
    "apgd-margin": _apgd_margin,
    "apgd-t": _apgd_t,
    "fab-t": _fab_t,
    "square": _square,
}


def reference_attack(
    spec: AttackSpec, model: Model, x: Tensor, y: Tensor, threat: ThreatModel, *, seed: int
) -> Tensor:
    """Runs one attack of pyautoattack on x (B, C, H, W) in [0, 1]; returns the same shape, detached.

    Global random state and parameter gradients are left as found.
    """
    if spec.name not in REFERENCE_ATTACKS:
        raise InvalidInput(f"the reference engine has no attack named {spec.name!r}")
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), frozen(model):
        attack = REFERENCE_ATTACKS[spec.name](model, _common(threat, seed, x), **spec.params)
        return attack.perturb(x.clone(), y.clone()).detach()
